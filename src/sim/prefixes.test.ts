import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Arrival } from './arrivals.ts';
import { prefixHits } from './prefixes.ts';

const asked = (...prompts: readonly (readonly number[])[]): Arrival[] =>
  prompts.map((blocks, at) => ({ at, model: 'm', tenant: 't', promptTokens: 1, outputTokens: 1, blocks }));

describe('prefixes', () => {
  it('are at hand up to the first block that is not', () => {
    const { hits, blocks, firsts } = prefixHits(asked([1, 2, 3], [1, 9, 3], [1, 2, 3]), 100, 'lru');
    expect({ hits, blocks, firsts }).toEqual({ hits: 4, blocks: 9, firsts: 4 });
  });

  it('that many ask for outlive those of one long prompt', () => {
    const often = [1, 2];
    const long = Array.from({ length: 8 }, (_, index) => 100 + index);
    const arrivals = asked(often, often, often, long, often);
    expect(prefixHits(arrivals, 8, 'lru').hits).toBe(4);
    expect(prefixHits(arrivals, 8, 'greedy-dual').hits).toBe(6);
  });

  it('never are at hand more often than they were seen before', () => {
    const prompts = fc.array(fc.array(fc.nat(9), { maxLength: 6 }), { maxLength: 40 });
    fc.assert(
      fc.property(
        prompts,
        fc.integer({ min: 1, max: 12 }),
        fc.constantFrom('lru' as const, 'greedy-dual' as const),
        (all, room, policy) => {
          const { hits, blocks, firsts } = prefixHits(
            asked(...all.map((blocks) => [...new Set(blocks)])),
            room,
            policy,
          );
          expect(hits).toBeLessThanOrEqual(blocks - firsts);
        },
      ),
    );
  });
});
