/**
 * How large the KV of so many tokens is at most, by what was seen of the same model. More tokens have more bytes, and each fewer than
 * those before it, or as many: the layers that a window slides over stop growing, and a file has its frame once.
 */
import type { Bytes } from '../core/ids.ts';

interface Sample {
  readonly tokens: number;
  readonly bytes: Bytes;
}

export class SizeGuess {
  #shortest: Sample | null = null;
  #last: Sample | null = null;

  seen(tokens: number, bytes: Bytes): void {
    // The model's file or its settings have changed: what was seen before says nothing.
    if (bytes > (this.most(tokens) ?? Infinity)) this.#shortest = null;
    this.#last = { tokens, bytes };
    if (this.#shortest === null || tokens <= this.#shortest.tokens) this.#shortest = this.#last;
  }

  /** null: nothing was seen yet. */
  most(tokens: number): Bytes | null {
    if (this.#last === null || this.#shortest === null) return null;
    const bounds = [this.#shortest, this.#last].map((one) => (one.bytes * Math.max(tokens, one.tokens)) / one.tokens);
    return Math.ceil(Math.min(...bounds));
  }
}
