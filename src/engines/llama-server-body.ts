/**
 * Requests as llama-server's endpoints want them (its README, "API Endpoints"). `/completion` is the one that tells token ids, which
 * a preempted request needs to go on; `/v1/chat/completions` is the one that parses tool calls, with the server's own parsers.
 */
import type { ChatMessage, GenerateRequest } from './engine.ts';

type ChatInput = Extract<GenerateRequest['input'], { type: 'chat' }>;

/** Does the answer have to go through the server's tool parsers? */
export const wantsToolParser = ({ input }: GenerateRequest): boolean =>
  input.type === 'chat' && input.tools.length > 0 && input.toolChoice !== 'none';

/** Everything that both endpoints call the same. All of it is said: the server's own defaults differ from ours. */
function sampling({ sampling, maxTokens, resumeTokens, stop, ignoreEos }: GenerateRequest): Record<string, unknown> {
  return {
    stream: true,
    // Another tenant's prompt must not be found by how fast it is answered, so no cache is shared.
    cache_prompt: false,
    return_progress: true,
    n_predict: maxTokens === null ? -1 : maxTokens - resumeTokens.length,
    temperature: sampling.temperature,
    top_p: sampling.topP,
    top_k: sampling.topK,
    min_p: sampling.minP,
    seed: sampling.seed ?? -1,
    presence_penalty: sampling.presencePenalty,
    frequency_penalty: sampling.frequencyPenalty,
    repeat_penalty: sampling.repeatPenalty,
    logit_bias: Object.entries(sampling.logitBias).map(([token, bias]) => [Number(token), bias]),
    stop: [...stop],
    ignore_eos: ignoreEos,
  };
}

/**
 * For `/completion`. `prompt` is text, or tokens; what was generated before follows it as tokens, which the server takes as they are.
 */
export function completionBody(request: GenerateRequest, prompt: string | readonly number[]): Record<string, unknown> {
  const { resumeTokens, format, logprobs } = request;
  const begun = typeof prompt === 'string' ? [prompt] : [...prompt];
  return {
    ...sampling(request),
    prompt: resumeTokens.length === 0 ? prompt : [...begun, ...resumeTokens],
    return_tokens: true,
    n_probs: logprobs === null ? 0 : Math.max(1, logprobs),
    ...(format.type === 'json_schema' ? { json_schema: format.schema } : {}),
    ...(format.type === 'json_object' ? { json_schema: { type: 'object' } } : {}),
  };
}

/** For `/apply-template`: the prompt's text, as the model's own template makes it. */
export const templateBody = (input: ChatInput): Record<string, unknown> => ({ messages: input.messages.map(message) });

/** For `/v1/chat/completions`. */
export function chatBody(request: GenerateRequest, input: ChatInput): Record<string, unknown> {
  const { toolChoice, tools, messages } = { ...input };
  const { format } = request;
  // It knows `required`, and no choice of one: the others are not shown.
  const shown = typeof toolChoice === 'string' ? tools : tools.filter((tool) => tool.name === toolChoice.name);
  return {
    ...sampling(request),
    messages: messages.map(message),
    tools: shown.map(({ name, description, parameters }) => ({
      type: 'function',
      function: {
        name,
        ...(description === undefined ? {} : { description }),
        parameters: parameters ?? { type: 'object', properties: {} },
      },
    })),
    tool_choice: typeof toolChoice === 'string' ? toolChoice : 'required',
    parallel_tool_calls: true,
    // Thoughts stay in the text, as the other engines leave them.
    reasoning_format: 'none',
    timings_per_token: true,
    stream_options: { include_usage: true },
    ...(format.type === 'json_schema'
      ? { response_format: { type: 'json_schema', json_schema: { schema: format.schema } } }
      : {}),
    ...(format.type === 'json_object' ? { response_format: { type: 'json_object' } } : {}),
  };
}

function message({ role, content, name, toolCalls, toolCallId }: ChatMessage): Record<string, unknown> {
  return {
    role,
    content,
    ...(name === undefined ? {} : { name }),
    ...(toolCallId === undefined ? {} : { tool_call_id: toolCallId }),
    ...(toolCalls === undefined || toolCalls.length === 0
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
