/**
 * Who sits in the context and what the next step computes. Pure: it counts cells and tokens, and calls no library. A sequence
 * waits (no cells), or is seated: its first `cells` tokens are in the KV cache, the rest is still to be computed. A decoding
 * sequence is simply one with a single token left. One that has ended may stay, idle, for the next turn of its conversation.
 */
import type { KvEntryId } from '../../core/ids.ts';
import { CellBook } from './cells.ts';
import type { Idle, Reaches, Source } from './prefixes.ts';
import { findSource, isContinued } from './prefixes.ts';
import type { Sequence } from './sequence.ts';
import { moveNanos } from './rent.ts';
import { isDecoding, sharesByTenant, tokenAt, tokensLeft, totalTokens } from './sequence.ts';

/** Cells kept free for each seated sequence to grow into before another is let in. */
const GROWTH_CELLS = 32;

/** What it may well come to. */
const foreseenTokens = (sequence: Sequence): number =>
  Math.max(totalTokens(sequence) + GROWTH_CELLS, sequence.prompt.length + (sequence.expectedTokens ?? 0));

/** What the table has llama.cpp do. */
export interface CacheCalls {
  /** Frees the seat's cells behind the first `cells`. */
  truncate(seat: number, cells: number): void;
  /** The cells of `from` between the two positions are those of `to`, too. */
  share(from: number, to: number, start: number, end: number): void;
  reaches(seat: number, cells: number): boolean;
  /** The seat has so many cells now. */
  computed(seat: number, cells: number): void;
  /** Saves it, for its place is needed: the last chance. If it merely costs more than it should, false where it can't be saved. */
  leaves(idle: Idle, isNeeded: boolean): boolean;
  /** A new sequence goes on from this one, in its place, or has all of it. */
  continued(idle: Idle): void;
  /** Reads the saved state into the empty seat; true: its `saved.common` first tokens are there. */
  restore(sequence: Sequence, seat: number): boolean;
  /** Asks for so many cells; returns how many there are now. */
  grow(wanted: number): number;
}

export interface PlannedTokens {
  readonly sequence: Sequence;
  /** Tokens from `sequence.cells` on. */
  readonly count: number;
  /** The last of them is the sequence's last token: sample after it. */
  readonly samples: boolean;
}

export interface TableLimits {
  /** Cells of the unified KV cache. */
  readonly cells: number;
  /** Sequences computed at once. */
  readonly parallel: number;
  /** Of these and of idle ones together. */
  readonly seats: number;
  /** Most tokens in one step. */
  readonly stepTokens: number;
  /** Whether what was computed of one sequence is of use to another that begins alike. */
  readonly shares: boolean;
  /** What an idle cell costs each row of a step, in nanoseconds of one lane. */
  readonly cellRowNanos: number;
}

/** Less is computed again sooner than it is kept. */
const LEAST_KEPT_TOKENS = 32;
/** A saved state must spare so many tokens more than what is on the device. */
const LEAST_RESTORED_TOKENS = 32;

export class SequenceTable {
  readonly #limits: TableLimits;
  readonly #calls: CacheCalls;
  readonly #reaches: Reaches = (seat, cells) => this.#calls.reaches(seat, cells);
  readonly #book = new CellBook();
  readonly #freeSeats: number[];
  #cells: number;
  /** In order of arrival, both. */
  #waiting: Sequence[] = [];
  #seated: Sequence[] = [];
  /** The longest idle first. */
  #idle: Idle[] = [];

  constructor(limits: TableLimits, calls: CacheCalls) {
    this.#limits = limits;
    this.#calls = calls;
    this.#cells = limits.cells;
    this.#freeSeats = Array.from({ length: limits.seats }, (_, index) => limits.seats - 1 - index);
  }

  get seated(): readonly Sequence[] {
    return this.#seated;
  }

  get waiting(): readonly Sequence[] {
    return this.#waiting;
  }

  get idle(): readonly Idle[] {
    return this.#idle;
  }

  /** Requests: those that are computed and those that wait. */
  get size(): number {
    return this.#seated.length + this.#waiting.length;
  }

  get usedCells(): number {
    return this.#book.used;
  }

  add(sequence: Sequence): void {
    const index = this.#waiting.findIndex((other) => other.order > sequence.order);
    this.#waiting.splice(index < 0 ? this.#waiting.length : index, 0, sequence);
  }

  /** Takes the sequence out and frees its cells. */
  remove(sequence: Sequence): void {
    this.#vacate(sequence);
    this.#waiting = this.#waiting.filter((other) => other !== sequence);
  }

  /** Takes the sequence out and leaves its cells as an idle one; null if there is too little to keep. */
  park(sequence: Sequence, entryId: KvEntryId): Idle | null {
    const { seat, cells, tenantId } = sequence;
    if (seat === null || cells < LEAST_KEPT_TOKENS) {
      this.remove(sequence);
      return null;
    }
    const tokens = Int32Array.from({ length: cells }, (_, index) => tokenAt(sequence, index));
    const idle: Idle = { entryId, tenantId, tokens, promptTokens: sequence.prompt.length, seat, rentNanos: 0 };
    this.#unseat(sequence);
    for (const other of this.#idle.filter((one) => isBeginningOf(one, idle))) {
      this.#calls.continued(other);
      this.#release(other);
    }
    this.#idle.push(idle);
    return idle;
  }

  /** Frees an idle one's cells. */
  drop(entryId: KvEntryId): void {
    const idle = this.#idle.find((one) => one.entryId === entryId);
    if (idle !== undefined) this.#release(idle);
  }

  /** Has all idle ones leave, the longest idle first. */
  clearOut(): void {
    while (this.#evict(null));
  }

  /** The cache has lost everything; each sequence is computed again at its seat. Returns the idle ones, which are gone. */
  lost(): readonly Idle[] {
    const gone = this.#idle;
    for (const { seat } of gone) this.#freeSeats.push(seat);
    this.#idle = [];
    this.#book.clear();
    for (const sequence of this.#seated) {
      sequence.cells = 0;
      sequence.reused = 0;
    }
    return gone;
  }

  /** Seats waiting sequences, first come first served, while there are seats and cells for all that they hold. Returns the new ones. */
  admit(): Sequence[] {
    const admitted: Sequence[] = [];
    for (;;) {
      const next = this.#waiting[0];
      if (next === undefined || this.#seated.length >= this.#limits.parallel || !this.#seat(next)) return admitted;
      this.#waiting.shift();
      this.#seated.push(next);
      this.#seated.sort((a, b) => a.order - b.order);
      admitted.push(next);
    }
  }

  /** Gives it a seat, and of its first tokens what is at hand. False if it has to wait for cells. */
  #seat(next: Sequence): boolean {
    let source = this.#sourceOf(next);
    const saved = next.saved ?? null;
    const isSavedBetter = saved !== null && saved.common >= (source?.common ?? 0) + LEAST_RESTORED_TOKENS;
    if (isSavedBetter) source = null;
    const growth = this.#seated.reduce((sum, one) => sum + tokensLeft(one) + GROWTH_CELLS, 0);
    // A saved state is read whole, before what is not wanted of it is cut off.
    const own = (): number =>
      Math.max(totalTokens(next) - (source?.common ?? 0), isSavedBetter ? saved.tokens : 0) + GROWTH_CELLS;
    while (growth + own() > this.#cells - this.#book.used) {
      if (this.#growFor([...this.#seated, next])) {
        // It may have lost what it held.
        if (source !== null) source = this.#sourceOf(next);
        continue;
      }
      const spared = source?.type === 'idle' ? source.holder : null;
      if (this.#evict(spared)) continue;
      if (this.#seated.length > 0 && spared === null) return false;
      // Only what it would go on from is left: it must do without, or be the only one.
      if (spared === null || this.#seated.length === 0) break;
      source = null;
    }
    // Alone, it pays rent for its neighbours; in company, all pay for as long as it lies behind them.
    if (this.size > 1) this.#makeWay(source);
    next.seat = this.#seatFor(source);
    if (isSavedBetter && this.#restored(next, next.seat, saved)) return true;
    if (isSavedBetter) source = this.#sourceOf(next);
    if (source !== null) this.#begin(next, next.seat, source);
    return true;
  }

  /** The longest idle one that nobody here goes on from leaves, if it can be saved: the newcomer then lies in its cells. */
  #makeWay(source: Source | null): void {
    const isOfUse = (idle: Idle): boolean =>
      source?.holder === idle || this.#waiting.some((one) => findSource(one, [], [idle], this.#reaches) !== null);
    const idle = this.#idle.find((one) => !isOfUse(one) && this.#calls.leaves(one, false));
    if (idle !== undefined) this.#release(idle);
  }

  #sourceOf(next: Sequence): Source | null {
    return this.#limits.shares ? findSource(next, this.#seated, this.#idle, this.#reaches) : null;
  }

  #restored(next: Sequence, seat: number, saved: { readonly tokens: number; readonly common: number }): boolean {
    if (saved.tokens > this.#cells - this.#book.used || !this.#calls.restore(next, seat)) return false;
    this.#book.append(seat, saved.common);
    next.cells = saved.common;
    next.reused = saved.common;
    return true;
  }

  /** The seat of the idle one that it goes on from, a free one, or that of the longest idle. There are more seats than requests at once. */
  #seatFor(source: Source | null): number {
    if (source?.type === 'idle' && isContinued(source)) return source.holder.seat;
    if (this.#freeSeats.length === 0) this.#evict(source?.type === 'idle' ? source.holder : null);
    const seat = this.#freeSeats.pop();
    if (seat !== undefined) return seat;
    if (source?.type !== 'idle') throw new Error('broken invariant: a seat is neither free nor idle nor taken');
    return source.holder.seat;
  }

  #begin(next: Sequence, seat: number, source: Source): void {
    if (source.type === 'idle' && source.holder.seat === seat) {
      this.#calls.continued(source.holder);
      this.#idle = this.#idle.filter((one) => one !== source.holder);
      this.#calls.truncate(seat, source.common);
      this.#book.truncate(seat, source.common);
      next.cells = source.common;
      next.reused = source.common;
      return;
    }
    if (source.type === 'idle') this.#touch(source.holder);
    this.#share(source.holder.seat as number, next, source.now);
    if (source.type === 'live' && source.common > source.now)
      next.follows = { leader: source.holder, tokens: source.common };
  }

  #share(from: number, next: Sequence, end: number): void {
    if (next.seat === null || end <= next.cells || !this.#calls.reaches(from, end)) return;
    this.#calls.share(from, next.seat, next.cells, end);
    this.#book.share(from, next.seat, end);
    next.reused += end - next.cells;
    next.cells = end;
  }

  /** It was of use: it is the last to leave. */
  #touch(idle: Idle): void {
    idle.rentNanos = 0;
    this.#idle = [...this.#idle.filter((one) => one !== idle), idle];
  }

  /** True if there are more cells than before. */
  #growFor(sequences: readonly Sequence[]): boolean {
    const before = this.#cells;
    const idle = this.#idle.reduce((sum, { tokens }) => sum + tokens.length, 0);
    const wanted = sequences.reduce((sum, sequence) => sum + foreseenTokens(sequence), idle);
    this.#cells = this.#calls.grow(wanted);
    return this.#cells > before;
  }

  /**
   * What the next step computes: one token for each decoding sequence, then prefill in fair shares. Where the cache is too
   * full for it and can't grow, idle ones leave, then the youngest sequence gives its cells up and waits. `prefillTokens` bounds
   * the prefill part.
   */
  plan(prefillTokens: number): PlannedTokens[] {
    this.#follow();
    for (;;) {
      const planned = this.#planTokens(prefillTokens);
      const needed = planned.reduce((sum, item) => sum + item.count, 0);
      const free = this.#cells - this.usedCells;
      if (needed <= free) return planned;
      if (this.#growFor(this.#seated)) continue;
      if (!this.makeRoom()) return this.#planTokens(Math.min(prefillTokens, free)).filter((item) => item.count <= free);
    }
  }

  /** The planned tokens have been computed. */
  computed({ sequence, count }: PlannedTokens): void {
    if (sequence.seat === null) return;
    this.#book.append(sequence.seat, count);
    sequence.cells += count;
    this.#calls.computed(sequence.seat, sequence.cells);
  }

  /** Takes over what others have computed meanwhile of a common beginning. */
  #follow(): void {
    for (const sequence of this.#seated) {
      if (sequence.follows === null) continue;
      const { leader, tokens } = sequence.follows;
      if (leader.seat !== null) this.#share(leader.seat, sequence, Math.min(tokens, leader.cells));
      const isOver = leader.seat === null || isDecoding(leader) || sequence.cells >= tokens;
      if (isOver) sequence.follows = null;
    }
  }

  #planTokens(prefillTokens: number): PlannedTokens[] {
    const decoding = this.#seated.filter(isDecoding);
    const prefilling = this.#seated.filter((sequence) => !isDecoding(sequence) && sequence.follows === null);
    const budget = Math.min(prefillTokens, this.#limits.stepTokens - decoding.length);
    const shares = sharesByTenant(prefilling, budget);
    return [
      ...decoding.map((sequence) => ({ sequence, count: 1, samples: true })),
      ...prefilling.flatMap((sequence, index) => {
        const count = shares[index] ?? 0;
        return count === 0 ? [] : [{ sequence, count, samples: count === tokensLeft(sequence) }];
      }),
    ];
  }

  /** An idle one leaves, or the youngest seated sequence gives up its seat and cells and waits to be computed again. False if there's one or none. */
  makeRoom(): boolean {
    if (this.#evict(null)) return true;
    if (this.#seated.length < 2) return false;
    const youngest = this.#seated.at(-1) as Sequence;
    this.#vacate(youngest);
    this.add(youngest);
    return true;
  }

  /** The longest idle one leaves the device. False if there is none but `spared`. */
  #evict(spared: Idle | null): boolean {
    const idle = this.#idle.find((one) => one !== spared);
    if (idle === undefined) return false;
    this.#calls.leaves(idle, true);
    this.#release(idle);
    return true;
  }

  /** So many rows were computed beside the idle ones. At most one leaves at a time: whoever streams waits for it. */
  passed(rows: number): void {
    let leaver: Idle | undefined;
    for (const idle of this.#idle) {
      const { length } = idle.tokens;
      idle.rentNanos += rows * length * this.#limits.cellRowNanos;
      if (idle.rentNanos < moveNanos(length) || leaver !== undefined) continue;
      if (this.#calls.leaves(idle, false)) leaver = idle;
    }
    if (leaver !== undefined) this.#release(leaver);
  }

  #release(idle: Idle): void {
    this.#idle = this.#idle.filter((one) => one !== idle);
    this.#free(idle.seat);
  }

  #free(seat: number): void {
    this.#calls.truncate(seat, 0);
    this.#book.truncate(seat, 0);
    this.#freeSeats.push(seat);
  }

  #unseat(sequence: Sequence): void {
    this.#seated = this.#seated.filter((other) => other !== sequence);
    sequence.seat = null;
    sequence.cells = 0;
    sequence.reused = 0;
    sequence.follows = null;
  }

  #vacate(sequence: Sequence): void {
    const { seat } = sequence;
    if (seat === null) return;
    this.#unseat(sequence);
    this.#free(seat);
  }
}

const isBeginningOf = (one: Idle, other: Idle): boolean =>
  one.tenantId === other.tenantId &&
  one.tokens.length <= other.tokens.length &&
  one.tokens.every((token, index) => token === other.tokens[index]);
