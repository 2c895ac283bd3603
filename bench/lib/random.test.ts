import { expect, it } from 'vitest';
import { seeded } from './random.ts';

it('is the same for the same seed, and another for another', () => {
  const text = (seed: number): string => seeded(seed).words(40);
  expect(text(7)).toBe(text(7));
  expect(text(7)).not.toBe(text(8));
  expect(text(7).split(' ')).toHaveLength(40);
});

it('keeps to its ends, and to its mean', () => {
  const random = seeded(1);
  const all = Array.from({ length: 4_000 }, () => random.between(3, 5));
  expect(new Set(all)).toEqual(new Set([3, 4, 5]));
  const waits = Array.from({ length: 4_000 }, () => random.exponential(10));
  expect(Math.min(...waits)).toBeGreaterThanOrEqual(0);
  expect(waits.reduce((sum, wait) => sum + wait, 0) / waits.length).toBeCloseTo(10, -0.5);
});
