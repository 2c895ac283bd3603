/**
 * How fast the simulator is, and how its cost grows: 1,000 models of 100 tenants on 64 GPUs, each with an arbiter of its own. Requests
 * are as short as those that people type ahead with (a prompt of 500 tokens, an answer of 50), so that most of the time is decisions.
 */
import { berthSetting } from '../src/sim/columns.ts';
import type { Shape } from '../src/sim/generate.ts';
import { generate, modelName } from '../src/sim/generate.ts';
import { simulate } from '../src/sim/simulate.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { result } from './harness.ts';
import { cluster } from './lib/traces.ts';

export const about = 'a million simulated requests: seconds, memory, and how both grow';

const SHAPE: Omit<Shape, 'requests'> = {
  models: 1_000,
  tenants: 100,
  zipf: 1,
  seed: 1,
  pattern: 'poisson',
  perSecond: 100,
  meanPromptTokens: 500,
  meanOutputTokens: 50,
};
const GPUS = 64;
const MOST_SECONDS = 60;
const MOST_GIB = 4;

export function run({ quick }: BenchArgs): Promise<BenchResult> {
  const sizes = quick ? [3_000, 10_000] : [10_000, 30_000, 100_000, 300_000, 1_000_000];
  const hardware = cluster();
  const models = Array.from({ length: SHAPE.models }, (_, index) => modelName(index));
  const setting = berthSetting(hardware, { column: 'resident', gpus: GPUS, sloScale: 1, models });
  const rows: BenchRow[] = [];
  const micros: number[] = [];
  simulate(generate({ ...SHAPE, requests: 1_000 }), setting);
  for (const requests of sizes) {
    const started = process.cpuUsage();
    const seen = simulate(generate({ ...SHAPE, requests }), setting);
    const { user, system } = process.cpuUsage(started);
    const seconds = (user + system) / 1e6;
    const gib = process.resourceUsage().maxRSS / 1024 ** 2;
    const isMillion = requests === 1_000_000;
    micros.push((seconds * 1e6) / requests);
    const what = { case: `${requests} requests` };
    rows.push(
      {
        ...what,
        metric: 'CPU time',
        unit: 's',
        berth: seconds,
        ...(isMillion ? { bar: `≤ ${MOST_SECONDS}`, pass: seconds <= MOST_SECONDS } : {}),
      },
      { ...what, metric: 'a request', unit: 'µs', berth: micros.at(-1) as number },
      { ...what, metric: 'calls of the core', unit: '', berth: seen.calls },
      {
        ...what,
        metric: 'most memory',
        unit: 'GiB',
        berth: gib,
        ...(isMillion ? { bar: `≤ ${MOST_GIB}`, pass: gib <= MOST_GIB } : {}),
      },
      { ...what, metric: 'requests all in time', unit: '%', berth: 100 * seen.strict },
    );
  }
  const growth = (micros.at(-1) as number) / (micros.at(-3) ?? micros[0] ?? 1);
  rows.push({
    case: 'growth',
    metric: 'a request, of a million to one of 100,000',
    unit: '×',
    berth: growth,
    bar: '≤ 1.3',
    pass: growth <= 1.3,
  });
  return Promise.resolve(result('simulate-speed', rows, { gpus: GPUS }));
}
