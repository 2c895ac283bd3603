import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { argmax, logSumExp, topTokens } from './sampling.ts';

const rows = fc
  .array(fc.float({ min: -50, max: 50, noNaN: true }), { minLength: 1, maxLength: 60 })
  .map((values) => Float32Array.from(values));

describe('rows of logits', () => {
  it('argmax and topTokens agree with sorting, ties to the lower token', () => {
    fc.assert(
      fc.property(rows, fc.integer({ min: 1, max: 8 }), (row, count) => {
        const sorted = [...row.keys()].toSorted((a, b) => (row[b] as number) - (row[a] as number));
        return argmax(row) === sorted[0] && topTokens(row, count).join() === sorted.slice(0, count).join();
      }),
    );
  });

  it('log-probabilities add up to one, for large logits too', () => {
    fc.assert(
      fc.property(rows, fc.constantFrom(0, 1000), (row, shift) => {
        const shifted = row.map((logit) => logit + shift);
        const total = logSumExp(shifted);
        const sum = shifted.reduce((all, logit) => all + Math.exp(logit - total), 0);
        return Math.abs(sum - 1) < 1e-3;
      }),
    );
  });

  it('survives masked tokens', () => {
    const row = Float32Array.from([-Infinity, 2, -Infinity, 1]);
    expect(argmax(row)).toBe(1);
    expect(topTokens(row, 2)).toEqual([1, 3]);
    expect(logSumExp(row)).toBeCloseTo(Math.log(Math.E ** 2 + Math.E), 6);
  });
});
