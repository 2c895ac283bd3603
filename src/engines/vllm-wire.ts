/** Requests as vLLM's endpoints want them, and what its streams say (`vllm/entrypoints` of 0.32: `/tokenize`, `/v1/completions`). */
import type { ChatMessage, GenerateRequest, PromptInput, Sampling, TokenLogprob, ToolSpec } from './engine.ts';
import type { CompletionsWire, Piece } from './completions.ts';
import type { Exchange } from './http-dialect.ts';
import { HttpFailure } from './http-client.ts';

type ChatInput = Extract<PromptInput, { type: 'chat' }>;

export interface VllmWireOptions {
  /** Names the part of the prefix cache that a tenant may find things in. */
  readonly saltOf: (request: GenerateRequest) => string;
}

/** Asks with the exchange's signal; the server may be frozen for long, so without a deadline. */
export const ask = async ({ client, signal }: Exchange, path: string, body: object): Promise<Record<string, unknown>> =>
  (await client.ask(path, body, { signal, deadlineMicros: null })) as Record<string, unknown>;

export function vllmWire({ saltOf }: VllmWireOptions): CompletionsWire {
  return {
    async tokenize(input, exchange) {
      const model = exchange.launch.modelId;
      if (input.type === 'tokens') return input.tokens;
      const body =
        input.type === 'text'
          ? { model, prompt: input.text, add_special_tokens: true }
          : { model, messages: input.messages.map(messageBody), add_generation_prompt: true };
      return (await ask(exchange, '/tokenize', body))['tokens'] as number[];
    },
    async detokenize(tokens, exchange) {
      return String((await ask(exchange, '/detokenize', { model: exchange.launch.modelId, tokens }))['prompt']);
    },
    path: '/v1/completions',
    body: (request, tokens, maxTokens, launch) => ({
      model: launch.modelId,
      prompt: tokens,
      max_tokens: maxTokens,
      stream: true,
      stream_options: { include_usage: true },
      return_token_ids: true,
      ...samplingBody(request.sampling),
      ignore_eos: request.ignoreEos,
      ...(request.logprobs === null ? {} : { logprobs: request.logprobs }),
      ...formatBody(request),
      cache_salt: saltOf(request),
      priority: priorityOf(request),
    }),
    createReader: (request) => (data) => pieceOf(data as CompletionChunk, request),
  };
}

/** Lower runs first. */
export const priorityOf = ({ priority }: GenerateRequest): number => (priority === 'batch' ? 1 : 0);

export const samplingBody = (sampling: Sampling): Record<string, unknown> => ({
  temperature: sampling.temperature,
  top_p: sampling.topP,
  top_k: sampling.topK === 0 ? -1 : sampling.topK,
  min_p: sampling.minP,
  ...(sampling.seed === null ? {} : { seed: sampling.seed }),
  presence_penalty: sampling.presencePenalty,
  frequency_penalty: sampling.frequencyPenalty,
  repetition_penalty: sampling.repeatPenalty,
  ...(Object.keys(sampling.logitBias).length === 0 ? {} : { logit_bias: sampling.logitBias }),
});

export function formatBody({ format }: GenerateRequest): Record<string, unknown> {
  if (format.type === 'text') return {};
  if (format.type === 'json_object') return { response_format: { type: 'json_object' } };
  return { response_format: { type: 'json_schema', json_schema: { name: 'answer', schema: format.schema } } };
}

/** For `/v1/chat/completions`, whose parsers find the calls of tools. */
export function toolsBody(
  request: GenerateRequest,
  input: ChatInput,
  model: string,
  own: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const { toolChoice } = input;
  return {
    model,
    messages: input.messages.map(messageBody),
    tools: input.tools.map(toolBody),
    tool_choice:
      typeof toolChoice === 'string' ? toolChoice : { type: 'function', function: { name: toolChoice.name } },
    ...(request.maxTokens === null ? {} : { max_tokens: request.maxTokens }),
    ...samplingBody(request.sampling),
    stop: [...request.stop],
    ignore_eos: request.ignoreEos,
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
    ...own,
  };
}

const toolBody = ({ name, description, parameters }: ToolSpec): object => ({
  type: 'function',
  function: {
    name,
    ...(description === undefined ? {} : { description }),
    parameters: parameters ?? { type: 'object', properties: {} },
  },
});

export function messageBody({ role, content, name, toolCalls = [], toolCallId }: ChatMessage): object {
  return {
    role,
    content,
    ...(name === undefined ? {} : { name }),
    ...(toolCallId === undefined ? {} : { tool_call_id: toolCallId }),
    ...(toolCalls.length === 0
      ? {}
      : {
          tool_calls: toolCalls.map((call) => ({
            id: call.id,
            type: 'function',
            function: { name: call.name, arguments: call.arguments },
          })),
        }),
  };
}

export interface CompletionChunk {
  readonly error?: unknown;
  readonly choices?: readonly {
    readonly text?: string;
    readonly token_ids?: readonly number[] | null;
    readonly finish_reason?: string | null;
    readonly logprobs?: CompletionLogprobs | null;
  }[];
  readonly usage?: { readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null } | null;
}
export interface CompletionLogprobs {
  readonly tokens?: readonly string[];
  readonly token_logprobs?: readonly (number | null)[];
  readonly top_logprobs?: readonly (Readonly<Record<string, number>> | null)[];
}

/** An answer that went wrong ends with `[DONE]` too: only a reason to finish is an end. Throws what the server said went wrong. */
export function pieceOf(chunk: CompletionChunk, request: Pick<GenerateRequest, 'logprobs'>): Piece | null {
  if (chunk.error !== undefined) throw failureOf(chunk.error);
  const cachedTokens = chunk.usage?.prompt_tokens_details?.cached_tokens ?? null;
  const [choice] = chunk.choices ?? [];
  if (choice === undefined)
    return cachedTokens === null
      ? null
      : { text: '', tokenIds: [], logprobs: [], cachedTokens, finish: null, endsWithEnd: false };
  const tokenIds = choice.token_ids ?? [];
  const finish = finishOf(choice.finish_reason);
  return {
    text: choice.text ?? '',
    tokenIds,
    logprobs: logprobsOf(choice.logprobs ?? null, tokenIds, request.logprobs),
    cachedTokens,
    finish,
    // No stop strings are sent, so whatever stops it is a token that means the end.
    endsWithEnd: finish === 'stop' && tokenIds.length > 0,
  };
}

export function finishOf(reason: string | null | undefined): 'stop' | 'length' | null {
  if (reason === null || reason === undefined) return null;
  if (reason === 'stop' || reason === 'length') return reason;
  // `abort`, `error`: whatever was generated, it is not what was asked for.
  throw new HttpFailure(500, { error: { type: `finish_reason ${reason}` } });
}

export const failureOf = (error: unknown): HttpFailure => {
  const code = Number((error as { code?: unknown } | null)?.code);
  return new HttpFailure(Number.isInteger(code) && code >= 400 ? code : 500, { error });
};

/** Its other candidates are told by text only. */
const UNKNOWN_ID = -1;

export function logprobsOf(
  told: CompletionLogprobs | null,
  tokenIds: readonly number[],
  most: number | null,
): readonly TokenLogprob[] {
  if (told === null || most === null) return [];
  return tokenIds.map((tokenId, index) => {
    const token = told.tokens?.[index] ?? '';
    const logprob = told.token_logprobs?.[index] ?? 0;
    const top = Object.entries(told.top_logprobs?.[index] ?? {})
      .map(([text, value]) => ({ token: text, tokenId: text === token ? tokenId : UNKNOWN_ID, logprob: value }))
      .toSorted((a, b) => b.logprob - a.logprob)
      .slice(0, most);
    return { token, tokenId, logprob, top };
  });
}
