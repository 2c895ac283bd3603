/**
 * What a real node's models cost, from its journal: loads, sleeps, prompts, decode steps by batch and lanes, bytes. A node simulated with
 * them should behave as the real one did (`npm run bench -- simulate-predict` shows how close it comes).
 */
import { z } from 'zod';
import type { CoreEvent, EventOf, ModelSpec } from '../core/events.ts';
import type { Micros } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import type { DecodeCost, MeasuredMoves, ModelCosts, PrefillCost } from './costs.ts';
import type { Recorded } from './replay.ts';
import type { Slo } from './recorder.ts';
import type { SimModel, SimSetting } from './simulate.ts';

type Configured = EventOf<'configured'>;

export interface ModelProfile {
  readonly loadedBytes: number;
  readonly moves: MeasuredMoves;
  readonly prefill: PrefillCost;
  readonly decode: DecodeCost;
}

export interface Profile {
  readonly berthProfile: 1;
  /** The node as it was configured. */
  readonly node: Omit<Configured, 'type' | 'models'>;
  readonly models: readonly { readonly spec: ModelSpec; readonly costs: ModelProfile }[];
}

interface Step {
  readonly lanes: number;
  readonly batch: number;
  readonly micros: Micros;
}

interface Seen {
  readonly moves: Record<'cold' | 'asleep' | 'parked' | 'unloaded', Micros[]>;
  loadedBytes: number;
  asleepBytes: number;
  readonly prompts: { readonly tokens: number; readonly micros: Micros }[];
  readonly steps: Step[];
}

/** Steps of a slice that are needed to believe its mean. */
const FEWEST_STEPS = 3;

/** Throws `invalid_request` if the journal says nothing of any model. */
export function profileOf(entries: Iterable<Recorded>): Profile {
  let configured: Configured | null = null;
  const models = new Map<string, Seen>();
  const owners = new Map<string, string>();
  const seenOf = (id: string): Seen => {
    let seen = models.get(id);
    if (seen === undefined) {
      seen = {
        moves: { cold: [], asleep: [], parked: [], unloaded: [] },
        loadedBytes: 0,
        asleepBytes: 0,
        prompts: [],
        steps: [],
      };
      models.set(id, seen);
    }
    return seen;
  };
  for (const { events } of entries) {
    for (const event of events) {
      if (event.type === 'configured') configured = event;
      if (event.type === 'requestArrived') owners.set(event.requestId, event.modelId);
      see(event, seenOf, owners);
    }
  }
  if (configured === null || models.size === 0)
    throw new BerthError(
      'invalid_request',
      'the journal has no model in it that did anything: let the node answer something first',
    );
  const { type: _, models: specs, ...node } = configured;
  // A model that was never asked is taken to be like the first that was.
  const [first] = models.values();
  const profiled = specs.map((spec) => ({ spec, costs: costsFrom(models.get(spec.modelId) ?? (first as Seen), spec) }));
  return { berthProfile: 1, node, models: profiled };
}

function see(event: CoreEvent, seenOf: (id: string) => Seen, owners: ReadonlyMap<string, string>): void {
  switch (event.type) {
    case 'modelLoaded': {
      const seen = seenOf(event.modelId);
      if (event.from !== 'already') seen.moves[event.from].push(event.micros);
      seen.loadedBytes = Math.max(seen.loadedBytes, event.bytes);
      return;
    }
    case 'memoryMeasured':
      seenOf(event.modelId).loadedBytes = Math.max(seenOf(event.modelId).loadedBytes, event.bytes);
      return;
    case 'modelFellAsleep':
      seenOf(event.modelId).moves.parked.push(event.micros);
      seenOf(event.modelId).asleepBytes = event.bytes;
      return;
    case 'modelUnloaded':
      seenOf(event.modelId).moves.unloaded.push(event.micros);
      return;
    case 'requestFinished': {
      const owner = owners.get(event.requestId);
      const tokens = event.promptTokens - event.cachedTokens;
      if (owner !== undefined && !event.failed && tokens > 0 && event.prefillMicros > 0)
        seenOf(owner).prompts.push({ tokens, micros: event.prefillMicros });
      return;
    }
    case 'sliceEnded': {
      if (event.prefillTokens > 0 || event.steps < FEWEST_STEPS) return;
      const tokens = Object.values(event.decodeTokens).reduce((sum, count) => sum + count, 0);
      const step = { lanes: event.lanes, batch: tokens / event.steps, micros: event.wallMicros / event.steps };
      if (step.batch > 0) seenOf(event.modelId).steps.push(step);
      return;
    }
    default:
  }
}

const USUAL_PREFILL_MICROS = 2_000;
const USUAL_STEP_MICROS = 10_000;

function costsFrom(seen: Seen, spec: ModelSpec): ModelProfile {
  const one = seen.steps.filter(({ lanes }) => lanes === 1);
  const decode = line(
    (one.length > 0 ? one : seen.steps).map(({ batch, micros }) => [batch, micros]),
    USUAL_STEP_MICROS,
  );
  const prefill = line(
    seen.prompts.map(({ tokens, micros }) => [tokens, micros]),
    USUAL_PREFILL_MICROS,
  );
  const most = Math.max(1, ...seen.steps.map(({ lanes }) => lanes));
  const speedups = Array.from({ length: most }, (_, index) => {
    const ratios = seen.steps
      .filter(({ lanes }) => lanes === index + 1)
      .map(({ batch, micros }) => (decode.base + decode.slope * batch) / micros);
    return index === 0 || one.length === 0 || ratios.length === 0 ? 1 : Math.max(1, median(ratios));
  });
  const loadMicros = Math.round(median(seen.moves.cold, spec.loadMicros));
  return {
    loadedBytes: seen.loadedBytes === 0 ? spec.loadedBytes : seen.loadedBytes,
    moves: {
      loadMicros,
      wakeMicros: Math.round(median(seen.moves.asleep, loadMicros / 2)),
      parkMicros: Math.round(median(seen.moves.parked, loadMicros / 8)),
      unloadMicros: Math.round(median(seen.moves.unloaded, loadMicros / 8)),
      asleepBytes: seen.asleepBytes === 0 ? spec.asleepBytes : seen.asleepBytes,
      speedups,
    },
    prefill: { base: prefill.base, perToken: prefill.slope, perSquaredToken: 0 },
    decode: { base: decode.base, perContextToken: 0, perSequence: decode.slope },
  };
}

/** Least squares with both parts at least 0; where all x are alike, a constant. `usual`: with nothing seen. */
function line(points: readonly (readonly [x: number, y: number])[], usual: Micros): { base: number; slope: number } {
  if (points.length === 0) return { base: usual, slope: 0 };
  const n = points.length;
  const x = points.reduce((sum, [at]) => sum + at, 0) / n;
  const y = points.reduce((sum, [, value]) => sum + value, 0) / n;
  const spread = points.reduce((sum, [at]) => sum + (at - x) ** 2, 0);
  const joint = points.reduce((sum, [at, value]) => sum + (at - x) * (value - y), 0);
  const slope = spread < 1e-9 ? 0 : Math.max(0, joint / spread);
  const base = y - slope * x;
  return base >= 0 ? { base, slope } : { base: 0, slope: y / x };
}

function median(values: readonly number[], none = 0): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? none;
}

const schema = z.looseObject({
  berthProfile: z.literal(1),
  node: z.looseObject({}),
  models: z.array(z.looseObject({})).min(1),
});

/** A profile as it was written, or null: the value is something else. */
export const asProfile = (value: unknown): Profile | null =>
  schema.safeParse(value).success ? (value as Profile) : null;

/** Room for KV is part of what a model was measured to take. */
const KV_TOKENS = 1_000_000;

/** The node of the profile in the simulator, all on one device. */
export function profileSetting({ node, models }: Profile, slo: Slo): SimSetting {
  const { device, limits, residency } = node;
  const modelOf = ({ spec, costs }: Profile['models'][number]): SimModel => {
    const { loadedBytes, moves, prefill, decode } = costs;
    const model: ModelCosts = {
      measured: moves,
      weightBytes: loadedBytes,
      kvBytesPerToken: 0,
      mostContextTokens: KV_TOKENS,
      prefill,
      decode,
    };
    return { name: spec.modelId, costs: model, loadedBytes, parallel: spec.parallel, kvTokens: KV_TOKENS, spec };
  };
  return {
    devices: 1,
    lanes: device.lanes,
    memoryBytes: device.memoryBytes,
    overheadBytes: device.overheadBytes,
    device: {
      quantumMicros: 1,
      linkBytesPerSecond: 1e12,
      freePrefetchLeastMicros: null,
      flatKvBytesPerToken: null,
      batchTold: null,
      mostPrefillTokens: 512,
    },
    slo,
    goals: { ttftMicros: slo.ttftMicros, interTokenMicros: slo.tpotMicros },
    residency,
    limits,
    inFlight: null,
    giveUpMicros: null,
    keepsKv: false,
    spill: null,
    models: models.map(modelOf),
  };
}
