import { describe, expect, it } from 'vitest';
import { SCENARIOS } from './fair-scenarios.ts';
import { seeded } from './random.ts';

const options = (count: number) => ({
  tenants: Array.from({ length: count }, (_, index) => `t${index}`),
  millis: 20_000,
  capacity: 1_000,
  random: seeded(3),
});
const arrivals = (name: string, count = 2) =>
  SCENARIOS.find((scenario) => scenario.name === name)?.arrivals(options(count)) ?? [];
/** What a tenant asks for, in parts of its share. */
const asked = (name: string, tenant: string, count = 2): number =>
  arrivals(name, count)
    .filter((one) => one.tenant === tenant)
    .reduce((sum, { promptTokens, outputTokens }) => sum + promptTokens + 2 * outputTokens, 0) /
  ((20 * 1_000) / count);

describe('the scenarios', () => {
  it.each(SCENARIOS.map(({ name }) => name))(
    '%s comes in the order of time, from all tenants, the same each time',
    (name) => {
      const all = arrivals(name, 8);
      expect(all.map(({ at }) => at)).toEqual(all.map(({ at }) => at).toSorted((a, b) => a - b));
      expect(new Set(all.map(({ tenant }) => tenant)).size).toBe(8);
      expect(all.at(-1)?.at).toBeLessThan(20_000);
      expect(arrivals(name, 8)).toEqual(all);
    },
  );

  it('overload asks for more than all of the device, one for four times as much as the other', () => {
    expect(asked('overload', 't0')).toBeCloseTo(1.5, 1);
    expect(asked('overload', 't1')).toBeCloseTo(6, 1);
    expect(asked('overload', 't6', 8)).toBeCloseTo(1.5, 1);
  });

  it('those that are called modest ask for less than their share', () => {
    for (const { name, modest } of SCENARIOS)
      for (const index of [0, 1, 2, 3]) if (modest(index)) expect(asked(name, `t${index}`, 8)).toBeLessThan(0.6);
  });

  it('on/off is silent every other eighth', () => {
    const eighths = arrivals('on/off').flatMap(({ tenant, at }) => (tenant === 't0' ? [Math.floor(at / 2_500)] : []));
    expect([...new Set(eighths)]).toEqual([0, 2, 4, 6]);
  });

  it('short requests come more often than long ones, for as much service', () => {
    const all = arrivals('Poisson short/long');
    const of = (tenant: string): number => all.filter((one) => one.tenant === tenant).length;
    expect(of('t0')).toBeGreaterThan(2 * of('t1'));
    expect(asked('Poisson short/long', 't0') / asked('Poisson short/long', 't1')).toBeCloseTo(1, 0);
  });
});
