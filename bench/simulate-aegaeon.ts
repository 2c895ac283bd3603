/**
 * Berth's core against Aegaeon (SOSP'25) under the assumptions of Aegaeon's own simulator. First the simulator's published figures are
 * reproduced, then the policies are compared on the same GPUs, with tighter targets, and by how many GPUs each of them needs. Berth's
 * requests may leave their model's home GPU, which a node's can't: what that is worth is shown on the two largest traces.
 */
import { berthSetting, peerSetting } from '../src/sim/columns.ts';
import type { PolicyName, Stage, Workload } from '../src/sim/compare.ts';
import { runPolicy } from '../src/sim/compare.ts';
import { aegaeon } from '../src/sim/peers/aegaeon.ts';
import type { Report } from '../src/sim/report.ts';
import { simulate } from '../src/sim/simulate.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { result } from './harness.ts';
import { baseline, cluster, synth, SYNTHS } from './lib/traces.ts';

export const about = 'the simulated core against Aegaeon’s policy, by its own simulator’s assumptions';

const GPUS = 16;
/** Least GPUs with which all tokens could be in time if nothing had to be switched, by trace and scale of the targets. */
const BOUNDS: Readonly<Record<string, readonly [one: number, half: number, third: number]>> = {
  '16-0.1': [1, 2, 2],
  '16-0.5': [2, 3, 4],
  '40-0.1': [3, 4, 5],
  '40-0.4': [4, 6, 8],
  '40-0.7': [4, 7, 10],
  '80-0.1': [5, 8, 11],
  '80-0.5': [7, 12, 17],
};
const AT_HOME: readonly string[] = ['80-0.1', '80-0.5'];
const AEGAEONS: readonly PolicyName[] = ['aegaeon', 'aegaeon-2s', 'aegaeon-1s'];

export function run({ quick }: BenchArgs): Promise<BenchResult> {
  const traces = quick ? (['16-0.1', '40-0.4'] as const) : SYNTHS;
  const hardware = cluster();
  const stage = (sloScale: number): Stage => ({ cluster: hardware, column: 'compat', gpus: GPUS, sloScale });
  const rows = traces.flatMap((trace) => {
    const work = synth(trace);
    return [
      ...reproduced(trace, work, stage(1)),
      ...compared(trace, work, stage(1), 100),
      ...(AT_HOME.includes(trace) ? [atHome(trace, work, stage(1))] : []),
      ...compared(trace, work, stage(0.5), 99),
      ...compared(trace, work, stage(0.3), 99),
    ];
  });
  for (const trace of quick ? [] : (['40-0.4', '80-0.1'] as const)) rows.push(needed(trace, stage(1)));
  return Promise.resolve(result('simulate-aegaeon', rows, { gpus: GPUS }));
}

const points = (share: number): number => Number((100 * share).toFixed(2));

/** Our ports of their policies, beside what their simulator prints. */
function reproduced(trace: string, work: Workload, stage: Stage): BenchRow[] {
  const systems = [
    ['Aegaeon', 'aegaeon'],
    ['ServerlessLLM', 'serverless'],
    ['ServerlessLLM+', 'serverless+'],
  ] as const;
  return systems.flatMap(([system, policy]) => {
    const theirs = baseline(trace, system);
    const ours = runPolicy(policy, work, stage);
    const tokens = theirs.get('token_on_time') ?? Number.NaN;
    const ttft = theirs.get('ttft_p50_s') ?? Number.NaN;
    const seconds = ours.ttftOfFinished.p50 / 1e6;
    const what = { case: `${trace}, port of ${system}` };
    return [
      {
        ...what,
        metric: 'tokens on time',
        unit: '%',
        berth: points(ours.tokensOnTime),
        peer: points(tokens),
        bar: 'within 1 point',
        pass: Math.abs(ours.tokensOnTime - tokens) <= 0.01,
      },
      {
        ...what,
        metric: 'TTFT p50',
        unit: 's',
        berth: seconds,
        peer: ttft,
        ratio: seconds / ttft,
        bar: 'within 5 %',
        pass: Math.abs(seconds / ttft - 1) <= 0.05,
      },
    ];
  });
}

/** Both metrics always: all tokens of a request in time, and Aegaeon's share of time. The peer is the best of its three slices. */
function compared(trace: string, work: Workload, stage: Stage, bar: number): BenchRow[] {
  const berth = runPolicy('berth', work, stage);
  const peers = AEGAEONS.map((policy) => runPolicy(policy, work, stage));
  const best = (of: (report: Report) => number): number => points(Math.max(...peers.map(of)));
  const [one, half, third] = BOUNDS[trace] ?? [0, 0, 0];
  const bound = stage.sloScale === 1 ? one : stage.sloScale === 0.5 ? half : third;
  const isPossible = bound <= stage.gpus;
  const what = { case: `${trace}, targets × ${stage.sloScale}`, unit: '%' };
  const shipped = peers[0] as Report;
  return [
    {
      ...what,
      metric: `requests all in time (bound: ${bound} GPUs)`,
      berth: points(berth.strict),
      peer: best(({ strict }) => strict),
      ...(isPossible ? { bar: `≥ ${bar}`, pass: points(berth.strict) >= bar } : {}),
    },
    {
      ...what,
      metric: 'requests all in time, Aegaeon as shipped',
      berth: points(berth.strict),
      peer: points(shipped.strict),
    },
    { ...what, metric: 'time-QoS', berth: points(berth.timeQos), peer: best(({ timeQos }) => timeQos) },
    { ...what, metric: 'TTFT p50', unit: 's', berth: berth.ttft.p50 / 1e6, peer: shipped.ttft.p50 / 1e6 },
  ];
}

/** Each model on one GPU, as in a node; `peer` is the same with up to eight. */
function atHome(trace: string, work: Workload, stage: Stage): BenchRow {
  const whole = berthSetting(stage.cluster, { ...stage, models: work.models });
  return {
    case: `${trace}, targets × ${stage.sloScale}, no spill: each model at home only`,
    metric: 'requests all in time, peer: with spill',
    unit: '%',
    berth: points(simulate(work.arrivals(), { ...whole, spill: null }).strict),
    peer: points(simulate(work.arrivals(), whole).strict),
  };
}

const STRICT_GOAL = 0.99;

/** Fewest GPUs with 99 % of requests all in time: Berth's, and Aegaeon's with the best of many settings. */
function needed(trace: string, { cluster: hardware }: Stage): BenchRow {
  const work = synth(trace);
  const setting = { column: 'compat', sloScale: 1, models: work.models } as const;
  const berth = fewest(48, (gpus) => simulate(work.arrivals(), berthSetting(hardware, { ...setting, gpus })).strict);
  const peer = fewest(64, (gpus) => bestAegaeon(work, hardware, gpus));
  const [bound = 0] = BOUNDS[trace] ?? [];
  return {
    case: `${trace}, targets × 1`,
    metric: `GPUs for 99 % all in time (bound: ${bound})`,
    unit: 'GPUs',
    berth,
    peer,
    ratio: berth / peer,
    bar: '≤ 1/3 of Aegaeon’s best',
    pass: berth / peer <= 1 / 3,
  };
}

function fewest(most: number, strict: (gpus: number) => number): number {
  for (let gpus = 2; gpus <= most; gpus++) if (strict(gpus) >= STRICT_GOAL) return gpus;
  return Number.NaN;
}

function bestAegaeon(work: Workload, hardware: Stage['cluster'], gpus: number): number {
  const setting = peerSetting(hardware, { column: 'compat', gpus, sloScale: 1 });
  let best = 0;
  for (const seconds of [0.5, 1, 2, 4]) {
    for (const share of [0.2, 0.25, 0.3, 0.375, 0.45]) {
      const prefillGpus = Math.min(gpus - 1, Math.max(1, Math.round(gpus * share)));
      best = Math.max(best, aegaeon({ prefillGpus, sliceMicros: seconds * 1e6 }).run(work.arrivals(), setting).strict);
    }
  }
  return best;
}
