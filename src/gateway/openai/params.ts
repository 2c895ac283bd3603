/** From a checked body to what the node takes. Nothing here looks at the clock or the node. */
import { hash } from 'node:crypto';
import type { Micros, TenantId } from '../../core/ids.ts';
import { requestId } from '../../core/ids.ts';
import { BerthError } from '../../errors.ts';
import type { Submission } from '../../runtime/api.ts';
import type { Headers } from '../options.ts';
import { keepAliveMicros } from './duration.ts';
import type { ChatBody, CompletionBody, EmbeddingBody } from './schema.ts';
import type {
  ChatMessage,
  GenerateRequest,
  OutputFormat,
  PromptInput,
  Sampling,
  ToolChoice,
  ToolSpec,
} from './types.ts';

/** Who asks, and under which id the node will know it. */
export interface Caller {
  readonly tenantId: TenantId;
  readonly keyId: string | null;
  /** Whose KV cache its requests use: its own, or that of all tenants that chose to share theirs. */
  readonly cacheTenantId: TenantId;
  /** `req-…`; further choices of the same request append `-1`, `-2`, … */
  readonly id: string;
  readonly headers: Headers;
}

type AnyBody = ChatBody | CompletionBody | EmbeddingBody;
type SamplingBody = ChatBody | CompletionBody;

/** /v1/completions without `max_tokens`: as OpenAI and vLLM. Chat goes on until the model ends or the context is full. */
const DEFAULT_COMPLETION_TOKENS = 16;
/** llama.cpp takes a seed of 32 bits and reads the largest as "random". */
const SEEDS = 2 ** 32 - 1;

function goalMicros(headers: Headers, name: string): Micros | null {
  const value = headers[name];
  if (value === undefined) return null;
  const millis = typeof value === 'string' && /^\d{1,9}(\.\d{1,6})?$/.test(value) ? Number(value) : 0;
  if (millis > 0) return Math.round(millis * 1_000);
  throw new BerthError('invalid_request', `The header \`${name}\` must be a positive number of milliseconds.`, {
    param: name,
  });
}

/** What clients call a conversation; a name too long to be one is none. */
function conversationOf(headers: Headers): string | null {
  const name = headers['x-conversation-id'] ?? headers['x-session-id'];
  return typeof name === 'string' && name !== '' && name.length <= 512 ? name : null;
}

const FAIRNESS_ID = 'x-llm-d-inference-fairness-id';
const MOST_NAME_CHARACTERS = 256;

/** Whose request it is inside its tenant. Only a digest goes on: what clients call their users is nobody's business. */
function shareOf(headers: Headers): { share?: string } {
  const name = headers[FAIRNESS_ID];
  if (name === undefined || name === '') return {};
  if (typeof name === 'string' && name.length <= MOST_NAME_CHARACTERS)
    return { share: hash('sha256', name, 'base64url').slice(0, 12) };
  throw new BerthError(
    'invalid_request',
    `The header \`${FAIRNESS_ID}\` must be one name of at most ${MOST_NAME_CHARACTERS} characters.`,
    { param: FAIRNESS_ID },
  );
}

function priorityOf(body: AnyBody): Submission['priority'] {
  if (body.priority === 'batch' || body.priority === 'interactive') return body.priority;
  if (typeof body.priority === 'number') return body.priority > 0 ? 'batch' : 'interactive';
  return body.service_tier === 'flex' ? 'batch' : 'interactive';
}

/** Everything of a submission but the request itself. */
function service(body: AnyBody, caller: Caller): Omit<Submission, 'request'> {
  return {
    model: body.model,
    tenantId: caller.tenantId,
    keyId: caller.keyId,
    priority: priorityOf(body),
    ttftGoalMicros: goalMicros(caller.headers, 'x-slo-ttft-ms'),
    interTokenGoalMicros: goalMicros(caller.headers, 'x-slo-tpot-ms'),
    keepAliveMicros: body.keep_alive === undefined ? null : keepAliveMicros(body.keep_alive),
    conversation: ('prompt_cache_key' in body ? body.prompt_cache_key : undefined) ?? conversationOf(caller.headers),
    ...shareOf(caller.headers),
  };
}

/** OpenAI's defaults; the samplers that OpenAI lacks are off. */
function sampling(body: SamplingBody): Sampling {
  if (body.repeat_penalty !== undefined && body.repetition_penalty !== undefined) {
    const param = 'repetition_penalty';
    throw new BerthError('invalid_request', '`repeat_penalty` and `repetition_penalty` mean the same: send one.', {
      param,
    });
  }
  const bias: Record<number, number> = {};
  for (const [token, value] of Object.entries(body.logit_bias ?? {})) bias[Number(token)] = value;
  return {
    temperature: body.temperature ?? 1,
    topP: body.top_p ?? 1,
    topK: Math.max(0, body.top_k ?? 0),
    minP: body.min_p ?? 0,
    // -1 is llama.cpp's way to ask for a random one.
    seed: body.seed === undefined || body.seed === -1 ? null : ((body.seed % SEEDS) + SEEDS) % SEEDS,
    presencePenalty: body.presence_penalty ?? 0,
    frequencyPenalty: body.frequency_penalty ?? 0,
    repeatPenalty: body.repeat_penalty ?? body.repetition_penalty ?? 1,
    logitBias: bias,
  };
}

function format(body: SamplingBody): OutputFormat {
  const wanted = body.response_format;
  if (wanted === undefined) return { type: 'text' };
  return wanted.type === 'json_schema'
    ? { type: 'json_schema', schema: wanted.json_schema.schema }
    : { type: wanted.type };
}

type Content = NonNullable<ChatBody['messages'][number]['content']>;
const plain = (content: Content | undefined): string =>
  typeof content === 'string'
    ? content
    : (content ?? []).map((part) => (part.type === 'text' ? part.text : part.refusal)).join('');

function chatMessage(message: ChatBody['messages'][number]): ChatMessage {
  const named = message.name === undefined ? {} : { name: message.name };
  const content = plain(message.content);
  if (message.role === 'user') return { role: 'user', content, ...named };
  if (message.role === 'tool') return { role: 'tool', content, toolCallId: message.tool_call_id, ...named };
  if (message.role !== 'assistant') return { role: 'system', content, ...named };
  const calls = (message.tool_calls ?? []).map((call) => ({
    id: call.id,
    name: call.function.name,
    arguments: call.function.arguments,
  }));
  const said = content === '' ? (message.refusal ?? '') : content;
  return { role: 'assistant', content: said, ...named, ...(calls.length > 0 ? { toolCalls: calls } : {}) };
}

function toolSpecs(body: ChatBody): readonly ToolSpec[] {
  const names = new Set<string>();
  return (body.tools ?? []).map(({ function: spec }, index) => {
    if (names.has(spec.name)) {
      const param = `tools.${index}.function.name`;
      throw new BerthError('invalid_request', `\`${param}\` is the name of an earlier tool.`, { param });
    }
    names.add(spec.name);
    return {
      name: spec.name,
      ...(spec.description === undefined ? {} : { description: spec.description }),
      ...(spec.parameters === undefined ? {} : { parameters: spec.parameters }),
    };
  });
}

function toolChoice(body: ChatBody, tools: readonly ToolSpec[]): ToolChoice {
  const choice = body.tool_choice ?? (tools.length > 0 ? 'auto' : 'none');
  const param = 'tool_choice';
  if (typeof choice === 'string') {
    if (choice === 'required' && tools.length === 0) {
      throw new BerthError('invalid_request', '`tool_choice` asks for a call, but `tools` names none.', { param });
    }
    return choice;
  }
  if (tools.every((tool) => tool.name !== choice.function.name)) {
    throw new BerthError('invalid_request', '`tool_choice` names a function that is not in `tools`.', { param });
  }
  return { name: choice.function.name };
}

interface Output {
  readonly maxTokens: number | null;
  readonly logprobs: number | null;
  readonly echo: boolean;
}

/** One request a choice: the choices of a prompt differ by their seed only. */
function choices(body: SamplingBody, caller: Caller, inputs: readonly PromptInput[], output: Output): Submission[] {
  const shared = service(body, caller);
  const base = sampling(body);
  const outputFormat = format(body);
  const stop = body.stop === undefined ? [] : typeof body.stop === 'string' ? [body.stop] : body.stop;
  const perPrompt = body.n ?? 1;
  return inputs.flatMap((input, prompt) =>
    Array.from({ length: perPrompt }, (_, copy): Submission => {
      const index = prompt * perPrompt + copy;
      const request: Omit<GenerateRequest, 'resumeTokens'> = {
        kind: 'generate',
        requestId: requestId(index === 0 ? caller.id : `${caller.id}-${index}`),
        tenantId: caller.cacheTenantId,
        input,
        sampling: base.seed === null ? base : { ...base, seed: (base.seed + copy) % SEEDS },
        stop,
        format: outputFormat,
        ignoreEos: body.ignore_eos ?? false,
        ...output,
      };
      return { ...shared, request };
    }),
  );
}

/** @throws BerthError invalid_request for fields that contradict each other. */
export function chatSubmissions(body: ChatBody, caller: Caller): Submission[] {
  const { max_tokens: old, max_completion_tokens: limit } = body;
  if (old !== undefined && limit !== undefined && old !== limit) {
    throw new BerthError('invalid_request', '`max_tokens` and `max_completion_tokens` differ.', {
      param: 'max_tokens',
    });
  }
  if (body.top_logprobs !== undefined && body.logprobs !== true) {
    throw new BerthError('invalid_request', '`top_logprobs` needs `logprobs: true`.', { param: 'top_logprobs' });
  }
  const tools = toolSpecs(body);
  const input: PromptInput = {
    type: 'chat',
    messages: body.messages.map(chatMessage),
    tools,
    toolChoice: toolChoice(body, tools),
  };
  const logprobs = body.logprobs === true ? (body.top_logprobs ?? 0) : null;
  return choices(body, caller, [input], { maxTokens: limit ?? old ?? null, logprobs, echo: false });
}

function prompts(prompt: CompletionBody['prompt']): PromptInput[] {
  if (typeof prompt === 'string') return [{ type: 'text', text: prompt }];
  if (isTokens(prompt)) return [{ type: 'tokens', tokens: prompt }];
  return prompt.map(
    (one): PromptInput => (typeof one === 'string' ? { type: 'text', text: one } : { type: 'tokens', tokens: one }),
  );
}

const isTokens = (list: readonly (string | number | readonly number[])[]): list is readonly number[] =>
  typeof list[0] === 'number';

export function completionSubmissions(body: CompletionBody, caller: Caller): Submission[] {
  const output = {
    maxTokens: body.max_tokens ?? DEFAULT_COMPLETION_TOKENS,
    logprobs: body.logprobs ?? null,
    echo: body.echo ?? false,
  };
  return choices(body, caller, prompts(body.prompt), output);
}

export function embeddingSubmission(body: EmbeddingBody, caller: Caller): Submission {
  const { input } = body;
  const inputs = typeof input === 'string' ? [input] : isTokens(input) ? [input] : input;
  return {
    ...service(body, caller),
    request: { kind: 'embed', requestId: requestId(caller.id), tenantId: caller.cacheTenantId, inputs },
  };
}
