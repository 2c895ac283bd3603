import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ascending } from './ascending.ts';

describe('ascending', () => {
  it('yields as sorting would', () => {
    fc.assert(
      fc.property(fc.array(fc.integer()), (keys) => {
        const yielded = [...ascending(keys.map((key) => ({ key })))].map(({ key }) => key);
        expect(yielded).toEqual(keys.toSorted((a, b) => a - b));
      }),
    );
  });
});
