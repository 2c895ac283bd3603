/**
 * The choice of the next token from a row of logits. Bias and penalties are applied here, to the few tokens that they concern
 * (llama.cpp's samplers walk the whole vocabulary); truncation, temperature and the draw are llama.cpp's chain; greedy is a
 * search for the maximum. A grammar is asked about the chosen token only, and about the vocabulary if it says no.
 */
import { BerthError } from '../../errors.ts';
import type { Sampling } from '../engine.ts';
import { addressOf, int32At, type Llama, type Pointer, viewAt } from './binding.ts';
import type { Model } from './model.ts';

/** llama.cpp's default window of the repeat penalty, in tokens. */
export const REPEAT_WINDOW = 64;
/** `llama_token_data`: id, logit, p: three 32-bit words. */
const WORDS_PER_CANDIDATE = 3;
/** How many of the likeliest tokens a grammar is asked about before the whole vocabulary is. A draw among them is one with top_k. */
const GREEDY_SHORTLIST = 64;
const DRAW_SHORTLIST = 256;

/** The logits of the last decode. The memory is llama.cpp's: a row is valid until the next decode. */
export class LogitRows {
  readonly #model: Model;
  readonly #context: Pointer;
  readonly #rows: number;
  #base: Pointer = 0n;
  #all = new Float32Array(0);

  /** `rows`: at least this many rows are allocated (llama.cpp allocates `n_seq_max`). */
  constructor(model: Model, context: Pointer, rows: number) {
    this.#model = model;
    this.#context = context;
    this.#rows = rows;
  }

  /** The row of the batch's token `index`, which must have been marked as an output. */
  row(index: number): Float32Array {
    const { llama, vocabTokens } = this.#model;
    const base = llama.llama_get_logits(this.#context);
    const pointer = llama.llama_get_logits_ith(this.#context, index);
    if (base === null || pointer === null) throw new BerthError('engine_error', 'llama.cpp returned no logits.');
    if (base !== this.#base) {
      this.#base = base;
      this.#all = new Float32Array(viewAt(base, this.#rows * vocabTokens * 4));
    }
    const start = Number(pointer - base) / 4;
    return this.#all.subarray(start, start + vocabTokens);
  }
}

/**
 * The first of the highest logits. Positive floats compare as their bits do, and integers are read without a conversion; eight at a
 * time, a vocabulary of 262,144 takes 0.13 ms rather than 0.36.
 */
export function argmax(row: Float32Array): number {
  const bits = new Int32Array(row.buffer, row.byteOffset, row.length);
  const end = bits.length - (bits.length % 8);
  let most = 0;
  let at = 0;
  for (let i = 0; i < end; i += 8) {
    const isHigher =
      (bits[i] as number) > most ||
      (bits[i + 1] as number) > most ||
      (bits[i + 2] as number) > most ||
      (bits[i + 3] as number) > most ||
      (bits[i + 4] as number) > most ||
      (bits[i + 5] as number) > most ||
      (bits[i + 6] as number) > most ||
      (bits[i + 7] as number) > most;
    if (!isHigher) continue;
    for (let index = i; index < i + 8; index += 1)
      if ((bits[index] as number) > most) most = bits[(at = index)] as number;
  }
  for (let index = end; index < bits.length; index += 1)
    if ((bits[index] as number) > most) most = bits[(at = index)] as number;
  // None is positive, or one is no number.
  return most > 0 && most <= INFINITY_BITS ? at : argmaxOfAny(row);
}

/** +Infinity as an integer; what is above it is NaN. */
const INFINITY_BITS = 0x7f800000;

function argmaxOfAny(row: Float32Array): number {
  let best = 0;
  let value = row[0] ?? -Infinity;
  for (let index = 1; index < row.length; index += 1) {
    const logit = row[index] as number;
    if (logit > value) {
      value = logit;
      best = index;
    }
  }
  return best;
}

/** The `count` tokens with the highest logits, likeliest first. */
export function topTokens(row: Float32Array, count: number): number[] {
  if (count === 0) return [];
  const top: number[] = [];
  let least = -Infinity;
  for (let token = 0; token < row.length; token += 1) {
    const logit = row[token] as number;
    if (!(logit > least) && top.length >= count) continue;
    let place = top.length;
    while (place > 0 && (row[top[place - 1] as number] as number) < logit) place -= 1;
    top.splice(place, 0, token);
    if (top.length > count) top.pop();
    if (top.length === count) least = row[top[count - 1] as number] as number;
  }
  return top.slice(0, count);
}

/** log(sum(exp(logits))), so that `logit - logSumExp` is a log-probability. */
export function logSumExp(row: Float32Array): number {
  const highest = row[argmax(row)] ?? 0;
  let sum = 0;
  for (const logit of row) sum += Math.exp(logit - highest);
  return highest + Math.log(sum);
}

export interface TokenChoice {
  readonly token: number;
  /** Under the model's own distribution, before penalties and temperature; null unless asked for. */
  readonly logprob: number | null;
  readonly top: readonly { readonly token: number; readonly logprob: number }[];
}

/** A `llama_token_data_array` over our memory. One suffices for a thread: it is filled anew for each use. */
class Candidates {
  readonly #words: Int32Array;
  readonly #logits: Float32Array;
  readonly header = new BigInt64Array(4);

  constructor(size: number) {
    const memory = new ArrayBuffer(size * WORDS_PER_CANDIDATE * 4);
    this.#words = new Int32Array(memory);
    this.#logits = new Float32Array(memory);
  }

  fill(tokens: readonly number[] | null, row: Float32Array): void {
    const size = tokens === null ? row.length : tokens.length;
    for (let index = 0; index < size; index += 1) {
      const token = tokens === null ? index : (tokens[index] as number);
      this.#words[index * WORDS_PER_CANDIDATE] = token;
      this.#logits[index * WORDS_PER_CANDIDATE + 1] = row[token] as number;
    }
    this.header.set([addressOf(this.#words), BigInt(size), -1n, 0n]);
  }

  fillOne(token: number): void {
    this.#words[0] = token;
    this.#logits[1] = 0;
    this.header.set([addressOf(this.#words), 1n, -1n, 0n]);
  }

  /** The likeliest token that wasn't masked, or null. Only after samplers that leave the order alone (a grammar). */
  best(): number | null {
    let best: number | null = null;
    let value = -Infinity;
    const size = Number(this.header[1]);
    for (let index = 0; index < size; index += 1) {
      const logit = this.#logits[index * WORDS_PER_CANDIDATE + 1] as number;
      if (logit > value) {
        value = logit;
        best = this.#words[index * WORDS_PER_CANDIDATE] as number;
      }
    }
    return best;
  }

  /** The token that a chain's last sampler selected. Samplers may have moved the array. */
  selected(): number {
    const index = this.header[2] ?? -1n;
    if (index < 0n) throw new BerthError('engine_error', 'llama.cpp’s sampler selected no token.');
    return int32At((this.header[0] ?? 0n) + index * BigInt(WORDS_PER_CANDIDATE * 4));
  }
}

export interface SamplerSpec {
  readonly sampling: Sampling;
  /** GBNF with a rule `root`, or null. */
  readonly grammar: string | null;
  /** Tokens that must not be chosen (end of generation, when it is to be ignored). */
  readonly banned: readonly number[];
  readonly logprobs: number | null;
  /** The prompt's last tokens, for the repeat penalty. */
  readonly history: readonly number[];
}

/** One per process thread: scratch memory of vocabulary size is made on first need. */
export class SamplerFactory {
  readonly model: Model;
  #scratch: Candidates | null = null;

  constructor(model: Model) {
    this.model = model;
  }

  get scratch(): Candidates {
    this.#scratch ??= new Candidates(this.model.vocabTokens);
    return this.#scratch;
  }

  /** Throws `unsupported_parameter` if llama.cpp refuses the grammar. */
  make(spec: SamplerSpec): TokenSampler {
    return new TokenSampler(this, spec);
  }
}

export class TokenSampler {
  readonly #factory: SamplerFactory;
  readonly #llama: Llama;
  readonly #spec: SamplerSpec;
  readonly #chain: Pointer | null;
  readonly #grammar: Pointer | null;
  readonly #counts = new Map<number, number>();
  readonly #recent: number[];

  constructor(factory: SamplerFactory, spec: SamplerSpec) {
    this.#factory = factory;
    this.#llama = factory.model.llama;
    this.#spec = spec;
    this.#recent = spec.history.slice(-REPEAT_WINDOW);
    this.#grammar = this.#makeGrammar();
    this.#chain = spec.sampling.temperature > 0 ? this.#makeChain(spec.sampling) : null;
  }

  #makeGrammar(): Pointer | null {
    if (this.#spec.grammar === null) return null;
    const grammar = this.#llama.llama_sampler_init_grammar(this.#factory.model.vocab, this.#spec.grammar, 'root');
    if (grammar === null) {
      throw new BerthError('unsupported_parameter', 'The output format is too large for llama.cpp’s grammars.', {
        param: 'response_format',
      });
    }
    return grammar;
  }

  #makeChain(sampling: Sampling): Pointer {
    const llama = this.#llama;
    const chain = llama.llama_sampler_chain_init({ no_perf: true });
    const add = (sampler: Pointer): void => void llama.llama_sampler_chain_add(chain, sampler);
    if (sampling.topK > 0) add(llama.llama_sampler_init_top_k(sampling.topK));
    if (sampling.topP < 1) add(llama.llama_sampler_init_top_p(sampling.topP, 1));
    if (sampling.minP > 0) add(llama.llama_sampler_init_min_p(sampling.minP, 1));
    add(llama.llama_sampler_init_temp(sampling.temperature));
    const seed = sampling.seed ?? Math.floor(Math.random() * 0xfffffffe);
    add(llama.llama_sampler_init_dist(seed >>> 0));
    return chain;
  }

  /** Chooses from the batch's output `index`; `row` is its logits, which are changed. The choice isn't accepted yet. */
  sample(context: Pointer, index: number, row: Float32Array): TokenChoice {
    const wanted = this.#spec.logprobs;
    const raw = wanted === null ? null : row.slice();
    this.#adjust(row);
    const token = this.#choose(context, index, row);
    if (wanted === null || raw === null) return { token, logprob: null, top: [] };
    const total = logSumExp(raw);
    return {
      token,
      logprob: (raw[token] as number) - total,
      top: topTokens(raw, wanted).map((other) => ({ token: other, logprob: (raw[other] as number) - total })),
    };
  }

  /** OpenAI's presence and frequency penalties over the output; the repeat penalty of CTRL (Keskar et al. 2019) over the last tokens. */
  #adjust(row: Float32Array): void {
    const { logitBias, presencePenalty, frequencyPenalty, repeatPenalty } = this.#spec.sampling;
    if (repeatPenalty !== 1) {
      for (const token of new Set(this.#recent)) {
        const logit = row[token] as number;
        row[token] = logit > 0 ? logit / repeatPenalty : logit * repeatPenalty;
      }
    }
    if (presencePenalty !== 0 || frequencyPenalty !== 0) {
      for (const [token, count] of this.#counts)
        row[token] = (row[token] as number) - presencePenalty - frequencyPenalty * count;
    }
    for (const [token, bias] of Object.entries(logitBias)) {
      const id = Number(token);
      if (id >= 0 && id < row.length) row[id] = (row[id] as number) + bias;
    }
    for (const token of this.#spec.banned) row[token] = -Infinity;
  }

  #choose(context: Pointer, index: number, row: Float32Array): number {
    if (this.#chain === null) {
      const token = argmax(row);
      if (this.#grammar === null || this.#allows([token], row) !== null) return token;
      return this.#allows(topTokens(row, GREEDY_SHORTLIST), row) ?? this.#allows(null, row) ?? this.#noToken();
    }
    const token = this.#llama.llama_sampler_sample(this.#chain, context, index);
    if (this.#grammar === null || this.#allows([token], row) !== null) return token;
    if (this.#allows(topTokens(row, DRAW_SHORTLIST), row) === null && this.#allows(null, row) === null) this.#noToken();
    // The scratch candidates are masked by the grammar now: draw again among them.
    const { scratch } = this.#factory;
    this.#llama.llama_sampler_apply(this.#chain, scratch.header);
    return scratch.selected();
  }

  /** The likeliest of `tokens` (null: of all) that the grammar allows next, or null. */
  #allows(tokens: readonly number[] | null, row: Float32Array): number | null {
    const { scratch } = this.#factory;
    scratch.fill(tokens, row);
    this.#llama.llama_sampler_apply(this.#grammar, scratch.header);
    return scratch.best();
  }

  #noToken(): never {
    throw new BerthError('engine_error', 'The grammar allows no token of this model’s vocabulary.');
  }

  /** Tells the sampler what was appended. Throws `engine_error` where the grammar doesn't allow it (resumed tokens of another format). */
  accept(token: number): void {
    this.#counts.set(token, (this.#counts.get(token) ?? 0) + 1);
    this.#recent.push(token);
    if (this.#recent.length > REPEAT_WINDOW) this.#recent.shift();
    if (this.#grammar === null) return;
    // llama.cpp throws a C++ exception through us (and ends the process) for a token that the grammar doesn't allow.
    const { scratch } = this.#factory;
    scratch.fillOne(token);
    this.#llama.llama_sampler_apply(this.#grammar, scratch.header);
    if (scratch.best() === null)
      throw new BerthError('engine_error', 'A token was chosen that the grammar doesn’t allow.');
    this.#llama.llama_sampler_accept(this.#grammar, token);
  }

  free(): void {
    if (this.#chain !== null) this.#llama.llama_sampler_free(this.#chain);
    if (this.#grammar !== null) this.#llama.llama_sampler_free(this.#grammar);
  }
}
