/**
 * Berth's core against other policies with nothing for free: refitted step times, KV moved at its real size over one link for each GPU,
 * no load hidden that no policy asked for. What each part of Berth is worth is shown by leaving it out. Last, an hour of a real service.
 */
import { SECOND } from '../src/core/ids.ts';
import type { Arrival } from '../src/sim/arrivals.ts';
import type { Column } from '../src/sim/columns.ts';
import { berthSetting } from '../src/sim/columns.ts';
import type { PolicyName, Stage, Workload } from '../src/sim/compare.ts';
import { runPolicy } from '../src/sim/compare.ts';
import { PEERS } from '../src/sim/peers/all.ts';
import type { Report } from '../src/sim/report.ts';
import type { SimModel, SimSetting } from '../src/sim/simulate.ts';
import { simulate } from '../src/sim/simulate.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { result } from './harness.ts';
import { azure, cluster, synth } from './lib/traces.ts';

export const about =
  'the simulated core against nine policies with nothing for free, its parts left out, and Azure’s trace';

const GPUS = 16;
const TROUBLED_PEERS: readonly PolicyName[] = ['aegaeon-2s', 'lru-by-count', 'static'];
const BARS: Readonly<Record<string, number>> = { '80-0.1': 97, '80-0.5': 90 };

export function run({ quick }: BenchArgs): Promise<BenchResult> {
  const hardware = cluster();
  const stage = (column: Column): Stage => ({ cluster: hardware, column, gpus: GPUS, sloScale: 1 });
  const traces = quick ? ['40-0.4'] : ['40-0.4', '40-0.7', '80-0.1', '80-0.5'];
  const rows: BenchRow[] = [];
  for (const trace of traces) {
    const work = synth(trace);
    for (const column of ['honest', 'resident'] as const)
      rows.push(...compared(`${trace}, ${column}`, work, stage(column), BARS[trace]));
  }
  for (const trace of quick ? [] : ['80-0.1', '80-0.5']) rows.push(...ablated(trace, synth(trace), stage('honest')));
  const real = azure(quick ? 1_000 : Infinity);
  rows.push(...compared('Azure, 200 models, resident', real, stage('resident')), ...tenancy(real, stage('resident')));
  rows.push(...troubled('Azure, 200 models, resident', real, stage('resident')));
  if (!quick) rows.push(...troubled('80-0.5, honest', synth('80-0.5'), stage('honest')));
  return Promise.resolve(result('simulate-honest', rows, { gpus: GPUS }));
}

const points = (share: number): number => Number((100 * share).toFixed(2));

function compared(name: string, work: Workload, stage: Stage, bar?: number): BenchRow[] {
  const berth = runPolicy('berth', work, stage);
  const what = { case: name };
  const own: BenchRow[] = [
    {
      ...what,
      metric: 'requests all in time',
      unit: '%',
      berth: points(berth.strict),
      ...(bar === undefined || !name.includes('honest') ? {} : { bar: `≥ ${bar}`, pass: points(berth.strict) >= bar }),
    },
    { ...what, metric: 'time-QoS', unit: '%', berth: points(berth.timeQos) },
    { ...what, metric: 'TTFT p50', unit: 's', berth: berth.ttft.p50 / 1e6 },
    { ...what, metric: 'TTFT p99', unit: 's', berth: berth.ttft.p99 / 1e6 },
    { ...what, metric: 'most KV held, of its room', unit: '%', berth: points(berth.peakKvShare) },
  ];
  return [...own, ...PEERS.flatMap((peer) => against(what, peer, berth, runPolicy(peer, work, stage)))];
}

function against(what: { readonly case: string }, name: PolicyName, berth: Report, peer: Report): BenchRow[] {
  const pair = (metric: string, unit: string, of: (report: Report) => number): BenchRow => ({
    ...what,
    metric: `${metric}, peer ${name}`,
    unit,
    berth: of(berth),
    peer: of(peer),
    ...(of(peer) > 0 ? { ratio: of(berth) / of(peer) } : {}),
  });
  return [
    pair('requests all in time', '%', ({ strict }) => points(strict)),
    pair('time-QoS', '%', ({ timeQos }) => points(timeQos)),
    pair('goodput', 'tokens/s', ({ goodput }) => Math.round(goodput)),
    pair('fairness gap', '%', ({ fairnessGap }) => points(fairnessGap)),
  ];
}

/** The same without one of its parts: `peer` is the whole. */
function ablated(trace: string, work: Workload, stage: Stage): BenchRow[] {
  const whole = berthSetting(stage.cluster, { ...stage, models: work.models });
  const { residency, models, goals, slo } = whole;
  const parts: readonly (readonly [string, SimSetting])[] = [
    ['no residency floor', { ...whole, residency: { ...residency, minimumStayMicros: 0 } }],
    // The core waits for nobody before it switches (a patience of 0): those who come during the floor gather, and one switch serves them all.
    ['no gathering: a model computes one request at a time', { ...whole, models: models.map(oneByOne) }],
    ['more gathering: a patience of 2 s', { ...whole, residency: { ...residency, patienceMicros: 2 * SECOND } }],
    [
      'no prewarm: no room for a model that comes',
      { ...whole, models: models.map((model) => ({ ...model, loadedBytes: whole.memoryBytes })) },
    ],
    ['no KV swap: computed again', { ...whole, keepsKv: false }],
    ['no goal tighter than the promise', { ...whole, goals: { ...goals, ttftMicros: slo.ttftMicros } }],
    ['no spill: each model at home only', { ...whole, spill: null }],
  ];
  const all = simulate(work.arrivals(), whole);
  return parts.map(([name, setting]) => ({
    case: `${trace}, honest, ${name}`,
    metric: 'requests all in time',
    unit: '%',
    berth: points(simulate(work.arrivals(), setting).strict),
    peer: points(all.strict),
  }));
}

const oneByOne = (model: SimModel): SimModel => ({ ...model, parallel: 1 });

/** The same faults for all: what they leave in time, and what they cost Berth. */
function troubled(name: string, work: Workload, stage: Stage): BenchRow[] {
  const under: Stage = { ...stage, faults: { seed: 1, rate: 1 } };
  const berth = runPolicy('berth', work, under);
  const what = { case: `${name}, usual faults` };
  return [
    { ...what, metric: 'requests lost to them', unit: '', berth: berth.faults?.requestsLost ?? 0 },
    { ...what, metric: 'tokens computed again', unit: '', berth: berth.faults?.recomputedTokens ?? 0 },
    ...TROUBLED_PEERS.map((peer) => ({
      ...what,
      metric: `all in time, peer ${peer}`,
      unit: '%',
      berth: points(berth.strict),
      peer: points(runPolicy(peer, work, under).strict),
    })),
  ];
}

/** So few that the service is short: only then does it matter who gets it. */
const SHORT_GPUS = 8;

/** The node is told one tenant instead of twenty: first come, first served. How is the worst off of those who don't flood it? */
function tenancy(work: Workload, stage: Stage): BenchRow[] {
  const arrivals = heavy(work);
  const setting = berthSetting(stage.cluster, { ...stage, gpus: SHORT_GPUS, models: work.models });
  const worst = (more: Pick<SimSetting, 'tenantTold'>): number => {
    const [, ...others] = simulate(arrivals(), { ...setting, ...more }).shareByTenant;
    return points(Math.min(...others));
  };
  return [
    {
      case: `Azure on ${SHORT_GPUS} GPUs, one of 20 tenants sends half of all`,
      metric: 'in time for the worst off of the others, peer first come, first served',
      unit: '%',
      berth: worst({}),
      peer: worst({ tenantTold: () => 'all' }),
    },
  ];
}

/** Every second request is the first tenant's. */
const heavy =
  (work: Workload): (() => Iterable<Arrival>) =>
  () =>
    (function* (): Generator<Arrival> {
      let index = 0;
      for (const arrival of work.arrivals()) yield index++ % 2 === 0 ? { ...arrival, tenant: 'tenant-00' } : arrival;
    })();
