import { describe, expect, it } from 'vitest';
import type { Shape } from './generate.ts';
import { generate } from './generate.ts';

const SHAPE: Shape = {
  requests: 20_000,
  perSecond: 10,
  pattern: 'poisson',
  models: 50,
  tenants: 5,
  zipf: 1,
  seed: 3,
  meanPromptTokens: 700,
  meanOutputTokens: 300,
};
const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

describe('a generated trace', () => {
  it.each(['poisson', 'gamma', 'on-off', 'diurnal'] as const)('%s: has the wanted rate and lengths', (pattern) => {
    const all = [...generate({ ...SHAPE, pattern })];
    const last = all.at(-1)?.at ?? 0;
    expect(last / 1e6).toBeGreaterThan(1_800);
    expect(last / 1e6).toBeLessThan(2_200);
    expect(mean(all.map(({ promptTokens }) => promptTokens))).toBeCloseTo(700, -1.5);
    expect(mean(all.map(({ outputTokens }) => outputTokens))).toBeCloseTo(300, -1.5);
    expect(all.every(({ at }, index) => at >= (all[index - 1]?.at ?? 0))).toBe(true);
  });

  it('gamma: comes in bursts', () => {
    const gapsOf = (pattern: Shape['pattern']): number[] => {
      const all = [...generate({ ...SHAPE, pattern })];
      return all.slice(1).map(({ at }, index) => at - (all[index]?.at ?? 0));
    };
    const variation = (gaps: readonly number[]): number => {
      const usual = mean(gaps);
      return Math.sqrt(mean(gaps.map((gap) => (gap - usual) ** 2))) / usual;
    };
    expect(variation(gapsOf('poisson'))).toBeCloseTo(1, 1);
    expect(variation(gapsOf('gamma'))).toBeCloseTo(2, 0.5);
  });

  it('on-off: is silent for three quarters of each minute', () => {
    for (const { at } of generate({ ...SHAPE, pattern: 'on-off' })) expect((at / 1e6) % 60).toBeLessThan(15);
  });

  it('is popular by Zipf’s law', () => {
    const counts = new Map<string, number>();
    for (const { model } of generate(SHAPE)) counts.set(model, (counts.get(model) ?? 0) + 1);
    const [first = 0, second = 0] = [...counts.values()].toSorted((a, b) => b - a);
    expect(first / second).toBeCloseTo(2, 0);
  });

  it('is the same for the same seed, and another for another', () => {
    const few = { ...SHAPE, requests: 50 };
    expect([...generate(few)]).toEqual([...generate(few)]);
    expect([...generate(few)]).not.toEqual([...generate({ ...few, seed: 4 })]);
  });
});
