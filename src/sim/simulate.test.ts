import { describe, expect, it } from 'vitest';
import { CLUSTER } from '../../test/support/cluster.ts';
import type { Arrival } from './arrivals.ts';
import type { Column } from './columns.ts';
import { berthSetting, COLUMNS } from './columns.ts';
import { generate, modelName } from './generate.ts';
import type { SimResult, SimSetting } from './simulate.ts';
import { simulate } from './simulate.ts';

const MODELS = 12;
const arrivals = (requests: number, perSecond: number): Iterable<Arrival> =>
  generate({
    requests,
    perSecond,
    pattern: 'gamma',
    models: MODELS,
    tenants: 3,
    zipf: 0.5,
    seed: 5,
    meanPromptTokens: 500,
    meanOutputTokens: 120,
  });
const settingOf = (column: Column): SimSetting => ({
  ...berthSetting(CLUSTER, {
    column,
    gpus: 2,
    sloScale: 1,
    models: Array.from({ length: MODELS }, (_, index) => modelName(index)),
  }),
  wantsDigest: true,
});
const run = (column: Column): SimResult => simulate(arrivals(300, 2), settingOf(column));

describe('the simulator', () => {
  it('serves one request in the time that its costs say', () => {
    const one: Arrival = { at: 5, model: 'model-000', tenant: 't', promptTokens: 100, outputTokens: 11 };
    const { ttft, endToEnd, switches, busyMicros } = simulate([one], settingOf('honest'));
    // 14 GB at 16 GB/s, then a prompt of 100 tokens; then ten steps of one sequence.
    expect(ttft.p50).toBe(875_000 + 10_000 + 2_000);
    const steps = Array.from({ length: 10 }, (_, k) => Math.floor(10_000 + 0.2 * (101 + k) + 100));
    expect(endToEnd.p50).toBe(887_000 + steps.reduce((sum, micros) => sum + micros, 0));
    expect(switches).toBe(1);
    expect(busyMicros).toBe(endToEnd.p50 - 875_000);
  });

  it.each(COLUMNS)('%s: every request ends, and its time is counted once', (column) => {
    const result = run(column);
    expect(result.requests).toBe(300);
    expect(result.finished + result.dropped).toBe(300);
    expect(result.busyMicros).toBeLessThanOrEqual(2 * result.makespanMicros);
    expect(result.strict).toBeLessThanOrEqual(result.ttftOnTime);
  });

  it('gives the same decisions for the same seed', () => {
    expect(run('honest').digest).toBe(run('honest').digest);
  });

  it('tells the node nothing of how long an answer will be', () => {
    const told = (outputTokens: number | null): string[] => {
      const seen: string[] = [];
      const all = [...arrivals(60, 2)].map((one) => ({ ...one, outputTokens: outputTokens ?? one.outputTokens }));
      const onDecision: SimSetting['onDecision'] = (_device, _now, events) => {
        for (const event of events) if (event.type === 'requestArrived') seen.push(JSON.stringify(event));
      };
      simulate(all, { ...settingOf('compat'), onDecision });
      return seen;
    };
    expect(told(50)).toEqual(told(null));
  });
});
