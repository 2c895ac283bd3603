import { describe, expect, it } from 'vitest';
import { bursts, CLUSTER, MODELS } from '../../test/support/cluster.ts';
import type { Column } from './columns.ts';
import { berthSetting, COLUMNS } from './columns.ts';
import type { PolicyName } from './compare.ts';
import { runPolicy, workload } from './compare.ts';
import type { FaultSpec } from './faults.ts';
import { DeviceFaults, Faults } from './faults.ts';
import { PEERS } from './peers/all.ts';
import type { Report } from './report.ts';
import type { SimResult } from './simulate.ts';
import { simulate } from './simulate.ts';

const REQUESTS = 600;
const run = (faults: FaultSpec | null, column: Column = 'honest'): SimResult =>
  simulate(bursts(REQUESTS), {
    ...berthSetting(CLUSTER, { column, gpus: 2, sloScale: 1, models: MODELS, ...(faults === null ? {} : { faults }) }),
    wantsDigest: true,
  });

describe('faults', () => {
  it('of each kind strike, and afterwards every request has had its one end', () => {
    const total = { finished: 0, refused: 0, cancelled: 0, failed: 0 };
    const struck: Record<string, number> = {};
    for (let seed = 0; seed < 30; seed++) {
      // `simulate` throws where anything is left.
      const { requests, outcomes, faults, finished } = run({ seed, rate: 15 }, COLUMNS[seed % 3]);
      expect(requests).toBe(REQUESTS);
      expect(outcomes.finished).toBe(finished);
      expect(outcomes.finished + outcomes.refused + outcomes.cancelled + outcomes.failed).toBe(REQUESTS);
      expect(faults?.requestsLost).toBeLessThanOrEqual(outcomes.refused + outcomes.failed);
      for (const [kind, count] of Object.entries(faults ?? {})) struck[kind] = (struck[kind] ?? 0) + count;
      for (const [kind, count] of Object.entries(outcomes)) total[kind as keyof typeof total] += count;
    }
    // That one fails takes three deaths in a row: `crash.test.ts`.
    const { failed: _, ...others } = total;
    for (const [kind, count] of Object.entries({ ...struck, ...others })) expect(count, kind).toBeGreaterThan(10);
  });

  it('with another seed are others, and cost more the more there are', () => {
    expect(run({ seed: 1, rate: 5 }).digest).not.toBe(run({ seed: 2, rate: 5 }).digest);
    const strict = [null, 2, 30].map((rate) => run(rate === null ? null : { seed: 1, rate }).strict);
    expect(strict).toEqual(strict.toSorted((a, b) => b - a));
    expect(strict[0]).toBeGreaterThan(strict[2] as number);
  });

  it('so rare that none comes change no decision’s outcome', () => {
    const { digest: _, calls: _calls, events: _events, faults, ...rare } = run({ seed: 1, rate: 1e-9 });
    const { digest: _none, calls: _n, events: _e, faults: none, ...fine } = run(null);
    expect(none).toBeNull();
    expect(Object.values(faults ?? {}).every((count) => count === 0)).toBe(true);
    expect(rare).toEqual(fine);
  });

  it('strike at the same times whatever is asked of the other streams', () => {
    const times = (asked: number): number[] => {
      const faults = new Faults({ seed: 7, rate: 1 });
      const device = new DeviceFaults(faults, 1);
      for (let i = 0; i < asked; i++) void [device.nextLoad(), device.nextDelay(), faults.clientLeavesAfter()];
      const blows = device.blows();
      return Array.from({ length: 20 }, () => blows.next().value.at);
    };
    expect(times(100)).toEqual(times(0));
  });
});

describe.each(['berth', ...PEERS] as const)('%s under faults', (policy: PolicyName) => {
  const work = workload(() => bursts(REQUESTS));
  const under = (faults?: FaultSpec): Report =>
    runPolicy(policy, work, { cluster: CLUSTER, column: 'honest', gpus: 2, sloScale: 1, ...(faults && { faults }) });

  it('ends every request, the same each time, and serves fewer in time than without', () => {
    const result = under({ seed: 4, rate: 15 });
    expect(result.finished + result.dropped).toBe(REQUESTS);
    expect(under({ seed: 4, rate: 15 })).toEqual(result);
    expect((result.faults?.crashes ?? 0) + (result.faults?.hangs ?? 0)).toBeGreaterThan(0);
    expect(result.faults?.clientsLeft).toBeGreaterThan(5);
    expect(result.strict).toBeLessThan(under().strict);
  });
});
