/**
 * One run of the swarm: the seed draws the node, its models, its clients and its troubles. Trouble ends at a known time; after it
 * everything must settle: no request is left, each has had exactly one outcome, and what may leave the device has left it.
 */
import type { ModelSpec, TenantSpec } from '../../src/core/events.ts';
import type { Micros, ModelId, TenantId } from '../../src/core/ids.ts';
import { MIB, MILLI, MINUTE, modelId, SECOND, tenantId } from '../../src/core/ids.ts';
import { unsettled } from '../../src/sim/settled.ts';
import type { DeviceFaults, Physics } from './device.ts';
import type { Prng } from './prng.ts';
import { createPrng, zipf } from './prng.ts';
import type { Client, WorldConfig } from './world.ts';
import { World } from './world.ts';

export interface RunResult {
  readonly seed: number;
  readonly digest: string;
  readonly handled: number;
  readonly outcomes: Readonly<Record<string, number>>;
  readonly preempted: number;
  /** Times that KV went into a file. */
  readonly saved: number;
  readonly loads: number;
  readonly virtualMicros: Micros;
}

interface Trouble {
  readonly isExact: boolean;
  readonly faults: DeviceFaults;
  /** Times at which something is done to the node. */
  readonly blows: number;
  readonly leavers: number;
}

/** After the last arrival, so long for everything to settle. */
const SETTLE_MICROS = 3 * 60 * MINUTE;

function drawTrouble(prng: Prng): Trouble {
  if (prng.chance(1, 4))
    return { isExact: true, faults: { loadFails: 0, parkFails: 0, late: 0 }, blows: 0, leavers: 0 };
  return {
    isExact: false,
    faults: { loadFails: prng.pick([0, 100, 500]), parkFails: prng.pick([0, 200]), late: prng.pick([0, 50, 300]) },
    blows: prng.pick([0, 5, 40]),
    leavers: prng.pick([0, 100, 400]),
  };
}

function drawModel(prng: Prng, name: string, budget: number): ModelSpec {
  const loadedBytes = prng.between(Math.floor(budget / 12), Math.floor(budget / prng.pick([1, 2, 3, 5])));
  return {
    modelId: modelId(name),
    parallel: prng.between(1, 4),
    embedParallel: prng.between(1, 8),
    embedWindowMicros: prng.pick([0, 3 * MILLI]),
    pinned: false,
    canSleep: prng.chance(1, 2),
    keepsKv: /[13579]$/.test(name),
    loadedBytes,
    asleepBytes: prng.between(1, Math.floor(loadedBytes / 3)),
    loadMicros: prng.between(20, 800) * MILLI,
    ttftGoalMicros: prng.pick([200 * MILLI, SECOND, 10 * SECOND]),
    interTokenGoalMicros: prng.pick([50 * MILLI, 200 * MILLI]),
    keepAliveMicros: prng.pick([null, null, null, 0, 2 * SECOND]),
    revision: '1',
  };
}

export function drawConfig(prng: Prng): WorldConfig {
  const budget = prng.between(100, 400) * MIB;
  const models = new Map<ModelId, ModelSpec>();
  const count = prng.between(1, 12);
  for (let i = 0; i < count; i++) {
    const spec = drawModel(prng, `m${i}`, budget);
    const pinned = i === 0 && prng.chance(1, 4) && spec.loadedBytes < budget / 2;
    models.set(spec.modelId, { ...spec, pinned });
  }
  const tenants: TenantSpec[] = [];
  for (let i = prng.between(1, 4); i > 0; i--)
    tenants.push({ tenantId: tenantId(`t${i}`), weight: prng.between(1, 4) });
  const overheadBytes = prng.between(0, 10) * MIB;
  return {
    device: { memoryBytes: budget + overheadBytes, overheadBytes, lanes: prng.between(1, 8) },
    limits: {
      queuePerModel: prng.pick([4, 64, 512]),
      requests: prng.pick([20, 500]),
      queueTimeoutMicros: prng.pick([2 * SECOND, 30 * SECOND, 300 * SECOND]),
    },
    residency: {
      minimumStayMicros: prng.pick([0, 200 * MILLI, SECOND]),
      patienceMicros: prng.pick([0, 100 * MILLI, SECOND]),
      drainMicros: prng.pick([0, 200 * MILLI, SECOND]),
      keepAliveMicros: prng.pick([0, SECOND, 30 * SECOND]),
      sleepForMicros: prng.pick([0, SECOND, 60 * SECOND]),
    },
    models,
    tenants,
  };
}

function drawPhysics(prng: Prng, spec: ModelSpec, isExact: boolean): Physics {
  const larger = isExact || prng.chance(3, 4) ? 100 : prng.between(101, 140);
  return {
    loadedBytes: Math.floor((spec.loadedBytes * larger) / 100),
    asleepBytes: spec.asleepBytes,
    loadMicros: Math.floor((spec.loadMicros * prng.between(50, 300)) / 100),
    wakeMicros: prng.between(5, 100) * MILLI,
    stepMicros: prng.between(500, 8_000),
    decodeMicros: prng.between(50, 1_000),
    prefillMicros: prng.between(20, 300),
    chunkTokens: prng.pick([32, 128]),
    tokensPerStep: 1,
    broken: !isExact && prng.chance(1, 20),
  };
}

/** Throws where the run breaks a rule. `listen` hears every input of the arbiter and its answer. */
export function run(seed: number, listen: World['onDecision'] = null): RunResult {
  const prng = createPrng(seed);
  const trouble = drawTrouble(prng);
  const config = drawConfig(prng);
  const physics = new Map<string, Physics>();
  const world = new World({
    seed,
    config,
    faults: { ...trouble.faults },
    hopMicros: prng.pick([0, 50, 2_000]),
    isExact: trouble.isExact,
    physics: (spec) => {
      const key = `${spec.modelId} ${spec.revision}`;
      const known = physics.get(key) ?? drawPhysics(prng, spec, trouble.isExact);
      physics.set(key, known);
      return known;
    },
  });
  const seen = { handled: 0, preempted: 0, saved: 0, loads: 0 };
  world.onDecision = (input, actions) => {
    listen?.(input, actions);
    seen.handled++;
    for (const { type } of input.events) if (type === 'kvSaved') seen.saved++;
    for (const { type } of actions) {
      if (type === 'preemptRequest') seen.preempted++;
      if (type === 'ensureLoaded') seen.loads++;
    }
  };
  world.configure();
  const calmAt = planClients(world, prng, trouble);
  planBlows(world, prng, trouble, calmAt);
  world.timeline.at(calmAt, () => Object.assign(world.faults, { loadFails: 0, parkFails: 0, late: 0 }));
  world.runUntil(calmAt + SETTLE_MICROS);
  const outcomes = settle(world, calmAt);
  return { seed, digest: String(world.digest), ...seen, outcomes, virtualMicros: world.timeline.now };
}

/** Clients arrive by Zipf's law; some leave before they are served. Returns when the last one has arrived. */
function planClients(world: World, prng: Prng, trouble: Trouble): Micros {
  const { timeline, config } = world;
  const names = [...config.models.keys()];
  const tenants: TenantId[] = config.tenants.map(({ tenantId: id }) => id);
  const rank = zipf(prng, names.length);
  const count = prng.between(10, 120);
  const gap = prng.pick([1, 20, 100, 500]) * MILLI;
  let at = 0;
  for (let i = 0; i < count; i++) {
    at += prng.chance(1, 4) ? 0 : prng.below(2 * gap);
    timeline.at(at, () => {
      const name = names[rank()] as ModelId;
      if (!config.models.has(name)) return;
      const client = world.ask({
        modelId: name,
        tenantId: prng.pick(tenants),
        promptTokens: prng.between(1, prng.pick([20, 400])),
        outputTokens: prng.between(1, prng.pick([5, 60])),
        kind: prng.chance(1, 6) ? 'embed' : 'generate',
        priority: prng.chance(1, 5) ? 'batch' : 'interactive',
        keepAliveMicros: prng.pick([null, null, null, 0, 500 * MILLI]),
      });
      if (prng.chance(trouble.leavers, 1_000))
        timeline.after(prng.below(3 * SECOND), () => world.leave(client.requestId));
    });
  }
  return at + 5 * SECOND;
}

function planBlows(world: World, prng: Prng, { blows }: Trouble, calmAt: Micros): void {
  const { timeline, config, device } = world;
  const original = new Map(config.models);
  const budget = config.device.memoryBytes;
  const lanes = config.device.lanes;
  const names = [...original.keys()];
  const strike = (): void => {
    const name = prng.pick(names);
    const spec = config.models.get(name);
    switch (prng.below(8)) {
      case 0:
      case 1: {
        const there = device.onDevice();
        if (there.length > 0) device.kill(prng.pick(there));
        return;
      }
      case 2:
        if (spec === undefined) config.models.set(name, original.get(name) as ModelSpec);
        else if (config.models.size > 1) config.models.delete(name);
        return world.configure();
      case 3:
        if (spec !== undefined) config.models.set(name, { ...spec, revision: `${spec.revision}+` });
        return world.configure();
      case 4: {
        const memoryBytes = prng.pick([budget, Math.floor(budget / 2), Math.floor(budget / 3)]);
        config.device = { ...config.device, memoryBytes, lanes: prng.between(1, lanes) };
        return world.configure();
      }
      case 5:
        if (spec !== undefined) world.tell({ type: 'stopRequested', modelId: name, force: prng.chance(1, 2) });
        return;
      case 6:
        if (spec !== undefined)
          world.tell({ type: 'loadRequested', modelId: name, keepAliveMicros: prng.pick([null, 0, SECOND]) });
        return;
      default:
        for (const id of device.onDevice()) device.measure(id);
    }
  };
  for (let i = 0; i < blows; i++) timeline.at(prng.below(calmAt), strike);
}

function settle(world: World, calmAt: Micros): Record<string, number> {
  const { state, clients, config } = world;
  const counts = { finished: 0, failed: 0, refused: 0, cancelled: 0 };
  for (const client of clients.values()) {
    if (client.outcome === null)
      throw new Error(`never settled: request ${client.requestId} of ${client.modelId}, ${describe(world, client)}`);
    counts[client.outcome]++;
  }
  const { arrived, ...outcomes } = state.outcomes;
  if (JSON.stringify(outcomes) !== JSON.stringify(counts) || arrived !== clients.size) {
    throw new Error(
      `outcomes differ: the node ${JSON.stringify(state.outcomes)}, its clients ${JSON.stringify(counts)}`,
    );
  }
  const left = unsettled(state);
  if (left !== null) throw new Error(`never settled: ${left}, trouble was over at ${calmAt}`);
  for (const model of state.models.values()) {
    if (model.phase !== 'cold' && !model.spec.pinned)
      throw new Error(`never settled: ${model.id} is ${model.phase} for ever`);
    if (
      model.spec.pinned &&
      model.phase === 'cold' &&
      config.models.has(model.id) &&
      model.failure === null &&
      model.loadAsked
    ) {
      throw new Error(`never settled: ${model.id} is pinned and cold`);
    }
  }
  return counts;
}

function describe(world: World, client: Client): string {
  const request = world.state.requests.get(client.requestId);
  const model = world.state.models.get(client.modelId);
  return `arrived at ${client.arrivedAt}, ${request?.phase ?? 'unknown to the node'}, its model ${model?.phase ?? 'unknown'}, at ${world.timeline.now}`;
}
