/**
 * Generation on a server that tells text without token ids. To be gone on from after a preemption, text needs numbers all the same: each
 * piece of text gets one of ours, and whoever resumes gets the pieces back, behind the prompt's text. There the server makes tokens of
 * all of it anew: at the seam they may be others than were generated, so the text may go on in another way than it would have.
 */
import { BerthError } from '../errors.ts';
import { createChatTexts } from './checkpoint-chat.ts';
import { createTeller } from './completions.ts';
import type { GenerateRequest } from './engine.ts';
import type { Exchange } from './http-dialect.ts';
import { formatBody, logprobsOf, pieceOf, samplingBody } from './vllm-wire.ts';
import type { CompletionChunk } from './vllm-wire.ts';

/** A piece is a token's text most of the time, so there are about as many as the vocabulary has. */
const MOST_PIECES = 2_000_000;
/** A token of which no text was told by itself. */
const SILENT = 0;

export interface Pieces {
  idOf(text: string): number;
  textOf(ids: readonly number[]): string;
}

/** Throws `engine_error` when there are more pieces than any vocabulary has. */
export function createPieces(): Pieces {
  const ids = new Map<string, number>([['', SILENT]]);
  const texts: string[] = [''];
  return {
    idOf(text) {
      const known = ids.get(text);
      if (known !== undefined) return known;
      if (texts.length >= MOST_PIECES)
        throw new BerthError('engine_error', 'The engine’s text comes in too many different pieces: unload the model.');
      ids.set(text, texts.length);
      return texts.push(text) - 1;
    },
    textOf: (given) => given.map((id) => texts[id] ?? '').join(''),
  };
}

interface Counted extends Omit<CompletionChunk, 'usage'> {
  readonly usage?: {
    readonly prompt_tokens?: number;
    readonly completion_tokens?: number;
    readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null;
  } | null;
}

/** Resolves when the request has had its last event. Rejects with a `BerthError`, or what the server said went wrong. */
export function createTextWire(): (request: GenerateRequest, exchange: Exchange) => Promise<void> {
  const pieces = createPieces();
  const chats = createChatTexts();
  return async (request, exchange) => {
    const { client, launch, signal, emit, prefilled } = exchange;
    const { input, resumeTokens } = request;
    const resumed = pieces.textOf(resumeTokens);
    const isChat = input.type === 'chat';
    const prompt = isChat ? await chats.render(launch.path, input) : input.type === 'text' ? input.text : input.tokens;
    if (typeof prompt !== 'string' && prompt.length >= launch.contextTokens) {
      const message = `The prompt has ${prompt.length} tokens, the model's context ${launch.contextTokens}.`;
      throw new BerthError('context_length_exceeded', message);
    }
    // Text can't follow a prompt of tokens: such an answer is told when it is whole, and begins anew.
    const isWhole = request.format.type !== 'text' || typeof prompt !== 'string';
    const teller = createTeller(request, emit, prefilled, isWhole);
    const most = request.maxTokens === null ? null : request.maxTokens - resumeTokens.length;
    if (most !== null && most <= 0) {
      teller.accept(0, 0);
      return teller.finish('length');
    }
    const body = {
      model: launch.modelId,
      prompt: typeof prompt === 'string' ? prompt + resumed : [...prompt],
      // A template writes its special tokens itself.
      add_special_tokens: !isChat,
      max_tokens: most ?? launch.contextTokens,
      stream: true,
      stream_options: { include_usage: true, continuous_usage_stats: true },
      ...samplingBody(request.sampling),
      // Here 0 means all.
      top_k: request.sampling.topK,
      ignore_eos: request.ignoreEos,
      ...(request.logprobs === null ? {} : { logprobs: Math.max(1, request.logprobs) }),
      ...formatBody(request),
      // From 0 to 1, the higher the sooner.
      priority: request.priority === 'batch' ? 0.25 : 0.5,
    };
    const over = new AbortController();
    let counted = 0;
    try {
      await client.stream('/v1/completions', body, AbortSignal.any([signal, over.signal]), (data) => {
        const chunk = data as Counted;
        const { usage } = chunk;
        const told = pieceOf(chunk, request);
        if (told === null || teller.hasEnded()) return;
        if (!teller.isAccepted()) {
          const all = usage?.prompt_tokens ?? 0;
          teller.accept(Math.max(0, all - resumeTokens.length), told.cachedTokens ?? 0);
          if (request.echo && resumeTokens.length === 0 && typeof prompt === 'string')
            emit({ type: 'tokens', text: prompt, tokenIds: [] });
        }
        const total = usage?.completion_tokens ?? counted + (told.text === '' ? 0 : 1);
        const tokens = Math.max(0, total - counted);
        counted = Math.max(counted, total);
        // The end is counted, and has no text.
        const isEnd = told.finish === 'stop' && told.text === '' && tokens > 0;
        const silent = Array.from({ length: Math.max(0, tokens - 1 - (isEnd ? 1 : 0)) }, () => SILENT);
        const tokenIds = isEnd && tokens === 1 ? [] : tokens === 0 ? [] : [pieces.idOf(told.text), ...silent];
        const logprobs = logprobsOf(chunk.choices?.[0]?.logprobs ?? null, tokenIds, request.logprobs);
        teller.take({ ...told, tokenIds, logprobs, endsWithEnd: false });
        if (teller.isStopped()) over.abort();
      });
    } catch (error) {
      if (!teller.isStopped()) throw error;
    }
    teller.close();
  };
}
