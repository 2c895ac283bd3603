/**
 * Text generation on servers that take a prompt as token ids and tell the ids of what they generate (vLLM, SGLang, TensorRT-LLM). The
 * prompt is made into tokens first, by the server's own tokenizer and template: so its length is known before anything is computed, and
 * what was generated before a preemption can follow it exactly. Stop strings are looked for here: the servers hold text back for them
 * without saying which tokens it belongs to.
 */
import { BerthError } from '../errors.ts';
import type { EngineEvent, GenerateRequest, ModelLaunch, PromptInput, TokenLogprob } from './engine.ts';
import type { Exchange } from './http-dialect.ts';
import { heldLength } from './llamacpp/text.ts';

/** What one message of a stream says. */
export interface Piece {
  /** Whole characters; empty while one is incomplete. */
  readonly text: string;
  readonly tokenIds: readonly number[];
  /** As many as `tokenIds`, or none. */
  readonly logprobs: readonly TokenLogprob[];
  /** Of the prompt; null: not said here. */
  readonly cachedTokens: number | null;
  readonly finish: 'stop' | 'length' | null;
  /** The last id is the end token: no part of the answer. */
  readonly endsWithEnd: boolean;
}

export interface CompletionsWire {
  tokenize(input: PromptInput, exchange: Exchange): Promise<readonly number[]>;
  detokenize(tokens: readonly number[], exchange: Exchange): Promise<string>;
  readonly path: string;
  body(request: GenerateRequest, tokens: readonly number[], maxTokens: number, launch: ModelLaunch): object;
  /** One message; null: it says nothing of the text. Throws what the server said went wrong. */
  createReader(request: GenerateRequest): (data: unknown) => Piece | null;
}

/** Resolves when the request has had its last event. Rejects with a `BerthError`, or what the server said went wrong. */
export async function generateByTokens(
  request: GenerateRequest,
  exchange: Exchange,
  wire: CompletionsWire,
): Promise<void> {
  const { client, signal, launch, emit } = exchange;
  const { input, resumeTokens, echo } = request;
  const prompt = input.type === 'tokens' ? input.tokens : await wire.tokenize(input, exchange);
  if (prompt.length >= launch.contextTokens) {
    const message = `The prompt has ${prompt.length} tokens, the model's context ${launch.contextTokens}.`;
    throw new BerthError('context_length_exceeded', message);
  }
  const begun = prompt.length + resumeTokens.length;
  const room = launch.contextTokens - begun;
  const maxTokens = Math.min(room, (request.maxTokens ?? Infinity) - resumeTokens.length);
  const teller = createTeller(request, emit, exchange.prefilled);
  if (maxTokens <= 0) {
    teller.accept(prompt.length, 0);
    return teller.finish('length');
  }
  const echoed = echo && resumeTokens.length === 0 ? await echoOf(input, prompt, exchange, wire) : null;
  const over = new AbortController();
  const read = wire.createReader(request);
  try {
    const body = wire.body(request, [...prompt, ...resumeTokens], maxTokens, launch);
    await client.stream(wire.path, body, AbortSignal.any([signal, over.signal]), (data) => {
      const piece = read(data);
      if (piece === null || teller.hasEnded()) return;
      if (!teller.isAccepted()) {
        teller.accept(prompt.length, piece.cachedTokens ?? 0);
        if (echoed !== null) emit({ type: 'tokens', text: echoed, tokenIds: [] });
      }
      teller.take(piece);
      // The server knows nothing of stop strings: it would go on. It must also say how much was cached, where it says so last.
      if (teller.isStopped()) over.abort();
    });
  } catch (error) {
    if (!teller.isStopped()) throw error;
  }
  teller.close();
}

const echoOf = async (
  input: PromptInput,
  prompt: readonly number[],
  exchange: Exchange,
  wire: CompletionsWire,
): Promise<string> => (input.type === 'text' ? input.text : wire.detokenize(prompt, exchange));

type Tokens = Extract<EngineEvent, { type: 'tokens' }>;

export interface Teller {
  /** Tokens of the prompt, without those that were generated before. */
  accept(promptTokens: number, cachedTokens: number): void;
  isAccepted(): boolean;
  take(piece: Piece): void;
  /** A stop string was met. */
  isStopped(): boolean;
  hasEnded(): boolean;
  finish(reason: 'stop' | 'length'): void;
  /** The stream is over: tells the end that was heard, if one was. */
  close(): void;
}

interface Held {
  text: string;
  ids: number[];
  logprobs: TokenLogprob[];
}

const nothing = (): Held => ({ text: '', ids: [], logprobs: [] });

/**
 * From pieces to events. Ids are told with their text, so that whoever has the ids has the text. `isWhole`: nothing is told before the
 * end, because half of the answer could not be gone on from.
 */
export function createTeller(
  request: GenerateRequest,
  emit: (event: EngineEvent) => void,
  prefilled: (tokens: number) => void,
  // A grammar begins with the first token that is generated.
  isWhole: boolean = request.format.type !== 'text',
): Teller {
  const stops = request.stop.filter((stop) => stop.length > 0);
  const hasLogprobs = request.logprobs !== null;
  /** What is not told yet: each element has text, or is the last. */
  let held: Held[] = [];
  let told = 0;
  let promptTokens = 0;
  let cached = 0;
  let isAccepted = false;
  let isStopped = false;
  let reason: 'stop' | 'length' | null = null;
  let hasEnded = false;

  const tell = (parts: readonly Held[], text = parts.map((part) => part.text).join('')): void => {
    const tokenIds = parts.flatMap((part) => part.ids);
    if (tokenIds.length === 0 && text === '') return;
    told += tokenIds.length;
    const event: Tokens = { type: 'tokens', text, tokenIds };
    emit(hasLogprobs ? { ...event, logprobs: parts.flatMap((part) => part.logprobs) } : event);
  };

  /** Tells the parts whose text can't be the beginning of a stop string any more. */
  const flush = (): void => {
    const text = held.map((part) => part.text).join('');
    const stopsAt = stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
    if (stopsAt.length > 0) {
      isStopped = true;
      reason = 'stop';
      const parts = held;
      held = [];
      return tell(parts, text.slice(0, Math.min(...stopsAt)));
    }
    if (isWhole) return;
    const free = text.length - heldLength(text, stops);
    let end = 0;
    let count = 0;
    for (const part of held) {
      end += part.text.length;
      if (end > free || part.text === '') break;
      count += 1;
    }
    tell(held.slice(0, count));
    held = held.slice(count);
  };

  const add = ({ text, tokenIds, logprobs, endsWithEnd }: Piece): void => {
    const last = held.at(-1);
    const open = last !== undefined && last.text === '' ? last : nothing();
    if (open !== last) held.push(open);
    open.ids.push(...(endsWithEnd ? tokenIds.slice(0, -1) : tokenIds));
    open.logprobs.push(...(endsWithEnd ? logprobs.slice(0, -1) : logprobs));
    open.text += text;
  };

  const finish = (why: 'stop' | 'length'): void => {
    hasEnded = true;
    tell(held);
    held = [];
    const outputTokens = request.resumeTokens.length + told;
    const usage = { promptTokens, cachedTokens: cached, outputTokens, prefillMicros: 0, decodeMicros: 0 };
    emit({ type: 'finished', reason: why, usage });
  };

  return {
    isAccepted: () => isAccepted,
    accept(tokens, cachedTokens) {
      isAccepted = true;
      promptTokens = tokens;
      cached = cachedTokens;
      emit({ type: 'accepted', promptTokens, cachedTokens });
      prefilled(Math.max(0, promptTokens + request.resumeTokens.length - cachedTokens));
    },
    take(piece) {
      // Servers that tell it last tell it of a prompt that began with what was generated before, too.
      if (piece.cachedTokens !== null) cached = Math.min(promptTokens, piece.cachedTokens);
      if (reason !== null) return;
      add(piece);
      flush();
      reason ??= piece.finish;
    },
    isStopped: () => isStopped,
    hasEnded: () => hasEnded,
    finish,
    close() {
      if (!hasEnded && reason !== null) finish(reason);
    },
  };
}
