import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { mannWhitney } from './statistics.ts';

describe('the Mann–Whitney test', () => {
  it('gives the exact probability of samples that are apart', () => {
    // Two of the 20 ways to deal six values into threes.
    expect(mannWhitney([1, 2, 3], [4, 5, 6])).toBeCloseTo(2 / 20, 12);
    expect(mannWhitney([4, 5, 6], [1, 2, 3])).toBeCloseTo(2 / 20, 12);
  });

  it('finds nothing in samples that are the same', () => {
    expect(mannWhitney([5, 5, 5], [5, 5, 5])).toBe(1);
    expect(mannWhitney([1, 4, 5, 8], [2, 3, 6, 7])).toBeGreaterThan(0.9);
  });

  it('says nothing of no sample', () => expect(mannWhitney([], [1])).toBeNaN());

  it('is a probability, whichever sample comes first', () => {
    const values = fc.array(fc.integer({ min: 0, max: 20 }), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(values, values, (one, other) => {
        const p = mannWhitney(one, other);
        expect(p).toBeGreaterThan(0);
        expect(p).toBeLessThanOrEqual(1);
        expect(mannWhitney(other, one)).toBeCloseTo(p, 12);
      }),
    );
  });
});
