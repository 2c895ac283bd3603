import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SECOND } from '../core/ids.ts';
import type { Arrival } from '../sim/arrivals.ts';
import type { Arrivals, LoadShape, PlannedConversation } from './plan.ts';
import { plan, zipfWeights } from './plan.ts';

const SHAPE: LoadShape = {
  seed: 1,
  arrivals: { kind: 'poisson', perSecond: 10 },
  models: zipfWeights(['a', 'b', 'c'], 1),
  tenants: [{ name: 'default', weight: 1 }],
  durationMicros: null,
  requests: 4_000,
  turns: { least: 1, most: 1 },
  thinkMicros: 0,
  promptTokens: { least: 10, most: 20 },
  outputTokens: { least: 5, most: 9 },
  cancelShare: 0,
  batchShare: 0,
};
const planned = (rest: Partial<LoadShape> = {}): PlannedConversation[] => [...plan({ ...SHAPE, ...rest })];
const share = <T>(all: readonly T[], is: (one: T) => boolean): number => all.filter(is).length / all.length;
const gapsOf = (all: readonly PlannedConversation[]): number[] =>
  all.slice(1).map(({ startMicros }, index) => startMicros - (all[index]?.startMicros ?? 0));
const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
const variation = (values: readonly number[]): number =>
  Math.sqrt(mean(values.map((value) => (value - mean(values)) ** 2))) / mean(values);

describe('a plan', () => {
  it('is the same for the same seed, and another for another', () => {
    expect(planned()).toEqual(planned());
    expect(planned({ seed: 2 })).not.toEqual(planned());
  });

  it('keeps models and tenants when only the arrivals or the lengths change', () => {
    const names = (rest: Partial<LoadShape>): string[] =>
      planned({ requests: 200, ...rest }).map(({ model, tenant }) => `${model}/${tenant}`);
    const tenants = ['x', 'y'].map((name) => ({ name, weight: 1 }));
    const usual = names({ tenants });
    expect(names({ tenants, arrivals: { kind: 'gamma', perSecond: 3, variation: 2 } })).toEqual(usual);
    expect(names({ tenants, outputTokens: { least: 1, most: 90 }, thinkMicros: SECOND })).toEqual(usual);
  });

  it('comes at the rate that was asked for, all turns counted', () => {
    const all = planned({ turns: { least: 1, most: 3 } });
    const requests = all.reduce((sum, { turns }) => sum + turns.length, 0);
    expect(requests).toBe(4_000);
    expect((requests / (all.at(-1)?.startMicros ?? 0)) * SECOND).toBeCloseTo(10, -0.2);
  });

  it('has gaps without memory, in bursts, or even ones', () => {
    expect(variation(gapsOf(planned()))).toBeCloseTo(1, 0.9);
    const gamma = (of: number): number[] =>
      gapsOf(planned({ arrivals: { kind: 'gamma', perSecond: 10, variation: of } }));
    expect(variation(gamma(3))).toBeGreaterThan(2.4);
    expect(variation(gamma(0.2))).toBeLessThan(0.25);
    expect(mean(gamma(3)) / SECOND).toBeCloseTo(0.1, 1.5);
  });

  it('draws models by Zipf’s law, tenants evenly, and shares as asked', () => {
    const tenants = ['x', 'y'].map((name) => ({ name, weight: 1 }));
    const all = planned({ tenants, batchShare: 0.25, cancelShare: 0.1 });
    expect(share(all, ({ model }) => model === 'a')).toBeCloseTo(6 / 11, 1.3);
    expect(share(all, ({ model }) => model === 'c')).toBeCloseTo(2 / 11, 1.3);
    expect(share(all, ({ tenant }) => tenant === 'x')).toBeCloseTo(0.5, 1.3);
    expect(share(all, ({ priority }) => priority === 'batch')).toBeCloseTo(0.25, 1.3);
    const turns = all.flatMap((one) => one.turns);
    expect(share(turns, ({ cancelAfter }) => cancelAfter !== null)).toBeCloseTo(0.1, 1.3);
  });

  it('keeps to its ends, whatever was asked for', () => {
    const range = fc.tuple(fc.integer({ min: 1, max: 40 }), fc.nat(40)).map(([least, more]) => ({
      least,
      most: least + more,
    }));
    const arrivals = fc.constantFrom<Arrivals>(
      { kind: 'closed', concurrency: 3 },
      { kind: 'poisson', perSecond: 100 },
      { kind: 'gamma', perSecond: 100, variation: 2 },
    );
    const shapes = fc.record({
      arrivals,
      turns: range,
      outputTokens: range,
      requests: fc.integer({ min: 1, max: 200 }),
    });
    fc.assert(
      fc.property(shapes, fc.nat(), ({ turns, outputTokens, ...rest }, seed) => {
        const all = planned({ ...rest, turns, outputTokens, seed, cancelShare: 0.5, durationMicros: 2 * SECOND });
        expect(all.reduce((sum, one) => sum + one.turns.length, 0)).toBeLessThanOrEqual(rest.requests);
        for (const one of all) {
          expect(one.startMicros).toBeLessThan(2 * SECOND);
          expect(one.turns.length).toBeLessThanOrEqual(turns.most);
          for (const { maxTokens, cancelAfter } of one.turns) {
            expect(maxTokens).toBeGreaterThanOrEqual(outputTokens.least);
            expect(maxTokens).toBeLessThanOrEqual(outputTokens.most);
            if (cancelAfter !== null) expect(cancelAfter).toBeLessThanOrEqual(Math.max(1, maxTokens - 1));
          }
        }
        expect(gapsOf(all).every((gap) => gap >= 0)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });

  it('waits exponentially between the turns, and never before the first', () => {
    const all = planned({ turns: { least: 3, most: 3 }, thinkMicros: 2 * SECOND });
    expect(all.every(({ turns }) => turns[0]?.thinkMicros === 0)).toBe(true);
    expect(mean(all.flatMap(({ turns }) => turns.slice(1).map((one) => one.thinkMicros))) / SECOND).toBeCloseTo(2, 0.5);
  });
});

describe('a plan by a trace', () => {
  const arrival = (at: number, model: string): Arrival => ({
    at,
    model,
    tenant: 't',
    promptTokens: 30,
    outputTokens: 4,
  });
  const trace = (...all: Arrival[]): LoadShape['arrivals'] => ({ kind: 'trace', perSecond: null, arrivals: () => all });

  it('takes times and lengths from it, and maps its models to the given ones as they come', () => {
    const arrivals = trace(arrival(0, 'q'), arrival(7, 'r'), arrival(9, 'q'), arrival(11, 's'), arrival(12, 'u'));
    const all = planned({ arrivals, promptTokens: null, outputTokens: null });
    expect(all.map(({ startMicros, model }) => [startMicros, model])).toEqual([
      [0, 'a'],
      [7, 'b'],
      [9, 'a'],
      [11, 'c'],
      [12, 'a'],
    ]);
    expect(all[0]?.turns).toEqual([{ thinkMicros: 0, promptTokens: 30, maxTokens: 4, cancelAfter: null }]);
  });

  it('can be played at another rate', () => {
    const arrivals: Arrivals = {
      kind: 'trace',
      perSecond: 2,
      arrivals: () => Array.from({ length: 10 }, (_, index) => arrival((index + 1) * 1_000, 'q')),
    };
    expect(planned({ arrivals }).at(-1)?.startMicros).toBe(5 * SECOND);
  });

  it('draws a model where the trace names none', () => {
    const arrivals = trace(...Array.from({ length: 60 }, (_, at) => arrival(at, 'model-000')));
    expect(new Set(planned({ arrivals }).map(({ model }) => model))).toEqual(new Set(['a', 'b', 'c']));
  });
});
