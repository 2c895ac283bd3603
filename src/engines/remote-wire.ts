/**
 * Requests as OpenAI's API has them, and what its streams say (openapi.yaml of openai-openapi). Only fields of that API are sent, and
 * others only where a client asked for them: a server that knows them not says so.
 */
import { BerthError } from '../errors.ts';
import type {
  EmbedRequest,
  EngineEvent,
  EngineRequest,
  GenerateRequest,
  RequestUsage,
  TokenLogprob,
  ToolCall,
} from './engine.ts';
import type { Exchange } from './http-dialect.ts';
import { failureOf, formatBody, messageBody } from './vllm-wire.ts';
import { HttpFailure } from './http-client.ts';

/** Resolves when the request has had its last event. Rejects with a `BerthError`, or what the server said went wrong. */
export async function runRemote(request: EngineRequest, model: string, exchange: Exchange): Promise<void> {
  try {
    await (request.kind === 'embed' ? embed(request, model, exchange) : generate(request, model, exchange));
  } catch (error) {
    throw refusalOf(error);
  }
}

/** The other side's limits and keys are not this client's fault. */
function refusalOf(error: unknown): unknown {
  if (!(error instanceof HttpFailure)) return isSocketError(error) ? unreachable(error) : error;
  const { status, retryAfterMicros } = error;
  const detail = retryAfterMicros === null ? {} : { retryAfterMicros };
  if (status === 401 || status === 403)
    return new BerthError('engine_error', `The remote server does not take this node’s key (${status}).`);
  if (status === 429) return new BerthError('queue_full', 'The remote server has too much to do (429).', detail);
  if (status === 503) return new BerthError('engine_error', 'The remote server is not ready (503).', detail);
  if (status >= 300 && status < 400)
    return new BerthError('engine_error', `The remote server answers from elsewhere (${status}): correct its \`url\`.`);
  return error;
}

const isSocketError = (error: unknown): error is NodeJS.ErrnoException =>
  error instanceof Error &&
  'code' in error &&
  /^(E[A-Z]+|CERT_\w+|\w*SELF_SIGNED\w*|UNABLE_\w+)$/.test(String(error.code));

const unreachable = (error: NodeJS.ErrnoException): BerthError =>
  new BerthError('engine_error', `The remote server can’t be reached, or hung up (${error.code}).`, { cause: error });

interface Chunk {
  readonly error?: unknown;
  readonly choices?: readonly {
    readonly text?: string;
    readonly delta?: {
      readonly content?: string | null;
      readonly refusal?: string | null;
      readonly tool_calls?: readonly {
        readonly index?: number;
        readonly id?: string;
        readonly function?: { readonly name?: string; readonly arguments?: string };
      }[];
    };
    readonly finish_reason?: string | null;
    readonly logprobs?: Logprobs | null;
  }[];
  readonly usage?: {
    readonly prompt_tokens?: number;
    readonly completion_tokens?: number;
    readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null;
  } | null;
}

interface Logprobs {
  readonly content?: readonly Candidate[] | null;
  readonly tokens?: readonly string[];
  readonly token_logprobs?: readonly (number | null)[];
  readonly top_logprobs?: readonly (Readonly<Record<string, number>> | null)[];
}
interface Candidate {
  readonly token: string;
  readonly logprob: number;
  readonly top_logprobs?: readonly Candidate[];
}

async function generate(request: GenerateRequest, model: string, exchange: Exchange): Promise<void> {
  const { client, signal, emit, decoded } = exchange;
  if (request.resumeTokens.length > 0)
    throw new BerthError('engine_error', 'An answer of a remote model that broke off can’t be gone on from.');
  const isChat = request.input.type === 'chat';
  const calls: { id: string; name: string; arguments: string }[] = [];
  let usage: Chunk['usage'] = null;
  let reason: Extract<EngineEvent, { type: 'finished' }>['reason'] | null = null;
  let pieces = 0;
  let isAccepted = false;
  const accept = (): void => {
    if (!isAccepted) emit({ type: 'accepted', promptTokens: 0, cachedTokens: 0 });
    isAccepted = true;
  };
  const body = isChat ? chatBody(request, model) : completionBody(request, model);
  await client.stream(isChat ? '/chat/completions' : '/completions', body, signal, (data) => {
    const chunk = data as Chunk;
    if (chunk.error !== undefined && chunk.error !== null) throw failureOf(chunk.error);
    usage = chunk.usage ?? usage;
    const [choice] = chunk.choices ?? [];
    if (choice === undefined) return;
    accept();
    for (const part of choice.delta?.tool_calls ?? []) {
      const call = (calls[part.index ?? 0] ??= { id: '', name: '', arguments: '' });
      if (part.id) call.id = part.id;
      call.name += part.function?.name ?? '';
      call.arguments += part.function?.arguments ?? '';
    }
    const text = choice.text ?? choice.delta?.content ?? choice.delta?.refusal ?? '';
    const logprobs = logprobsOf(choice.logprobs ?? null, request.logprobs);
    if (text !== '' || logprobs.length > 0) {
      pieces += 1;
      // A piece is about a token: what they were is told in the end.
      decoded(1);
      emit({ type: 'tokens', text, tokenIds: [], ...(request.logprobs === null ? {} : { logprobs }) });
    }
    reason = reasonOf(choice.finish_reason) ?? reason;
  });
  if (reason === null) throw new Error('the stream ended without a reason to finish');
  accept();
  const whole: readonly ToolCall[] = reason === 'length' ? [] : calls.filter((call) => call !== undefined);
  for (const [index, call] of whole.entries()) emit({ type: 'toolCall', index, call });
  emit({ type: 'finished', reason, usage: usageOf(usage, pieces) });
}

function reasonOf(reason: string | null | undefined): 'stop' | 'length' | 'tool_calls' | null {
  if (reason === null || reason === undefined) return null;
  if (reason === 'length' || reason === 'tool_calls') return reason;
  if (reason === 'function_call') return 'tool_calls';
  if (reason === 'stop' || reason === 'content_filter') return 'stop';
  // `abort` and its like: the answer is not what was asked for.
  throw new BerthError('engine_error', 'The remote server broke its answer off.');
}

function usageOf(usage: Chunk['usage'], pieces: number): RequestUsage {
  return {
    promptTokens: usage?.prompt_tokens ?? 0,
    cachedTokens: usage?.prompt_tokens_details?.cached_tokens ?? 0,
    outputTokens: usage?.completion_tokens ?? pieces,
    prefillMicros: 0,
    decodeMicros: 0,
  };
}

/** Of both endpoints. What is the API's default is left out: some servers know few fields. */
function shared(request: GenerateRequest, model: string): Record<string, unknown> {
  const { sampling, stop, maxTokens } = request;
  return {
    model,
    stream: true,
    stream_options: { include_usage: true },
    ...(maxTokens === null ? {} : { max_tokens: maxTokens }),
    temperature: sampling.temperature,
    ...(sampling.topP === 1 ? {} : { top_p: sampling.topP }),
    ...(sampling.topK === 0 ? {} : { top_k: sampling.topK }),
    ...(sampling.minP === 0 ? {} : { min_p: sampling.minP }),
    ...(sampling.seed === null ? {} : { seed: sampling.seed }),
    ...(sampling.presencePenalty === 0 ? {} : { presence_penalty: sampling.presencePenalty }),
    ...(sampling.frequencyPenalty === 0 ? {} : { frequency_penalty: sampling.frequencyPenalty }),
    ...(sampling.repeatPenalty === 1 ? {} : { repetition_penalty: sampling.repeatPenalty }),
    ...(Object.keys(sampling.logitBias).length === 0 ? {} : { logit_bias: sampling.logitBias }),
    ...(stop.length === 0 ? {} : { stop: [...stop] }),
    ...(request.ignoreEos ? { ignore_eos: true } : {}),
    ...formatBody(request),
  };
}

function completionBody(request: GenerateRequest, model: string): Record<string, unknown> {
  const { input, logprobs, echo } = request;
  return {
    ...shared(request, model),
    prompt: input.type === 'text' ? input.text : input.type === 'tokens' ? [...input.tokens] : '',
    ...(logprobs === null ? {} : { logprobs }),
    ...(echo ? { echo } : {}),
  };
}

function chatBody(request: GenerateRequest, model: string): Record<string, unknown> {
  const { input, logprobs } = request;
  if (input.type !== 'chat') return {};
  const { toolChoice } = input;
  const tools = input.tools.map((tool) => ({ type: 'function', function: tool }));
  const choice =
    typeof toolChoice === 'string' ? toolChoice : { type: 'function', function: { name: toolChoice.name } };
  return {
    ...shared(request, model),
    messages: input.messages.map(messageBody),
    ...(tools.length === 0 ? {} : { tools, tool_choice: choice }),
    ...(logprobs === null ? {} : { logprobs: true, ...(logprobs === 0 ? {} : { top_logprobs: logprobs }) }),
  };
}

/** Ids are not told. */
const UNKNOWN_ID = -1;

function logprobsOf(told: Logprobs | null, most: number | null): readonly TokenLogprob[] {
  if (told === null || most === null) return [];
  const of = ({ token, logprob }: Candidate): Omit<TokenLogprob, 'top'> => ({ token, tokenId: UNKNOWN_ID, logprob });
  if (told.content)
    return told.content.map((one) => ({ ...of(one), top: (one.top_logprobs ?? []).slice(0, most).map(of) }));
  return (told.tokens ?? []).map((token, index) => ({
    ...of({ token, logprob: told.token_logprobs?.[index] ?? 0 }),
    top: Object.entries(told.top_logprobs?.[index] ?? {})
      .toSorted(([, a], [, b]) => b - a)
      .slice(0, most)
      .map(([text, logprob]) => of({ token: text, logprob })),
  }));
}

async function embed({ inputs }: EmbedRequest, model: string, exchange: Exchange): Promise<void> {
  const { client, signal, emit } = exchange;
  const texts = inputs.every((input) => typeof input === 'string');
  // Texts and tokens can't stand in one list.
  const batches = texts ? [inputs] : inputs.map((input) => [input]);
  const vectors: Float32Array[] = [];
  let promptTokens = 0;
  for (const input of batches) {
    const answer = (await client.ask(
      '/embeddings',
      { model, input, encoding_format: 'float' },
      { signal, deadlineMicros: null },
    )) as EmbeddingAnswer;
    const rows = answer.data.toSorted((a, b) => (a.index ?? 0) - (b.index ?? 0));
    if (rows.length !== input.length)
      throw new BerthError('engine_error', 'The remote server gave fewer embeddings than it was given texts.');
    vectors.push(...rows.map(({ embedding }) => Float32Array.from(embedding)));
    promptTokens += answer.usage?.prompt_tokens ?? 0;
  }
  emit({ type: 'accepted', promptTokens, cachedTokens: 0 });
  const usage = { promptTokens, cachedTokens: 0, outputTokens: 0, prefillMicros: 0, decodeMicros: 0 };
  emit({ type: 'embedded', vectors, usage });
}

interface EmbeddingAnswer {
  readonly data: readonly { readonly embedding: readonly number[]; readonly index?: number }[];
  readonly usage?: { readonly prompt_tokens?: number };
}
