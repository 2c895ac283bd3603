/**
 * Holds cells that a sliding window has left behind. llama.cpp gives a cell away whose only sequence can't see it any more
 * (`find_slot`), and then purges all positions before it, so that nobody could go on from an earlier point of that sequence. A cell of
 * two sequences it leaves alone: so the cells of all seats belong to one more sequence, too, which nobody computes. It costs
 * no cells: the cache has one for every token anyhow (`swa_full`). One for all seats, since llama.cpp keeps a row of logits for each
 * sequence. A cell that seats share is given to the holder once for each, so llama.cpp's count of the holder's positions is not to be
 * believed, and never asked for. Where all of a chunk falls out of sight at once (Llama 4's attention) half a window may still be lost.
 */

/** Sequences of a context besides the seats: the holder, and one for a moment. */
export const HOLDERS = 2;

/** Of positions from `start` to before `end`. */
export interface CellCalls {
  /** `llama_memory_seq_cp`. */
  share(from: number, to: number, start: number, end: number): void;
  /** `llama_memory_seq_rm`. */
  remove(sequence: number, start: number, end: number): void;
}

export class WindowHold {
  readonly #calls: CellCalls;
  readonly #seats: number;
  readonly #windowTokens: number;
  /** Of each seat: so many of its first cells are held. */
  readonly #held: Int32Array;

  /** `windowTokens` 0: there is nothing to hold. */
  constructor(seats: number, windowTokens: number, calls: CellCalls) {
    this.#calls = calls;
    this.#seats = seats;
    this.#windowTokens = windowTokens;
    this.#held = new Int32Array(seats);
  }

  /** Sequences that the context needs. */
  get sequences(): number {
    return this.#windowTokens === 0 ? this.#seats : this.#seats + HOLDERS;
  }

  /** One that is nobody's, for a moment; null: there is none. */
  get scratch(): number | null {
    return this.#windowTokens === 0 ? null : this.#seats + 1;
  }

  /** The seat has so many cells now. After each step: what a window's half is short of is in the window yet. */
  grown(seat: number, cells: number): void {
    const held = this.#held[seat] ?? 0;
    if (this.#windowTokens === 0 || cells - held < this.#windowTokens / 2) return;
    this.#calls.share(seat, this.#seats, held, cells);
    this.#held[seat] = cells;
  }

  /** The seat has only its first `cells` left. The others' at the same positions are held anew, before anything is computed. */
  cut(seat: number, cells: number): void {
    const end = this.#held[seat] ?? 0;
    if (end <= cells) return;
    this.#calls.remove(this.#seats, cells, end);
    this.#held[seat] = cells;
    for (const [other, held] of this.#held.entries())
      if (held > cells) this.#calls.share(other, this.#seats, cells, Math.min(held, end));
  }

  /** All cells are gone, or will be before anything is computed. */
  lost(): void {
    this.#held.fill(0);
  }
}
