/**
 * What a decision costs: `handle` per event under Zipf's law, with the virtual device of the swarm around the real arbiter; only
 * the time inside `handle` is counted. Beside it the size of the core, which is promised to stay readable.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Arbiter } from '../src/core/arbiter.ts';
import { createArbiter } from '../src/core/arbiter.ts';
import type { ModelSpec } from '../src/core/events.ts';
import type { ModelId } from '../src/core/ids.ts';
import { MIB, MILLI, modelId, SECOND, tenantId } from '../src/core/ids.ts';
import type { Physics } from '../test/swarm/device.ts';
import { createPrng, zipf } from '../test/swarm/prng.ts';
import { World } from '../test/swarm/world.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { percentile, result } from './harness.ts';

export const about = 'µs per event in the core at 10 … 10,000 models, and its lines';

const BAR_MICROS = 10;
const BAR_MODELS = 1_000;
const BAR_CORE_LINES = 2_500;
const BAR_ARBITER_LINES = 300;

export async function run({ quick }: BenchArgs): Promise<BenchResult> {
  const requests = quick ? 2_000 : 30_000;
  const rows: BenchRow[] = [];
  drive({ models: 100, requests, fits: 10, gapMicros: 10 * MILLI });
  for (const models of [10, 100, 1_000, 10_000]) {
    const isBarred = models === BAR_MODELS;
    rows.push(
      ...rowsOf(`${models} models, steady`, drive({ models, requests, fits: 16, gapMicros: 60 * MILLI }), isBarred),
    );
    rows.push(
      ...rowsOf(`${models} models, overload`, drive({ models, requests, fits: 16, gapMicros: 5 * MILLI }), isBarred),
    );
  }
  rows.push(...lines());
  return result('core', rows, { requests });
}

interface Load {
  readonly models: number;
  readonly requests: number;
  /** So many models fit on the device. */
  readonly fits: number;
  /** Mean time between arrivals. */
  readonly gapMicros: number;
}

interface Seen {
  readonly events: number;
  readonly micros: number;
  /** Of single calls. */
  readonly callMicros: readonly number[];
  readonly finished: number;
  readonly refused: number;
}

function rowsOf(what: string, seen: Seen, isBarred: boolean): BenchRow[] {
  const mean = seen.micros / seen.events;
  const bar = isBarred ? { bar: `≤ ${BAR_MICROS}`, pass: mean <= BAR_MICROS } : {};
  return [
    { case: what, metric: 'handle, per event', unit: 'µs', berth: mean, ...bar },
    { case: what, metric: 'handle, call p99', unit: 'µs', berth: percentile(seen.callMicros, 99) },
    { case: what, metric: 'requests refused', unit: '%', berth: (100 * seen.refused) / (seen.refused + seen.finished) },
  ];
}

const PHYSICS: Omit<Physics, 'loadedBytes' | 'asleepBytes'> = {
  loadMicros: 300 * MILLI,
  wakeMicros: 40 * MILLI,
  stepMicros: 4 * MILLI,
  decodeMicros: 500,
  prefillMicros: 50,
  chunkTokens: 256,
  tokensPerStep: 8,
  broken: false,
};

function drive({ models, requests, fits, gapMicros }: Load): Seen {
  const spec = (index: number): ModelSpec => ({
    modelId: modelId(`m${index}`),
    parallel: 4,
    embedParallel: 16,
    embedWindowMicros: 3 * MILLI,
    pinned: false,
    canSleep: index % 2 === 0,
    keepsKv: index % 3 === 0,
    loadedBytes: 100 * MIB,
    asleepBytes: 10 * MIB,
    loadMicros: 300 * MILLI,
    ttftGoalMicros: SECOND,
    interTokenGoalMicros: 200 * MILLI,
    keepAliveMicros: null,
    revision: '1',
  });
  const specs = new Map<ModelId, ModelSpec>();
  for (let i = 0; i < models; i++) specs.set(modelId(`m${i}`), spec(i));
  const tenants = [1, 2, 3, 4].map((n) => ({ tenantId: tenantId(`t${n}`), weight: n }));
  const timed = timedArbiter();
  const world = new World({
    seed: 1,
    isChecked: false,
    arbiter: timed,
    physics: ({ loadedBytes, asleepBytes }) => ({ ...PHYSICS, loadedBytes, asleepBytes }),
    config: {
      device: { memoryBytes: fits * 100 * MIB, overheadBytes: 0, lanes: 8 },
      limits: { queuePerModel: 64, requests: 10_000, queueTimeoutMicros: 60 * SECOND },
      residency: {
        minimumStayMicros: 500 * MILLI,
        patienceMicros: SECOND,
        drainMicros: SECOND,
        keepAliveMicros: 60 * SECOND,
        sleepForMicros: 600 * SECOND,
      },
      models: specs,
      tenants,
    },
  });
  world.configure();
  world.runUntil(0);
  timed.reset();
  const prng = createPrng(7);
  const rank = zipf(prng, models);
  let at = 0;
  for (let i = 0; i < requests; i++) {
    at += prng.below(2 * gapMicros);
    const tenant = tenants[prng.below(tenants.length)] ?? { tenantId: tenantId('t1') };
    world.timeline.at(at, () => {
      world.ask({
        modelId: modelId(`m${rank()}`),
        tenantId: tenant.tenantId,
        promptTokens: prng.between(10, 400),
        outputTokens: prng.between(8, 128),
      });
    });
  }
  world.runUntil(at + 3_600 * SECOND, () => world.timeline.now > at && world.state.requests.size === 0);
  const { finished, refused } = world.state.outcomes;
  return { ...timed.seen(), finished, refused };
}

function timedArbiter(): Arbiter & { reset(): void; seen(): Pick<Seen, 'events' | 'micros' | 'callMicros'> } {
  const arbiter = createArbiter();
  let events = 0;
  let nanos = 0n;
  let callMicros: number[] = [];
  return {
    state: arbiter.state,
    handle(input) {
      const started = process.hrtime.bigint();
      const decision = arbiter.handle(input);
      const took = process.hrtime.bigint() - started;
      nanos += took;
      events += input.events.length;
      callMicros.push(Number(took) / 1_000);
      return decision;
    },
    reset() {
      events = 0;
      nanos = 0n;
      callMicros = [];
    },
    seen: () => ({ events, micros: Number(nanos) / 1_000, callMicros }),
  };
}

function lines(): BenchRow[] {
  const folder = join(import.meta.dirname, '..', 'src', 'core');
  const files = readdirSync(folder).filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts'));
  const count = (file: string): number => readFileSync(join(folder, file), 'utf8').split('\n').length - 1;
  const core = files.reduce((sum, file) => sum + count(file), 0);
  const arbiter = count('arbiter.ts');
  return [
    {
      case: 'src/core',
      metric: 'lines',
      unit: '',
      berth: core,
      bar: `≤ ${BAR_CORE_LINES}`,
      pass: core <= BAR_CORE_LINES,
    },
    {
      case: 'arbiter.ts',
      metric: 'lines',
      unit: '',
      berth: arbiter,
      bar: `≤ ${BAR_ARBITER_LINES}`,
      pass: arbiter <= BAR_ARBITER_LINES,
    },
  ];
}
