/** From llama-server's streams to the contract's events. */
import type { EngineEvent, GenerateRequest, RequestUsage, TokenLogprob, ToolCall } from './engine.ts';
import { HttpFailure } from './http-client.ts';

type Told = Extract<EngineEvent, { type: 'accepted' | 'tokens' | 'toolCall' | 'finished' }>;

export interface ReaderOptions {
  readonly request: Pick<GenerateRequest, 'resumeTokens' | 'logprobs'>;
  /** The server's slots may hold more than one request may have. */
  readonly contextTokens: number;
  readonly emit: (event: Told) => void;
  readonly prefilled: (tokens: number) => void;
  readonly decoded: (tokens: number) => void;
  /** Token ids of a text, where the server left out some: half a character's. */
  readonly tokenize: (text: string) => Promise<readonly number[]>;
}

export interface Reader {
  /** Throws what the server said went wrong. */
  push(data: unknown): void;
  /** Resolves when all that was pushed is told. */
  readonly settled: () => Promise<void>;
  /** The last event was told. */
  ended(): boolean;
}

interface Progress {
  readonly total: number;
  readonly cache: number;
  readonly processed: number;
}
interface Timings {
  readonly cache_n?: number;
  readonly prompt_n?: number;
  readonly predicted_n?: number;
}
interface Probability {
  readonly id: number;
  readonly token: string;
  readonly logprob: number;
  readonly top_logprobs?: readonly Probability[];
}
interface CompletionChunk {
  readonly error?: unknown;
  readonly content?: string;
  readonly tokens?: readonly number[];
  readonly stop?: boolean;
  readonly stop_type?: 'none' | 'eos' | 'limit' | 'word';
  readonly tokens_predicted?: number;
  readonly tokens_evaluated?: number;
  readonly prompt_progress?: Progress;
  readonly timings?: Timings;
  readonly completion_probabilities?: readonly Probability[];
}
interface ChatChunk {
  readonly error?: unknown;
  readonly choices?: readonly {
    readonly finish_reason?: 'stop' | 'length' | 'tool_calls' | null;
    readonly delta?: {
      readonly content?: string | null;
      readonly tool_calls?: readonly {
        readonly index?: number;
        readonly id?: string;
        readonly function?: { readonly name?: string; readonly arguments?: string };
      }[];
    };
  }[];
  readonly usage?: { readonly prompt_tokens?: number; readonly completion_tokens?: number };
  readonly prompt_progress?: Progress;
  readonly timings?: Timings;
}

/** What both streams have in common: the prompt. */
class Prompt {
  tokens: number | null = null;
  #cached = 0;
  #processed = 0;
  readonly #options: ReaderOptions;

  constructor(options: ReaderOptions) {
    this.#options = options;
  }

  /** `total` holds what was generated before, too. */
  accept(total: number | undefined, cached: number): void {
    if (this.tokens !== null || total === undefined) return;
    this.tokens = total - this.#options.request.resumeTokens.length;
    this.#cached = cached;
    this.#options.emit({ type: 'accepted', promptTokens: this.tokens, cachedTokens: cached });
  }

  progress({ total, cache, processed }: Progress): void {
    this.accept(total, cache);
    const before = Math.max(this.#processed, cache);
    if (processed > before) this.#options.prefilled(processed - before);
    this.#processed = Math.max(before, processed);
  }

  usage(generated: number): RequestUsage {
    return {
      promptTokens: this.tokens ?? 0,
      cachedTokens: this.#cached,
      outputTokens: this.#options.request.resumeTokens.length + generated,
      prefillMicros: 0,
      decodeMicros: 0,
    };
  }

  isFull(generated: number): boolean {
    const { contextTokens, request } = this.#options;
    return (this.tokens ?? 0) + request.resumeTokens.length + generated >= contextTokens;
  }
}

const failure = (error: unknown): HttpFailure => {
  const code = (error as { code?: unknown } | null)?.code;
  return new HttpFailure(typeof code === 'number' ? code : 500, { error });
};

/** Of `/completion` with `stream` and `return_tokens`. */
export function createCompletionReader(options: ReaderOptions): Reader {
  const { emit, tokenize, request } = options;
  const prompt = new Prompt(options);
  let generated = 0;
  /** Generated as the server counts: ids of halves of characters are counted, but not told. */
  let counted = 0;
  let hasEnded = false;
  let ids: number[] = [];
  let logprobs: TokenLogprob[] = [];
  const waiting: CompletionChunk[] = [];
  let repairing: Promise<void> | null = null;

  /** Ids whose text is held back (a stop string may be coming) wait for it: whoever has the ids has the text. */
  const tell = (text: string): void => {
    if (ids.length === 0 && text === '') return;
    generated += ids.length;
    const told = { type: 'tokens' as const, text, tokenIds: ids };
    emit(request.logprobs === null ? told : { ...told, logprobs });
    ids = [];
    logprobs = [];
  };
  const finish = (reason: 'stop' | 'length'): void => {
    hasEnded = true;
    emit({ type: 'finished', reason, usage: prompt.usage(generated) });
  };

  const add = (chunk: CompletionChunk, tokens: readonly number[]): void => {
    ids.push(...tokens);
    for (const one of chunk.completion_probabilities ?? []) logprobs.push(logprobOf(one, request.logprobs ?? 0));
    const text = chunk.content ?? '';
    if (text === '') return;
    tell(text);
    if (prompt.isFull(generated)) finish('length');
  };

  const take = (chunk: CompletionChunk): void => {
    if (chunk.prompt_progress !== undefined) return prompt.progress(chunk.prompt_progress);
    prompt.accept(chunk.tokens_evaluated, chunk.timings?.cache_n ?? 0);
    if (chunk.stop === true) {
      // The end token's id was told before its meaning; it is no part of the answer.
      if (chunk.stop_type === 'eos') ids.pop();
      tell(chunk.content ?? '');
      return finish(chunk.stop_type === 'limit' ? 'length' : 'stop');
    }
    const tokens = chunk.tokens ?? [];
    const total = chunk.tokens_predicted ?? counted + tokens.length;
    const missing = total - counted - tokens.length;
    counted = total;
    if (missing <= 0) return add(chunk, tokens);
    const told = (own: readonly number[]): void => {
      repairing = null;
      add(chunk, own);
      drain();
    };
    repairing = tokenize(chunk.content ?? '').then(told, () => told(tokens));
  };

  const drain = (): void => {
    for (;;) {
      if (repairing !== null || hasEnded) return;
      const next = waiting.shift();
      if (next === undefined) return;
      take(next);
    }
  };

  return {
    push(data) {
      const chunk = data as CompletionChunk;
      if (chunk.error !== undefined) throw failure(chunk.error);
      waiting.push(chunk);
      drain();
    },
    async settled() {
      for (;;) {
        const under = repairing;
        if (under === null) return;
        await under;
      }
    },
    ended: () => hasEnded,
  };
}

function logprobOf({ id, token, logprob, top_logprobs: top = [] }: Probability, most: number): TokenLogprob {
  return {
    token,
    tokenId: id,
    logprob,
    top: top.slice(0, most).map((other) => ({ token: other.token, tokenId: other.id, logprob: other.logprob })),
  };
}

interface ChatReaderOptions extends ReaderOptions {
  /** The answer is whole, with so many calls. May throw, and nothing of it is told then. */
  readonly called: (calls: number, reason: 'stop' | 'length' | 'tool_calls') => void;
}

/**
 * Of `/v1/chat/completions` with tools. Its text comes without token ids, so what was told of it could not be gone on from: it is
 * kept until the end, and a request that is preempted before begins anew.
 */
export function createChatReader(options: ChatReaderOptions): Reader {
  const { emit, decoded } = options;
  const prompt = new Prompt(options);
  let text = '';
  const calls: { id: string; name: string; arguments: string }[] = [];
  let generated = 0;
  let reason: 'stop' | 'length' | 'tool_calls' | null = null;
  let hasEnded = false;

  const finish = (): void => {
    if (hasEnded || reason === null) return;
    // A call that was cut is none.
    const whole: readonly ToolCall[] = reason === 'length' ? [] : calls;
    options.called(whole.length, reason);
    hasEnded = true;
    prompt.accept(0, 0);
    if (text !== '') emit({ type: 'tokens', text, tokenIds: [] });
    for (const [index, call] of whole.entries()) emit({ type: 'toolCall', index, call });
    emit({ type: 'finished', reason, usage: prompt.usage(generated) });
  };
  const count = (total: number | undefined): void => {
    if (total === undefined || total <= generated) return;
    decoded(total - generated);
    generated = total;
  };

  return {
    push(data) {
      const { error, prompt_progress: progress, timings, usage, choices } = data as ChatChunk;
      if (error !== undefined) throw failure(error);
      if (hasEnded) return;
      if (progress !== undefined) prompt.progress(progress);
      const { prompt_n: computed = 0, cache_n: cached = 0, predicted_n: predicted = 0 } = timings ?? {};
      if (predicted > 0) prompt.accept(computed + cached, cached);
      count(predicted);
      const [choice] = choices ?? [];
      text += choice?.delta?.content ?? '';
      for (const part of choice?.delta?.tool_calls ?? []) {
        const call = (calls[part.index ?? 0] ??= { id: '', name: '', arguments: '' });
        if (part.id) call.id = part.id;
        call.name += part.function?.name ?? '';
        call.arguments += part.function?.arguments ?? '';
      }
      if (choice?.finish_reason) reason = choice.finish_reason;
      else if (reason === null && prompt.isFull(generated)) {
        reason = 'length';
        return finish();
      }
      if (usage === undefined) return;
      prompt.accept(usage.prompt_tokens, 0);
      count(usage.completion_tokens);
      finish();
    },
    settled: () => Promise.resolve(),
    ended: () => hasEnded,
  };
}
