/** The tokens of one step, as llama.cpp reads them. */
import { addressOf, type Batch } from './binding.ts';

/** `llama_batch` over arrays that are filled anew for each step. */
export class StepBatch {
  readonly batch: Batch;
  readonly #tokens: Int32Array;
  readonly #positions: Int32Array;
  readonly #outputs: Int8Array;
  readonly #seatPointers: BigUint64Array;
  readonly #seats: Int32Array;
  readonly #counts: Int32Array;

  constructor(capacity: number, seats: number) {
    // Explicit buffers: V8 may move the memory of small typed arrays, and llama.cpp reads by address.
    this.#tokens = new Int32Array(new ArrayBuffer(capacity * 4));
    this.#positions = new Int32Array(new ArrayBuffer(capacity * 4));
    this.#counts = new Int32Array(new ArrayBuffer(capacity * 4)).fill(1);
    this.#seatPointers = new BigUint64Array(new ArrayBuffer(capacity * 8));
    this.#outputs = new Int8Array(new ArrayBuffer(capacity));
    this.#seats = new Int32Array(new ArrayBuffer(Math.max(seats, 64) * 4)).map((_, index) => index);
    this.batch = {
      n_tokens: 0,
      token: addressOf(this.#tokens),
      embd: null,
      pos: addressOf(this.#positions),
      n_seq_id: addressOf(this.#counts),
      seq_id: addressOf(this.#seatPointers),
      logits: addressOf(this.#outputs),
    };
  }

  clear(): void {
    this.batch.n_tokens = 0;
  }

  /** Returns the token's index in the batch. */
  add(token: number, position: number, seat: number, output: boolean): number {
    const index = this.batch.n_tokens;
    this.#tokens[index] = token;
    this.#positions[index] = position;
    this.#seatPointers[index] = addressOf(this.#seats) + BigInt(seat * 4);
    this.#outputs[index] = output ? 1 : 0;
    this.batch.n_tokens = index + 1;
    return index;
  }
}
