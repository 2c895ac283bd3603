/**
 * The context that texts are generated on. Its KV cache starts small and grows: llama.cpp zeroes the whole cache when it makes
 * one, and a page fault for each 4 KiB of it is what a cold model would wait for. Growing copies what is in use out, frees the
 * small context, makes a larger one, and copies back: so that never two caches are held at once.
 */
import { BerthError } from '../../errors.ts';
import type { Pointer } from './binding.ts';
import { checkCacheFits, makeContext, type Model } from './model.ts';
import { LogitRows } from './sampling.ts';
import type { CacheCalls } from './sequences.ts';
import { WindowHold } from './window.ts';

/** Enough for a few short chats. */
const START_CELLS = 1024;
/** llama.cpp pads caches to this. */
const CELLS_STEP = 256;
/** From this part of the full size on, the full size is made: to grow once more for the rest is not worth it. */
const NEARLY_FULL = 0.75;

export interface ContextShape {
  /** The most cells that it may grow to. */
  readonly cells: number;
  /** Sequences that can be held. */
  readonly seats: number;
  readonly stepTokens: number;
}

interface Made {
  readonly pointer: Pointer;
  readonly memory: Pointer | null;
  readonly rows: LogitRows;
}

/** How many cells a cache of `now` grows to, to hold `wanted`: at least twice as many, or all. */
export function grownCells(now: number, wanted: number, full: number): number {
  const cells = Math.ceil(Math.max(wanted, 2 * now) / CELLS_STEP) * CELLS_STEP;
  return cells > NEARLY_FULL * full ? full : cells;
}

export class ElasticContext {
  readonly #model: Model;
  readonly #shape: ContextShape;
  readonly #hold: WindowHold;
  #made: Made | null = null;
  #cells: number;
  /** Once the machine had no room for more, it isn't asked again. */
  #stuck = false;
  #lanes = 1;

  /** Makes nothing yet. Throws `model_load_failed` if the machine can't hold the full cache. */
  constructor(model: Model, shape: ContextShape) {
    checkCacheFits(model, shape.cells);
    this.#model = model;
    this.#shape = shape;
    this.#hold = new WindowHold(shape.seats, model.sharesPrefixes ? model.windowTokens : 0, {
      share: (from, to, start, end) => this.#share(from, to, start, end),
      remove: (sequence, start, end) => this.#remove(sequence, start, end),
    });
    this.#cells = model.elasticCache ? Math.min(START_CELLS, shape.cells) : shape.cells;
  }

  /** Cells of the cache, made or about to be. */
  get cells(): number {
    return this.#cells;
  }

  /** It may still grow. */
  get elastic(): boolean {
    return !this.#stuck && this.#cells < this.#shape.cells;
  }

  /** Bytes that its cache may still grow by: all of them as long as there is none. */
  get growthBytes(): number {
    const cells = this.isMade ? this.#cells : 0;
    return this.#stuck ? 0 : (this.#shape.cells - cells) * this.#model.kvBytesPerToken;
  }

  /** Makes the context before somebody waits for it. False if there was nothing to do. Throws `model_load_failed`. */
  prepare(): boolean {
    // A model made for embedding is seldom asked to write.
    if (this.isMade || this.#model.poolingType > 0) return false;
    this.#made = this.#make();
    return true;
  }

  get pointer(): Pointer {
    return this.#ready.pointer;
  }

  /** null: a model without memory, which embeds and doesn't generate. */
  get memory(): Pointer | null {
    return this.#ready.memory;
  }

  /** The logits of the last decode; not to be kept beyond it. */
  get rows(): LogitRows {
    return this.#ready.rows;
  }

  get #ready(): Made {
    this.#made ??= this.#make();
    return this.#made;
  }

  get isMade(): boolean {
    return this.#made !== null;
  }

  #make(): Made {
    const { seats, stepTokens } = this.#shape;
    const pointer = makeContext(this.#model, {
      n_ctx: this.#cells,
      n_batch: stepTokens,
      n_ubatch: stepTokens,
      n_seq_max: this.#hold.sequences,
      n_outputs_max: this.#hold.sequences,
      n_threads: this.#lanes,
      n_threads_batch: this.#lanes,
      kv_unified: true,
    });
    const memory = this.#model.llama.llama_get_memory(pointer) ?? null;
    return { pointer, memory, rows: new LogitRows(this.#model, pointer, seats) };
  }

  /** Frees the seat's cells behind the first `cells`. */
  truncate(seat: number, cells: number): void {
    this.#remove(seat, cells, -1);
    this.#hold.cut(seat, cells);
  }

  /** The seat has so many cells now, after a step. */
  computed(seat: number, cells: number): void {
    this.#hold.grown(seat, cells);
  }

  /** `end` -1: all that follow. */
  #remove(sequence: number, start: number, end: number): void {
    const memory = this.#made?.memory ?? null;
    if (memory !== null) this.#model.llama.llama_memory_seq_rm(memory, sequence, start === 0 ? -1 : start, end);
  }

  /** The cells of `from` at these positions belong to `to`, too. Nothing is copied: the cache is unified. */
  share(from: number, to: number, start: number, end: number): void {
    this.#share(from, to, start, end);
    this.#hold.grown(to, end);
  }

  #share(from: number, to: number, start: number, end: number): void {
    const memory = this.#made?.memory ?? null;
    if (memory !== null) this.#model.llama.llama_memory_seq_cp(memory, from, to, start, end);
  }

  /** Are there cells for the positions from 0 to `tokens` - 1, or for those that a sliding window still sees? */
  spans(seat: number, tokens: number): boolean {
    const { memory } = this;
    return (
      memory !== null &&
      this.reaches(seat, tokens) &&
      this.#model.llama.llama_memory_seq_pos_max(memory, seat) === tokens - 1
    );
  }

  /**
   * Are the cells there that the token behind the seat's first `cells` sees? Of a sequence llama.cpp has no gaps between the first
   * position and the last one (`apply_ubatch` purges what is before a cell that was given away).
   */
  reaches(seat: number, cells: number): boolean {
    const { llama, windowTokens } = this.#model;
    if (cells === 0) return true;
    const { memory } = this;
    if (memory === null) return false;
    const first = llama.llama_memory_seq_pos_min(memory, seat);
    return first >= 0 && first <= (windowTokens === 0 ? 0 : Math.max(0, cells - windowTokens + 1));
  }

  /** Is all there that `withBranch` needs? */
  canBranch(seat: number, cells: number): boolean {
    return this.#hold.scratch !== null && this.reaches(seat, cells);
  }

  /** Nothing will be computed any more: what is freed now is not held for others. */
  letGo(): void {
    this.#hold.lost();
  }

  /**
   * What `use` makes of a sequence that is the seat's first `cells` and is gone afterwards; null where `canBranch` says no. Its
   * window ends there, so its state (`state_write`) holds what the seat's leaves out.
   */
  withBranch<T>(seat: number, cells: number, use: (sequence: number) => T): T | null {
    const { scratch } = this.#hold;
    if (scratch === null || !this.canBranch(seat, cells)) return null;
    this.#share(seat, scratch, 0, cells);
    try {
      return use(scratch);
    } finally {
      this.#remove(scratch, 0, -1);
    }
  }

  setLanes(lanes: number): void {
    if (lanes === this.#lanes) return;
    this.#lanes = lanes;
    if (this.#made !== null) this.#model.llama.llama_set_n_threads(this.#made.pointer, lanes, lanes);
  }

  /**
   * Grows to hold `wanted` cells, or to the full size if that is less; `cells` tells how far it came. Between steps only: logits
   * are gone. True: all sequences' KV is still there; false: the cache is empty. Throws `engine_error` if not even the old size
   * can be made again.
   */
  grow(wanted: number, usedCells: number): boolean {
    if (!this.elastic) return true;
    const before = this.#cells;
    this.#cells = grownCells(before, wanted, this.#shape.cells);
    if (this.#made === null) return true;
    const saved = usedCells === 0 ? null : this.#save(this.#made.pointer);
    try {
      this.#free();
      this.#remake(before);
      const isKept = usedCells === 0 || (saved !== null && this.#restore(this.pointer, saved));
      if (!isKept) this.#hold.lost();
      return isKept;
    } finally {
      if (saved !== null) this.#model.llama.release(saved.memory);
      this.#model.llama.trim();
    }
  }

  /** Makes the context in its new size, else in its old one, and then doesn't try again. */
  #remake(before: number): void {
    try {
      this.#made = this.#make();
    } catch {
      this.#stuck = true;
      this.#cells = before;
      try {
        this.#made = this.#make();
      } catch (cause) {
        throw new BerthError('engine_error', 'There is no memory left for this model’s KV cache.', { cause });
      }
    }
  }

  /** All sequences' cells, in their order: so what is computed on them later is added up in the same order, too. */
  #save(context: Pointer): { readonly memory: Pointer; readonly bytes: number } | null {
    const { llama } = this.#model;
    const size = llama.llama_state_get_size(context);
    const memory = size > 0 ? llama.allocate(size) : null;
    if (memory === null) return null;
    const bytes = llama.llama_state_get_data(context, memory, size);
    if (bytes > 0 && bytes <= size) return { memory, bytes };
    llama.release(memory);
    return null;
  }

  #restore(context: Pointer, { memory, bytes }: { readonly memory: Pointer; readonly bytes: number }): boolean {
    const { llama } = this.#model;
    if (llama.llama_state_set_data(context, memory, bytes) === bytes) return true;
    if (this.memory !== null) llama.llama_memory_clear(this.memory, true);
    return false;
  }

  #free(): void {
    if (this.#made !== null) this.#model.llama.llama_free(this.#made.pointer);
    this.#made = null;
  }

  dispose(): void {
    this.#free();
  }
}

/** What a table of sequences has done to the context. */
export const callsOf = (context: ElasticContext): Pick<CacheCalls, 'truncate' | 'share' | 'reaches' | 'computed'> => ({
  truncate: (seat, cells) => context.truncate(seat, cells),
  share: (from, to, start, end) => context.share(from, to, start, end),
  reaches: (seat, cells) => context.reaches(seat, cells),
  computed: (seat, cells) => context.computed(seat, cells),
});
