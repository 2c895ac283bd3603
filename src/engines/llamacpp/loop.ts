/**
 * The runner's loop: computes steps, but only inside the slice that was granted, and reports each slice's end. A slice ends
 * only between steps: a step that overlapped another model's would slow both down several times (ggml's barriers spin).
 */
import type { KvEntryId, RequestId } from '../../core/ids.ts';
import type { KvEvent, KvGrant, ModelLaunch, SliceGrant, SliceReport } from '../engine.ts';
import type { Job, JobEvent, JobEvents } from './commands.ts';
import { nowMicros } from './common.ts';
import { Embedder } from './embedder.ts';
import type { StepOutcome } from './generation.ts';
import { Generator } from './generator.ts';
import type { Model } from './model.ts';

/** A step with prefill should take no longer: commands are heard and slices end only between steps. */
const STEP_TARGET_MICROS = 200_000;
const SMALLEST_PREFILL_TOKENS = 16;
/** Before the first measurement on so many lanes. */
const FIRST_PREFILL_TOKENS = 64;
/** Weight of the newest measurement in the moving average. */
const NEWEST = 0.3;

interface OpenSlice {
  readonly grant: SliceGrant;
  readonly openedMicros: number;
  startMicros: number | null;
  endMicros: number;
  steps: number;
  prefillTokens: number;
  computeMicros: number;
  readonly decodeTokens: Map<RequestId, number>;
  readonly requestMicros: Map<RequestId, number>;
}

export interface LoopOptions {
  /** Most prefill tokens in one step, whatever the time. */
  readonly prefillBudgetTokens: number;
  readonly onEvents: (items: JobEvents) => void;
  readonly onSliceEnd: (report: SliceReport) => void;
  /** Told whenever the bytes that the KV cache may still grow by have changed. */
  readonly onGrowth: (growthBytes: number) => void;
  readonly onKv: (event: KvEvent) => void;
}

export class Loop {
  readonly #options: LoopOptions;
  readonly #generator: Generator;
  readonly #embedder: Embedder;
  #events: (readonly [RequestId, JobEvent])[] = [];
  #slice: OpenSlice | null = null;
  #embedNext = false;
  #toldGrowthBytes: number;
  /** Learned microseconds of one prefill token, by lanes. */
  readonly #prefillMicros = new Map<number, number>();

  /** Throws `model_load_failed` if there's no memory for the context. */
  constructor(model: Model, launch: ModelLaunch, options: LoopOptions) {
    this.#options = options;
    const emit = (requestId: RequestId, event: JobEvent): void => void this.#events.push([requestId, event]);
    this.#generator = new Generator(model, launch, emit, options.onKv);
    this.#embedder = new Embedder(model, launch, emit);
    this.#toldGrowthBytes = this.#generator.growthBytes;
  }

  /** Bytes that the KV cache may still grow by. */
  get growthBytes(): number {
    return this.#generator.growthBytes;
  }

  /** Does ahead what the first request would wait for; false if there was nothing to do. */
  prepare(): boolean {
    try {
      const did = this.#generator.prepare();
      this.#flush();
      return did;
    } catch {
      // The first request tries again, and tells.
      return false;
    }
  }

  get pending(): number {
    return this.#generator.pending + this.#embedder.pending;
  }

  /** A slice is open: `step` has something to do, if only to report its end. */
  get runnable(): boolean {
    return this.#slice !== null;
  }

  submit(job: Job): void {
    if (job.kind === 'embed') this.#embedder.submit(job);
    else this.#generator.submit(job);
    this.#flush();
  }

  grantKv(grant: KvGrant): void {
    this.#generator.grantKv(grant);
  }

  dropKv(entryId: KvEntryId): void {
    this.#generator.dropKv(entryId);
  }

  cancel(requestId: RequestId, keep: boolean): void {
    this.#generator.cancel(requestId, keep);
    this.#embedder.cancel(requestId);
    this.#flush();
  }

  /** An open slice is told to end first. */
  openSlice(grant: SliceGrant): void {
    this.#end('told');
    const now = nowMicros();
    this.#slice = {
      grant,
      openedMicros: now,
      startMicros: null,
      endMicros: now,
      steps: 0,
      prefillTokens: 0,
      computeMicros: 0,
      decodeTokens: new Map(),
      requestMicros: new Map(),
    };
  }

  endSlice(sliceId: number): void {
    if (this.#slice?.grant.sliceId === sliceId) this.#end('told');
  }

  /** One step of the open slice, or its end. */
  step(): void {
    const slice = this.#slice;
    if (slice === null) return;
    const lanes = Math.max(1, Math.floor(slice.grant.lanes));
    if (this.pending === 0) {
      this.#end('idle');
      return;
    }
    const started = nowMicros();
    const outcome = this.#compute(slice, lanes);
    const ended = nowMicros();
    if (outcome !== null) {
      slice.startMicros ??= started;
      slice.endMicros = ended;
      slice.steps += 1;
      slice.prefillTokens += outcome.prefillTokens;
      slice.computeMicros += outcome.micros;
      for (const id of outcome.decoded) slice.decodeTokens.set(id, (slice.decodeTokens.get(id) ?? 0) + 1);
      for (const [id, micros] of outcome.shares)
        slice.requestMicros.set(id, (slice.requestMicros.get(id) ?? 0) + micros);
    }
    this.#flush();
    if (this.pending === 0) this.#end('idle');
    else if (slice.grant.micros !== null && ended - slice.openedMicros >= slice.grant.micros) this.#end('time');
  }

  /** Generation and embedding take turns where both have work. */
  #compute(slice: OpenSlice, lanes: number): StepOutcome | null {
    const embeds = this.#embedder.pending > 0 && (this.#embedNext || this.#generator.pending === 0);
    this.#embedNext = !embeds;
    const prefillTokens = this.#prefillTokens(slice, lanes);
    const outcome = embeds ? this.#embedder.step(lanes) : this.#generator.step(lanes, prefillTokens);
    if (outcome !== null && outcome.prefillTokens >= SMALLEST_PREFILL_TOKENS) {
      const measured = outcome.micros / (outcome.prefillTokens + outcome.decoded.length);
      const before = this.#prefillMicros.get(lanes) ?? measured;
      this.#prefillMicros.set(lanes, before + NEWEST * (measured - before));
    }
    return outcome;
  }

  /** As many prefill tokens as should fit into the slice's rest, and into a step of bearable length. */
  #prefillTokens(slice: OpenSlice, lanes: number): number {
    const { micros, stepMicros = STEP_TARGET_MICROS } = slice.grant;
    const rest = micros === null ? Infinity : slice.openedMicros + micros - nowMicros();
    const each = this.#prefillMicros.get(lanes);
    const fitting = each === undefined ? FIRST_PREFILL_TOKENS : Math.floor(Math.min(rest, stepMicros) / each);
    return Math.min(Math.max(fitting, SMALLEST_PREFILL_TOKENS), this.#options.prefillBudgetTokens);
  }

  #end(ended: SliceReport['ended']): void {
    const slice = this.#slice;
    if (slice === null) return;
    this.#slice = null;
    this.#options.onSliceEnd({
      sliceId: slice.grant.sliceId,
      lanes: slice.grant.lanes,
      ended,
      steps: slice.steps,
      prefillTokens: slice.prefillTokens,
      decodeTokens: Object.fromEntries(slice.decodeTokens) as Record<RequestId, number>,
      wallMicros: slice.startMicros === null ? 0 : slice.endMicros - slice.startMicros,
      computeMicros: slice.computeMicros,
      requestMicros: Object.fromEntries(slice.requestMicros) as Record<RequestId, number>,
      pending: this.pending,
    });
  }

  #flush(): void {
    const { growthBytes } = this;
    if (growthBytes !== this.#toldGrowthBytes) this.#options.onGrowth(growthBytes);
    this.#toldGrowthBytes = growthBytes;
    if (this.#events.length === 0) return;
    const items = this.#events;
    this.#events = [];
    this.#options.onEvents(items);
  }

  /** Frees contexts and samplers; requests still here fail with `model_stopped`, an open slice ends. */
  dispose(): void {
    this.#generator.dispose();
    this.#embedder.stop();
    this.#flush();
    this.#end('told');
  }
}
