/**
 * Is the device shared fairly? The loads of VTC's evaluation, by name, with two and with eight tenants whose requests go by turns to
 * two models of one node. The service of a tenant is its prompt tokens that were not cached plus twice its output tokens, as clients
 * see them come; the gap is the largest difference between two tenants over any time in which both had requests waiting throughout.
 *
 * The paper bounds it by 2 · max(w_p · L_input, w_q · M), with weights 1 and 2, L_input the longest prompt and M the tokens of a full
 * batch. Here L_input is the models' context, and M the KV cells of both models together, since both hold batches of the one device:
 * that is what its proof needs of M, the most that can be under way when the order of the waiting is decided. First come, first
 * served is measured by the same arrivals under one tenant's key: within a tenant the node serves in the order of arrival.
 *
 * Then two neighbours that want too much: see lib/fair-neighbours.ts.
 */
import { gemmaPath, smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { percentile, result } from './harness.ts';
import { flood, storm, warm } from './lib/fair-neighbours.ts';
import type { Stage } from './lib/fair-runs.ts';
import { measureCapacity, playArrivals } from './lib/fair-runs.ts';
import type { Scenario } from './lib/fair-scenarios.ts';
import { LONGEST, SCENARIOS } from './lib/fair-scenarios.ts';
import { seeded } from './lib/random.ts';
import { startBerth } from './lib/servers.ts';
import type { Served } from './lib/service.ts';
import { backlogs, OUTPUT_WEIGHT, serviceGap, serviceIn } from './lib/service.ts';
import { addTenants } from './lib/tenants.ts';

const LANES = 2;
/** Few, so that the bound is small against what a run serves: first come, first served must be able to break it. */
const PARALLEL = 2;
const CONTEXT_TOKENS = LONGEST.promptTokens + LONGEST.outputTokens;
const KV_TOKENS = PARALLEL * CONTEXT_TOKENS;
const MODELS = [
  { id: 'smollm2', path: smollm2Path },
  { id: 'gemma', path: gemmaPath },
];
const BOUND = 2 * Math.max(CONTEXT_TOKENS, OUTPUT_WEIGHT * MODELS.length * KV_TOKENS);
const COUNTS = [2, 8];
const WINDOW_MILLIS = 2_000;

const FULL = { scenarios: SCENARIOS, counts: COUNTS, seconds: 14, capacitySeconds: 6, flood: 60, storm: 45 };
const QUICK = {
  ...FULL,
  scenarios: SCENARIOS.slice(0, 1),
  counts: [2],
  seconds: 2,
  capacitySeconds: 2,
  flood: 2,
  storm: 3,
};

export const about = 'VTC’s scenarios with 2 and 8 tenants, against first come first served; a flood; a switch storm';

export async function run({ quick }: BenchArgs): Promise<BenchResult> {
  const size = quick ? QUICK : FULL;
  const rows: BenchRow[] = [];
  const server = await startBerth({
    config: {
      device: { memory: '4GiB', lanes: LANES },
      limits: { queue: 10_000 },
      models: MODELS.map(({ id, path }) => ({
        id,
        source: path(),
        context: CONTEXT_TOKENS,
        kv: KV_TOKENS,
        parallel: PARALLEL,
      })),
    },
  });
  let capacity = 0;
  try {
    const tenants = Array.from({ length: Math.max(...size.counts) }, (_, index) => `t${index}`);
    const keys = await addTenants(server, [...tenants, 'all']);
    const all = keys['all'] as string;
    const stage: Stage = { server, models: MODELS.map(({ id }) => id), random: seeded(17) };
    // So that loads are no part of it.
    for (const model of stage.models) await warm(server, model, all);
    capacity = await measureCapacity(stage, all, LONGEST, size.capacitySeconds * 1000);
    for (const scenario of size.scenarios) {
      for (const count of size.counts) {
        const millis = size.seconds * 1000;
        const some = tenants.slice(0, count);
        const arrivals = scenario.arrivals({ tenants: some, millis, capacity, random: seeded(count) });
        const fair = await playArrivals(stage, arrivals, (tenant) => keys[tenant] as string, millis);
        const inOrder = await playArrivals(stage, arrivals, () => all, millis);
        rows.push(...rowsOf(scenario, some, { fair, inOrder, millis }));
      }
    }
  } finally {
    await server.stop();
  }
  rows.push(...(await flood(size.flood)), ...(await storm(size.storm)));
  return result('fairness', rows, { seconds: size.seconds, capacity: Math.round(capacity), bound: BOUND });
}

interface Played {
  readonly fair: readonly Served[];
  readonly inOrder: readonly Served[];
  readonly millis: number;
}

function rowsOf({ name, modest }: Scenario, tenants: readonly string[], { fair, inOrder, millis }: Played): BenchRow[] {
  const what = { case: `${name}, ${tenants.length} tenants` };
  const [own, peer] = [serviceGap(fair), serviceGap(inOrder)];
  const rate = (served: readonly Served[]): number => (1000 * serviceIn(served, { from: 0, to: millis })) / millis;
  const rows: BenchRow[] = [
    {
      ...what,
      metric: 'service gap, peer FCFS',
      unit: 'weighted tokens',
      berth: own.tokens,
      peer: peer.tokens,
      ...(peer.tokens > 0 && { ratio: own.tokens / peer.tokens }),
      bar: `≤ ${BOUND}`,
      pass: own.tokens <= BOUND,
    },
    {
      ...what,
      metric: 'both backlogged, the longest pair, peer FCFS',
      unit: 's',
      berth: own.millis / 1000,
      peer: peer.millis / 1000,
    },
    {
      ...what,
      metric: `largest difference in ${WINDOW_MILLIS / 1000} s, peer FCFS`,
      unit: 'weighted tokens',
      berth: windowGap(fair, millis),
      peer: windowGap(inOrder, millis),
    },
    { ...what, metric: 'served in all, peer FCFS', unit: 'weighted tokens/s', berth: rate(fair), peer: rate(inOrder) },
  ];
  const modests = new Set(tenants.filter((_, index) => modest(index)));
  if (modests.size > 0) {
    const ttft = (served: readonly Served[]): number =>
      percentile(
        served
          .filter(({ tenant }) => modests.has(tenant))
          .map(({ sentAt, chunksAt, endedAt }) => (chunksAt[0] ?? endedAt) - sentAt),
        50,
      );
    rows.push({
      ...what,
      metric: 'TTFT p50 of those below their share, peer FCFS',
      unit: 'ms',
      berth: ttft(fair),
      peer: ttft(inOrder),
      ratio: ttft(fair) / ttft(inOrder),
    });
  }
  return rows;
}

/** The largest difference of service between two tenants in one of the windows, among those that were backlogged throughout it. */
function windowGap(served: readonly Served[], millis: number): number {
  let most = 0;
  for (let from = 0; from + WINDOW_MILLIS <= millis; from += WINDOW_MILLIS) {
    const span = { from, to: from + WINDOW_MILLIS };
    const values = [...Map.groupBy(served, ({ tenant }) => tenant).values()].flatMap((requests) =>
      backlogs(requests).some(({ from: since, to }) => since <= span.from && to >= span.to)
        ? [serviceIn(requests, span)]
        : [],
    );
    if (values.length > 1) most = Math.max(most, Math.max(...values) - Math.min(...values));
  }
  return most;
}
