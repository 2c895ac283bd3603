/**
 * Who sits in the context and what the next step computes. Pure: it counts cells and tokens, and calls no library. A sequence
 * waits (no cells), or is seated: its first `cells` tokens are in the KV cache, the rest is still to be computed. A decoding
 * sequence is simply one with a single token left.
 */
import type { RequestId } from '../../core/ids.ts';

/** Cells kept free for each seated sequence to grow into before another is let in. */
const GROWTH_CELLS = 32;

export interface Sequence {
  readonly requestId: RequestId;
  /** Order of arrival. */
  readonly order: number;
  readonly prompt: Int32Array;
  /** Tokens after the prompt: resumed and sampled ones. */
  readonly generated: number[];
  /** How many there will be, at a guess. Where cells can be had, they are had for so many. */
  readonly expectedTokens?: number;
  /** llama.cpp's sequence id while seated. */
  seat: number | null;
  /** Tokens whose KV is in the cache. */
  cells: number;
}

export const totalTokens = (sequence: Sequence): number => sequence.prompt.length + sequence.generated.length;
export const tokensLeft = (sequence: Sequence): number => totalTokens(sequence) - sequence.cells;
/** One token left, and the prompt is through: this step samples its next token. */
export const isDecoding = (sequence: Sequence): boolean => sequence.generated.length > 0 && tokensLeft(sequence) === 1;

/** What it may well come to. */
const foreseenTokens = (sequence: Sequence): number =>
  Math.max(totalTokens(sequence) + GROWTH_CELLS, sequence.prompt.length + (sequence.expectedTokens ?? 0));

export function tokenAt(sequence: Sequence, index: number): number {
  const { prompt, generated } = sequence;
  return (index < prompt.length ? prompt[index] : generated[index - prompt.length]) as number;
}

/**
 * Splits `budget` tokens among prefilling sequences: max-min fair (nobody gets less than an equal share unless it needs
 * less), the sum is min(budget, what is needed).
 */
export function fairShares(needs: readonly number[], budget: number): number[] {
  const shares = needs.map(() => 0);
  const ascending = needs.map((_, index) => index).toSorted((a, b) => (needs[a] as number) - (needs[b] as number));
  let left = Math.max(0, Math.floor(budget));
  for (const [done, index] of ascending.entries()) {
    const share = Math.min(needs[index] as number, Math.floor(left / (ascending.length - done)));
    shares[index] = share;
    left -= share;
  }
  return shares;
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
  readonly seats: number;
  /** Most tokens in one step. */
  readonly stepTokens: number;
}

export class SequenceTable {
  readonly #limits: TableLimits;
  #cells: number;
  /** Called when a seat's cells must be freed (finished, cancelled, given up). */
  readonly #release: (seat: number) => void;
  /** Called where somebody would have to wait or to give way for want of cells: asks for so many, returns how many there are now. */
  readonly #grow: ((wanted: number) => number) | null;
  readonly #freeSeats: number[];
  /** In order of arrival, both. */
  #waiting: Sequence[] = [];
  #seated: Sequence[] = [];

  constructor(limits: TableLimits, release: (seat: number) => void, grow: ((wanted: number) => number) | null = null) {
    this.#limits = limits;
    this.#cells = limits.cells;
    this.#release = release;
    this.#grow = grow;
    this.#freeSeats = Array.from({ length: limits.seats }, (_, index) => limits.seats - 1 - index);
  }

  get seated(): readonly Sequence[] {
    return this.#seated;
  }

  get waiting(): readonly Sequence[] {
    return this.#waiting;
  }

  get size(): number {
    return this.#seated.length + this.#waiting.length;
  }

  get usedCells(): number {
    return this.#seated.reduce((sum, sequence) => sum + sequence.cells, 0);
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

  /** Seats waiting sequences, first come first served, while there are seats and cells for all that they hold. Returns the new ones. */
  admit(): Sequence[] {
    const admitted: Sequence[] = [];
    for (;;) {
      const next = this.#waiting[0];
      const seat = this.#freeSeats.at(-1);
      if (next === undefined || seat === undefined || !this.#fits(next)) return admitted;
      this.#freeSeats.pop();
      this.#waiting.shift();
      next.seat = seat;
      this.#seated.push(next);
      this.#seated.sort((a, b) => a.order - b.order);
      admitted.push(next);
    }
  }

  #fits(next: Sequence): boolean {
    const all = [...this.#seated, next];
    const needed = all.reduce((sum, sequence) => sum + totalTokens(sequence) + GROWTH_CELLS, 0);
    if (needed > this.#cells) this.#growFor(all);
    return this.#seated.length === 0 || needed <= this.#cells;
  }

  /** True if there are more cells than before. */
  #growFor(sequences: readonly Sequence[]): boolean {
    if (this.#grow === null) return false;
    const before = this.#cells;
    this.#cells = this.#grow(sequences.reduce((sum, sequence) => sum + foreseenTokens(sequence), 0));
    return this.#cells > before;
  }

  /**
   * What the next step computes: one token for each decoding sequence, then prefill in fair shares. Where the cache is too
   * full for it and can't grow, the youngest sequence gives its cells up and waits. `prefillTokens` bounds the prefill part.
   */
  plan(prefillTokens: number): PlannedTokens[] {
    for (;;) {
      const planned = this.#planTokens(prefillTokens);
      const needed = planned.reduce((sum, item) => sum + item.count, 0);
      const free = this.#cells - this.usedCells;
      if (needed <= free) return planned;
      if (this.#growFor(this.#seated)) continue;
      if (!this.yieldYoungest())
        return this.#planTokens(Math.min(prefillTokens, free)).filter((item) => item.count <= free);
    }
  }

  #planTokens(prefillTokens: number): PlannedTokens[] {
    const decoding = this.#seated.filter(isDecoding);
    const prefilling = this.#seated.filter((sequence) => !isDecoding(sequence));
    const budget = Math.min(prefillTokens, this.#limits.stepTokens - decoding.length);
    const shares = fairShares(prefilling.map(tokensLeft), budget);
    return [
      ...decoding.map((sequence) => ({ sequence, count: 1, samples: true })),
      ...prefilling.flatMap((sequence, index) => {
        const count = shares[index] ?? 0;
        return count === 0 ? [] : [{ sequence, count, samples: count === tokensLeft(sequence) }];
      }),
    ];
  }

  /** The youngest seated sequence gives up its seat and cells and waits to be prefilled again. False if there's one or none. */
  yieldYoungest(): boolean {
    if (this.#seated.length < 2) return false;
    const youngest = this.#seated.at(-1) as Sequence;
    this.#vacate(youngest);
    this.add(youngest);
    return true;
  }

  #vacate(sequence: Sequence): void {
    if (sequence.seat === null) return;
    this.#release(sequence.seat);
    this.#freeSeats.push(sequence.seat);
    this.#seated = this.#seated.filter((other) => other !== sequence);
    sequence.seat = null;
    sequence.cells = 0;
  }
}
