/**
 * Embeddings on a context of their own, made on the first request. Texts of all waiting requests share a decode; each text
 * stays inside one ubatch of a unified cache, because llama.cpp overwrites pooled vectors of texts that it splits.
 */
import type { RequestId } from '../../core/ids.ts';
import { MIB } from '../../core/ids.ts';
import { BerthError } from '../../errors.ts';
import type { ModelLaunch } from '../engine.ts';
import { type Pointer, viewAt } from './binding.ts';
import type { EmbedJob } from './commands.ts';
import { failedEvent, nowMicros } from './common.ts';
import type { Emit, StepOutcome } from './generation.ts';
import { makeContext, type Model, tokenize } from './model.ts';
import { StepBatch } from './step-batch.ts';

/** Texts in one decode. */
const TEXTS_LIMIT = 64;
const WAITING_LIMIT = 1024;
/** llama.h's LLAMA_POOLING_TYPE_*. */
const POOLING_NONE = 0;
const POOLING_MEAN = 1;
const POOLING_RANK = 4;
/** A generative model's graph makes logits for every token that is pooled: memory that this bounds, as long as texts are short. */
const LOGITS_LIMIT_BYTES = 128 * MIB;
const SMALLEST_UBATCH_TOKENS = 64;

interface Embedding {
  readonly requestId: RequestId;
  readonly texts: readonly Int32Array[];
  readonly vectors: string[];
  readonly promptTokens: number;
  /** Texts that are in a vector or in the present decode. */
  taken: number;
  micros: number;
}

const powerOfTwoFrom = (least: number): number => 2 ** Math.ceil(Math.log2(Math.max(least, 1)));

/** Scales to length 1, in place; a zero vector stays one. */
function normalise(vector: Float32Array): Float32Array {
  let sum = 0;
  for (const value of vector) sum += value * value;
  const scale = sum > 0 ? 1 / Math.sqrt(sum) : 0;
  for (let index = 0; index < vector.length; index += 1) vector[index] = (vector[index] as number) * scale;
  return vector;
}

export class Embedder {
  readonly #model: Model;
  readonly #launch: ModelLaunch;
  readonly #emit: Emit;
  #queue: Embedding[] = [];
  #context: Pointer | null = null;
  #batch: StepBatch | null = null;
  #ubatchTokens = 0;
  #lanes = 0;

  constructor(model: Model, launch: ModelLaunch, emit: Emit) {
    this.#model = model;
    this.#launch = launch;
    this.#emit = emit;
  }

  get pending(): number {
    return this.#queue.length;
  }

  submit(job: EmbedJob): void {
    if (this.#queue.some((other) => other.requestId === job.requestId)) return;
    try {
      if (this.#queue.length >= WAITING_LIMIT)
        throw new BerthError('queue_full', `${WAITING_LIMIT} requests wait in this model’s runner already.`);
      if (this.#model.poolingType === POOLING_RANK)
        throw new BerthError('unsupported_parameter', 'This model ranks texts; it can’t embed them.', {
          param: 'model',
        });
      const texts = job.inputs.map((input, index) => this.#tokens(input, index));
      const promptTokens = texts.reduce((sum, text) => sum + text.length, 0);
      this.#emit(job.requestId, { type: 'accepted', promptTokens, cachedTokens: 0 });
      const embedding: Embedding = { requestId: job.requestId, texts, vectors: [], promptTokens, taken: 0, micros: 0 };
      if (texts.length === 0) this.#finish(embedding);
      else this.#queue.push(embedding);
    } catch (thrown) {
      this.#fail(job.requestId, thrown);
    }
  }

  #tokens(input: string | readonly number[], index: number): Int32Array {
    const param = `input.${index}`;
    const tokens = typeof input === 'string' ? tokenize(this.#model, input, true, false) : Int32Array.from(input);
    if (tokens.length === 0) throw new BerthError('invalid_request', 'A text to embed is empty.', { param });
    if (tokens.some((token) => token < 0 || token >= this.#model.vocabTokens)) {
      throw new BerthError(
        'invalid_request',
        `A token id is outside of the vocabulary of ${this.#model.vocabTokens}.`,
        { param },
      );
    }
    if (tokens.length > this.#launch.contextTokens) {
      throw new BerthError(
        'context_length_exceeded',
        `A text to embed has ${tokens.length} tokens; the model’s context holds ${this.#launch.contextTokens}.`,
        { param },
      );
    }
    return tokens;
  }

  cancel(requestId: RequestId): void {
    this.#queue = this.#queue.filter((other) => other.requestId !== requestId);
  }

  /** One decode over as many waiting texts as fit; null if none waits. */
  step(lanes: number): StepOutcome | null {
    const first = this.#queue[0];
    if (first === undefined) return null;
    const started = nowMicros();
    try {
      const { tokens, shares } = this.#run(first, lanes, started);
      return { micros: nowMicros() - started, prefillTokens: tokens, decoded: [], shares };
    } catch (thrown) {
      const taken = this.#queue.filter(
        (embedding) => embedding.taken > embedding.vectors.length || embedding === first,
      );
      for (const { requestId } of taken) this.#fail(requestId, thrown);
      return null;
    }
  }

  #run(first: Embedding, lanes: number, started: number): Pick<StepOutcome, 'shares'> & { tokens: number } {
    const { llama } = this.#model;
    this.#ensureContext((first.texts[first.taken] as Int32Array).length);
    const context = this.#context as Pointer;
    const batch = this.#batch as StepBatch;
    if (lanes !== this.#lanes) {
      llama.llama_set_n_threads(context, lanes, lanes);
      this.#lanes = lanes;
    }
    batch.clear();
    const owners = this.#fill(batch);
    const code = llama.llama_decode(context, batch.batch);
    if (code !== 0)
      throw new BerthError('engine_error', `llama.cpp could not embed the text: llama_decode returned ${code}.`);
    for (const [seat, owner] of owners.entries()) owner.vectors.push(this.#vector(context, seat));
    const memory = llama.llama_get_memory(context);
    if (memory !== null && memory !== undefined) llama.llama_memory_clear(memory, false);

    const tokens = batch.batch.n_tokens;
    const micros = nowMicros() - started;
    const shares = [...new Set(owners)].map((owner): readonly [RequestId, number] => {
      const own = owners.reduce((sum, other, seat) => sum + (other === owner ? (this.#lengths[seat] as number) : 0), 0);
      const share = Math.round((micros * own) / tokens);
      owner.micros += share;
      if (owner.vectors.length === owner.texts.length) this.#finish(owner);
      return [owner.requestId, share];
    });
    return { tokens, shares };
  }

  /** Tokens of each text in the present decode. */
  #lengths: number[] = [];

  /** Takes texts first come first served, until one doesn't fit. Returns whose text has which sequence id. */
  #fill(batch: StepBatch): Embedding[] {
    const owners: Embedding[] = [];
    this.#lengths = [];
    for (const embedding of this.#queue) {
      for (let text = embedding.texts[embedding.taken]; text !== undefined; text = embedding.texts[embedding.taken]) {
        if (owners.length === TEXTS_LIMIT || batch.batch.n_tokens + text.length > this.#ubatchTokens) return owners;
        for (const [position, token] of text.entries()) batch.add(token, position, owners.length, true);
        owners.push(embedding);
        this.#lengths.push(text.length);
        embedding.taken += 1;
      }
    }
    return owners;
  }

  #vector(context: Pointer, seat: number): string {
    const { llama } = this.#model;
    const pointer = llama.llama_get_embeddings_seq(context, seat);
    if (pointer === null) throw new BerthError('engine_error', 'llama.cpp returned no embedding.');
    const size = llama.llama_model_n_embd_out(this.#model.pointer);
    const vector = normalise(new Float32Array(viewAt(pointer, size * 4)).slice());
    return Buffer.from(vector.buffer).toString('base64');
  }

  /** A context whose ubatch holds a text of `tokens`; a larger one replaces a smaller one. */
  #ensureContext(tokens: number): void {
    if (this.#context !== null && this.#ubatchTokens >= tokens) return;
    const { vocabTokens, poolingType } = this.#model;
    // Models made for embedding have no output layer, hence no logits.
    const usual =
      poolingType > POOLING_NONE
        ? Math.max(this.#launch.batchTokens, 512)
        : powerOfTwoFrom(LOGITS_LIMIT_BYTES / (vocabTokens * 8)) / 2;
    const ubatchTokens = Math.max(powerOfTwoFrom(tokens), usual, SMALLEST_UBATCH_TOKENS);
    this.dispose();
    this.#context = makeContext(this.#model, {
      n_ctx: ubatchTokens,
      n_batch: ubatchTokens,
      n_ubatch: ubatchTokens,
      n_seq_max: TEXTS_LIMIT,
      n_threads: 1,
      n_threads_batch: 1,
      embeddings: true,
      kv_unified: true,
      pooling_type: poolingType > POOLING_NONE ? poolingType : POOLING_MEAN,
    });
    this.#batch = new StepBatch(ubatchTokens, TEXTS_LIMIT);
    this.#ubatchTokens = ubatchTokens;
    this.#lanes = 0;
  }

  #finish(embedding: Embedding): void {
    this.cancel(embedding.requestId);
    this.#emit(embedding.requestId, {
      type: 'embedded',
      vectorsBase64: embedding.vectors,
      usage: {
        promptTokens: embedding.promptTokens,
        cachedTokens: 0,
        outputTokens: 0,
        prefillMicros: embedding.micros,
        decodeMicros: 0,
      },
    });
  }

  #fail(requestId: RequestId, thrown: unknown): void {
    this.cancel(requestId);
    this.#emit(requestId, failedEvent(thrown));
  }

  /** Frees the context; requests stay queued unless they are cancelled. */
  dispose(): void {
    if (this.#context !== null) this.#model.llama.llama_free(this.#context);
    this.#context = null;
    this.#batch = null;
  }

  /** Fails what is left, for the end of the loop. */
  stop(): void {
    for (const { requestId } of this.#queue)
      this.#fail(requestId, new BerthError('model_stopped', 'The model was put to sleep while the request ran.'));
    this.dispose();
  }
}
