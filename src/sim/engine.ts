/** What a simulated device keeps of each model, and how its next run of steps is planned. Planning changes nothing but the engine's `ends`. */
import type { EventOf } from '../core/events.ts';
import type { ActionId, Bytes, Micros, ModelId, RequestId } from '../core/ids.ts';
import type { ModelCosts } from './costs.ts';
import { decodeMicros, prefillMicros, speedupOf } from './costs.ts';
import type { Mailbox } from './mailbox.ts';
import type { Track } from './recorder.ts';

/** What the hardware is taken to be. */
export interface DeviceSetting {
  /** All times are whole multiples of it. */
  readonly quantumMicros: Micros;
  readonly linkBytesPerSecond: Bytes;
  /** Loads are hidden behind the compute since the last one, and take at least so long; null: nothing is free. */
  readonly freePrefetchLeastMicros: Micros | null;
  /** KV comes back at so many bytes a token and leaves for free; null: both ways at its own size. */
  readonly flatKvBytesPerToken: Bytes | null;
  /** The artifact's decode formula is always told this batch size; null: the true one. */
  readonly batchTold: number | null;
  readonly mostPrefillTokens: number;
}

/** A request on its way through the device; it outlives a preemption. */
export interface Job {
  readonly id: RequestId;
  readonly track: Track;
  /** Of these the KV must be computed before the next token comes: prompt, or all of it after a preemption that lost it. */
  promptLeft: number;
  /** Tokens whose KV is on the device, or kept in the host. */
  context: number;
  /** Kept in the host: to be read back first. */
  isAway: boolean;
  tokens: number;
  prefillMicros: Micros;
  decodeMicros: Micros;
  /** It left while a step with it was under way. */
  isGone: boolean;
  /** Since the slice began. */
  tokensInSlice: number;
  /** So many engines died under it since its last token. */
  deathsInARow: number;
}

export const createJob = (id: RequestId, track: Track): Job => ({
  id,
  track,
  promptLeft: track.promptTokens,
  context: 0,
  isAway: false,
  tokens: 0,
  prefillMicros: 0,
  decodeMicros: 0,
  isGone: false,
  tokensInSlice: 0,
  deathsInARow: 0,
});

export interface Slice {
  readonly id: ActionId;
  readonly lanes: number;
  readonly micros: Micros | null;
  readonly stepMicros: Micros;
  readonly openedAt: Micros;
  isTold: boolean;
  steps: number;
  prefillTokens: number;
  /** Those that got tokens in it. */
  readonly served: Job[];
  computeMicros: Micros;
}

export interface Run {
  readonly kind: 'restore' | 'prefill' | 'decode';
  readonly startAt: Micros;
  readonly jobs: readonly Job[];
  /** Of a prefill: tokens of each job. */
  readonly chunks: readonly number[];
  steps: number;
  longestStep: Micros;
  /** KV held when it begins, in tokens. */
  readonly context: number;
}

export interface Engine extends DeviceModel {
  readonly id: ModelId;
  isLoaded: boolean;
  isAsleep: boolean;
  /** It computes no more, and nobody has noticed. */
  isHung: boolean;
  /** Where messages may be late; null: all are heard at once. */
  readonly mailbox: Mailbox | null;
  readonly jobs: Map<RequestId, Job>;
  slice: Slice | null;
  next: Slice | null;
  run: Run | null;
  /** Ends of the run's steps, from its start. */
  ends: Float64Array;
  /** Plans made for an earlier run are void. */
  version: number;
  /** To be told when the step under way is over. */
  leaving: { readonly job: Job; readonly actionId: ActionId }[];
}

export interface DeviceModel {
  readonly costs: ModelCosts;
  readonly loadedBytes: Bytes;
  readonly kvTokens: number;
  readonly keepsKv: boolean;
}

export function createEngine(id: ModelId, model: DeviceModel, mailbox: Mailbox | null): Engine {
  return {
    id,
    ...model,
    isLoaded: false,
    isAsleep: false,
    isHung: false,
    mailbox,
    jobs: new Map(),
    slice: null,
    next: null,
    run: null,
    ends: new Float64Array(1),
    version: 0,
    leaving: [],
  };
}

/** Longest run of steps planned at once. */
const MOST_STEPS = 4_096;
/** A step always takes so many prompt tokens, however short it should be. */
const FEWEST_PREFILL_TOKENS = 64;

interface Moment {
  readonly setting: DeviceSetting;
  readonly lanes: number;
  readonly now: Micros;
}

/** Whole prompts, as many as a step may hold; a longer one in pieces. null: none waits. */
export function planPrefill(
  engine: Engine,
  all: readonly Job[],
  { setting, lanes, now, stepMicros }: Moment & { readonly stepMicros: Micros },
): Run | null {
  const { prefill } = engine.costs;
  const speedup = speedupOf(engine.costs, lanes);
  const perStep = Math.floor((stepMicros * speedup - prefill.base) / Math.max(1e-6, prefill.perToken));
  let room = Math.max(FEWEST_PREFILL_TOKENS, Math.min(setting.mostPrefillTokens, perStep));
  const jobs: Job[] = [];
  const chunks: number[] = [];
  let tokens = 0;
  let squares = 0;
  let context = 0;
  for (const { context: held } of all) context += held;
  for (const job of all) {
    if (job.promptLeft === 0) continue;
    if (room <= 0 || (jobs.length > 0 && job.promptLeft > room)) break;
    const chunk = Math.min(job.promptLeft, room);
    jobs.push(job);
    chunks.push(chunk);
    room -= chunk;
    tokens += chunk;
    // What a piece attends to is all that came before it: the sum over the pieces is the square of the whole.
    squares += (job.context + chunk) ** 2 - job.context ** 2;
  }
  if (jobs.length === 0) return null;
  const micros = Math.ceil(prefillMicros(prefill, tokens, squares, setting.quantumMicros) / speedup);
  engine.ends[0] = micros;
  return { kind: 'prefill', startAt: now, jobs, chunks, steps: 1, longestStep: micros, context: context + tokens };
}

/** Until the first of the sequences is through, or `leftMicros` are over; at least one step. */
export function planDecode(
  engine: Engine,
  jobs: readonly Job[],
  { setting, lanes, now, leftMicros }: Moment & { readonly leftMicros: Micros },
): Run {
  const { decode } = engine.costs;
  let steps = MOST_STEPS;
  let context = 0;
  for (const job of jobs) {
    steps = Math.min(steps, job.track.outputTokens - job.tokens);
    context += job.context;
  }
  if (engine.ends.length < steps) engine.ends = new Float64Array(Math.max(steps, 2 * engine.ends.length));
  const held = context;
  const speedup = speedupOf(engine.costs, lanes);
  const batch = setting.batchTold ?? jobs.length;
  let end = 0;
  let longestStep = 0;
  let planned = 0;
  while (planned < steps && (planned === 0 || end < leftMicros)) {
    const whole = decodeMicros(decode, context, batch, setting.quantumMicros);
    const micros = speedup === 1 ? whole : Math.ceil(whole / speedup);
    if (micros > longestStep) longestStep = micros;
    end += micros;
    engine.ends[planned++] = end;
    context += jobs.length;
  }
  return { kind: 'decode', startAt: now, jobs, chunks: [], steps: planned, longestStep, context: held };
}

/** The step of the run that is under way at `now`: so many have ended before. */
export function stepUnderWay({ ends }: Engine, run: Run, now: Micros): number {
  const since = now - run.startAt;
  let low = 0;
  let high = run.steps - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((ends[middle] as number) >= since) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Ends the run with the step that is under way at `now`; false: that is its last one anyway. */
export function cutAt(engine: Engine, run: Run, now: Micros): boolean {
  const step = stepUnderWay(engine, run, now);
  if (step + 1 === run.steps) return false;
  run.steps = step + 1;
  return true;
}

/** What the slice has done; its requests begin to count anew. */
export function reportOf(engine: Engine, slice: Slice): EventOf<'sliceEnded'> {
  const { id: sliceId, lanes, steps, prefillTokens, computeMicros } = slice;
  // Without a prototype it is a dictionary from the start: names that are all different would each make a new shape.
  const decodeTokens = Object.create(null) as Record<RequestId, number>;
  for (const job of slice.served.splice(0)) {
    decodeTokens[job.id] = job.tokensInSlice;
    job.tokensInSlice = 0;
  }
  return {
    type: 'sliceEnded',
    modelId: engine.id,
    sliceId,
    lanes,
    steps,
    prefillTokens,
    decodeTokens,
    wallMicros: computeMicros,
    computeMicros,
  };
}
