/**
 * Nobody starves: under sustained overload, with memory for few of many models, a request waits for a bounded time until its model
 * starts it. The bound, for N models of one size of which K fit, with goal G (first token), patience P, minimum stay S, drain D,
 * unload U, load L and m loads at once:
 *
 * - Until its goal is due, the model is passed by whoever is more urgent; it makes others drain when it is out of patience: max(G, P).
 * - A model that leaves the device is urgent again only after those that waited then. So each of the other N − 1 goes before it at
 *   most once, K at a time: ⌈N ∕ K⌉ rounds, the one under way included one more.
 * - A round is: the stay, the drain (doubled once, if a request got no token in its last stay), the unload, and the loads of K models.
 *
 *   wait ≤ max(G, P) + (⌈N ∕ K⌉ + 1) · (S + 2·max(D, 100 ms) + U + ⌈K ∕ m⌉ · L)
 */
import { describe, expect, it } from 'vitest';
import type { Limits, ModelSpec, ResidencySpec } from '../../src/core/events.ts';
import type { Micros, ModelId } from '../../src/core/ids.ts';
import { MILLI, modelId, SECOND, tenantId } from '../../src/core/ids.ts';
import { OUTPUT_WEIGHT } from '../../src/core/fairness.ts';
import type { Physics } from './device.ts';
import { createPrng } from './prng.ts';
import type { Client, WorldConfig } from './world.ts';
import { World } from './world.ts';

const RESIDENCY: ResidencySpec = {
  minimumStayMicros: 500 * MILLI,
  patienceMicros: 500 * MILLI,
  drainMicros: 500 * MILLI,
  keepAliveMicros: 60 * SECOND,
  sleepForMicros: 60 * SECOND,
};
const LIMITS: Limits = { queuePerModel: 100, requests: 1_000, queueTimeoutMicros: 3_600 * SECOND };
const LOAD = 300 * MILLI;
const UNLOAD = 20 * MILLI;
const GOAL = SECOND;
const LANES = 2;

const spec = (name: string, loadedBytes: number, parallel: number): ModelSpec => ({
  modelId: modelId(name),
  parallel,
  embedParallel: 4,
  embedWindowMicros: 0,
  pinned: false,
  canSleep: false,
  keepsKv: false,
  loadedBytes,
  asleepBytes: 1,
  loadMicros: LOAD,
  ttftGoalMicros: GOAL,
  interTokenGoalMicros: 200 * MILLI,
  keepAliveMicros: null,
  revision: '1',
});

const physics = ({ loadedBytes, asleepBytes }: ModelSpec): Physics => ({
  loadedBytes,
  asleepBytes,
  loadMicros: LOAD,
  wakeMicros: LOAD / 4,
  stepMicros: 2 * MILLI,
  decodeMicros: 500,
  prefillMicros: 100,
  chunkTokens: 128,
  tokensPerStep: 1,
  broken: false,
});

function worldOf(models: readonly ModelSpec[], memoryBytes: number, residency = RESIDENCY): World {
  const config: WorldConfig = {
    device: { memoryBytes, overheadBytes: 0, lanes: LANES },
    limits: LIMITS,
    residency,
    models: new Map(models.map((model) => [model.modelId, model])),
    tenants: [],
  };
  const world = new World({ seed: 1, config, physics, isExact: true });
  world.configure();
  return world;
}

interface Crowd {
  readonly modelId: ModelId;
  readonly clients: number;
  readonly promptTokens: number;
  readonly outputTokens: () => number;
  readonly tenant?: string;
}

/** Clients who ask again as soon as they are answered: the model is never without work. */
function keepAsking(world: World, crowd: Crowd): Client[] {
  const seen: Client[] = [];
  const ask = (): void => {
    const { modelId: id, promptTokens } = crowd;
    const tenant = tenantId(crowd.tenant ?? 'default');
    seen.push(
      world.ask({
        modelId: id,
        tenantId: tenant,
        promptTokens,
        outputTokens: crowd.outputTokens(),
        onEnd: () => world.timeline.after(MILLI, ask),
      }),
    );
  };
  for (let i = 0; i < crowd.clients; i++) ask();
  return seen;
}

/** The longest that anybody waited, or still waits, for a start. */
function longestWait(world: World, clients: readonly Client[]): Micros {
  let longest = 0;
  for (const { arrivedAt, firstStartAt } of clients)
    longest = Math.max(longest, (firstStartAt ?? world.timeline.now) - arrivedAt);
  return longest;
}

function bound(models: number, fit: number, residency: ResidencySpec): Micros {
  const { patienceMicros, minimumStayMicros, drainMicros } = residency;
  const loadsAtOnce = Math.max(1, Math.floor(LANES / 2));
  const round =
    minimumStayMicros + 2 * Math.max(drainMicros, 100 * MILLI) + UNLOAD + Math.ceil(fit / loadsAtOnce) * LOAD;
  return Math.max(GOAL, patienceMicros) + (Math.ceil(models / fit) + 1) * round;
}

describe('nobody starves', () => {
  it.each([
    { models: 4, fit: 1, outputTokens: 20 },
    { models: 12, fit: 3, outputTokens: 20 },
    { models: 12, fit: 3, outputTokens: 2_000 },
    { models: 30, fit: 4, outputTokens: 100 },
  ])('with $models models on a device for $fit, answers of $outputTokens tokens', ({ models, fit, outputTokens }) => {
    const names = Array.from({ length: models }, (_, index) => `m${index}`);
    const world = worldOf(
      names.map((name) => spec(name, 100, 2)),
      fit * 100,
    );
    const prng = createPrng(models);
    const clients = names.map((name) =>
      keepAsking(world, {
        modelId: modelId(name),
        clients: 2,
        promptTokens: 30,
        outputTokens: () => prng.between(1, outputTokens),
      }),
    );
    world.runUntil(120 * SECOND);
    expect(longestWait(world, clients.flat())).toBeLessThanOrEqual(bound(models, fit, RESIDENCY));
    for (const served of clients)
      expect(served.filter(({ firstStartAt }) => firstStartAt !== null).length).toBeGreaterThan(1);
  });

  it('not even a model that needs the whole device, among small ones that are never idle', () => {
    const small = ['a', 'b', 'c', 'd'];
    const world = worldOf([...small.map((name) => spec(name, 50, 2)), spec('whole', 200, 2)], 200);
    const clients = [...small, 'whole'].map((name) =>
      keepAsking(world, { modelId: modelId(name), clients: 4, promptTokens: 30, outputTokens: () => 40 }),
    );
    world.runUntil(120 * SECOND);
    const whole = clients.at(-1) ?? [];
    // Its first round may have to empty the device of all four, one after the other was filled: four places, one load at a time.
    expect(longestWait(world, whole.slice(0, 2))).toBeLessThanOrEqual(bound(5, 1, RESIDENCY));
    expect(whole.filter(({ outcome }) => outcome === 'finished').length).toBeGreaterThan(10);
  });

  it('not even the longest prompt, though nothing in the configuration leaves it the time', () => {
    const hasty = { ...RESIDENCY, minimumStayMicros: 0, patienceMicros: 0, drainMicros: 0 };
    const world = worldOf([spec('a', 100, 1), spec('b', 100, 1)], 100, hasty);
    // 20,000 tokens of prompt are a second on two lanes; a stay is nothing at first, and doubles as long as it is fruitless.
    const long = world.ask({ modelId: modelId('a'), tenantId: tenantId('t'), promptTokens: 20_000, outputTokens: 3 });
    keepAsking(world, { modelId: modelId('b'), clients: 2, promptTokens: 10, outputTokens: () => 50 });
    world.runUntil(60 * SECOND, () => long.outcome !== null);
    expect(long).toMatchObject({ outcome: 'finished', generated: 3 });
    expect(long.starts).toBeGreaterThan(1);
  });

  it('of two tenants that always have work, each gets its share by weight, within what is being computed', () => {
    const parallel = 4;
    const cost = { promptTokens: 100, outputTokens: 60 };
    const world = worldOf([spec('a', 100, parallel)], 100);
    world.config.tenants = [
      { tenantId: tenantId('ann'), weight: 1 },
      { tenantId: tenantId('bob'), weight: 3 },
    ];
    world.configure();
    const prng = createPrng(3);
    for (const tenant of ['ann', 'bob']) {
      keepAsking(world, {
        modelId: modelId('a'),
        clients: 12,
        tenant,
        promptTokens: cost.promptTokens,
        outputTokens: () => prng.between(1, cost.outputTokens),
      });
    }
    const most = 1_000 * (cost.promptTokens + OUTPUT_WEIGHT * cost.outputTokens);
    let widest = 0;
    world.onDecision = () => {
      const counters = [...world.state.tenants.values()].map(({ counter }) => counter);
      if (world.timeline.now > SECOND) widest = Math.max(widest, Math.abs((counters[0] ?? 0) - (counters[1] ?? 0)));
    };
    world.runUntil(120 * SECOND);
    expect(widest).toBeLessThanOrEqual((parallel + 1) * most);
    const served = (tenant: string): number =>
      [...world.clients.values()].filter(({ tenantId: id, outcome }) => id === tenant && outcome === 'finished').length;
    expect(served('bob') / served('ann')).toBeGreaterThan(2.7);
    expect(served('bob') / served('ann')).toBeLessThan(3.3);
  });
});
