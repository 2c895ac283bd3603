/**
 * What a client may send: OpenAI's request bodies (openapi.yaml of openai-openapi), with the extra sampling fields that vLLM and
 * llama-server take. Objects are strict: a field that isn't here is refused by name, never silently ignored. `null` means
 * absent, as SDKs send it. Fields that are accepted and change nothing are in `HARMLESS`.
 */
import { z } from 'zod';
import { keepAliveMicros } from './duration.ts';

const BIG = 1_000_000;
/** SDKs send null for what they don't set. */
const absent = <Value>(value: Value | null | undefined): Value | undefined => value ?? undefined;
const unsupported = (message: string) => ({ message, params: { unsupported: true } });

/** A free-form JSON object of bounded depth: deeper ones overflow the stack of whoever serialises them. */
const MAX_DEPTH = 64;
function shallow(value: unknown): boolean {
  const open: [unknown, number][] = [[value, 1]];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const [item, depth] = next;
    if (typeof item !== 'object' || item === null) continue;
    if (depth > MAX_DEPTH) return false;
    for (const child of Object.values(item)) open.push([child, depth + 1]);
  }
  return true;
}
const freeObject = z
  .custom<Record<string, unknown>>(
    (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
    'must be of type object',
  )
  .refine(shallow, `must be nested at most ${MAX_DEPTH} levels`);

/** Only this value; anything else is a feature that we don't have. */
const only = <Value extends string | number | boolean>(value: Value) =>
  z
    .custom<Value>((given) => given === value, unsupported(`can only be ${JSON.stringify(value)}`))
    .nullish()
    .transform(absent);

/** Accepted for the sake of SDKs and without effect on the answer: who the end user is, how to store. */
export const HARMLESS = {
  user: z.string().max(512).nullish().transform(absent),
  metadata: z.record(z.string().max(64), z.string().max(512)).nullish().transform(absent),
  store: only(false),
  safety_identifier: z.string().max(512).nullish().transform(absent),
  cache_salt: z.string().max(512).nullish().transform(absent),
} as const;

/** What the client calls the conversation. */
const CONVERSATION = { prompt_cache_key: z.string().max(512).nullish().transform(absent) } as const;

/** How the node treats the request; the same for every kind. */
const SERVICE = {
  model: z.string().min(1).max(256),
  keep_alive: z
    .union([z.string(), z.number()])
    .refine(
      (value) => keepAliveMicros(value) !== null,
      'must be a duration ("5m", "1h30m"), a number of seconds, 0, or -1',
    )
    .nullish()
    .transform(absent),
  priority: z
    .union([z.int().min(-BIG).max(BIG), z.enum(['interactive', 'batch'])])
    .nullish()
    .transform(absent),
  service_tier: z.enum(['auto', 'default', 'priority', 'flex']).nullish().transform(absent),
} as const;

const SAMPLING = {
  temperature: z.number().min(0).max(2).nullish().transform(absent),
  top_p: z.number().min(0).max(1).nullish().transform(absent),
  top_k: z.int().min(-1).max(BIG).nullish().transform(absent),
  min_p: z.number().min(0).max(1).nullish().transform(absent),
  seed: z.int().nullish().transform(absent),
  presence_penalty: z.number().min(-2).max(2).nullish().transform(absent),
  frequency_penalty: z.number().min(-2).max(2).nullish().transform(absent),
  repeat_penalty: z.number().gt(0).max(10).nullish().transform(absent),
  repetition_penalty: z.number().gt(0).max(10).nullish().transform(absent),
  logit_bias: z
    .record(z.string().regex(/^\d{1,7}$/), z.number().min(-100).max(100))
    .refine((bias) => Object.keys(bias).length <= 1_024, 'must have at most 1024 entries')
    .nullish()
    .transform(absent),
  max_tokens: z
    .int()
    .min(1)
    .max(100 * BIG)
    .nullish()
    .transform(absent),
  stop: z
    .union([z.string().min(1).max(1_024), z.array(z.string().min(1).max(1_024)).max(16)])
    .nullish()
    .transform(absent),
  n: z.int().min(1).max(8).nullish().transform(absent),
  ignore_eos: z.boolean().nullish().transform(absent),
  stream: z.boolean().nullish().transform(absent),
  stream_options: z
    .strictObject({
      include_usage: z.boolean().nullish().transform(absent),
      continuous_usage_stats: z.boolean().nullish().transform(absent),
      include_obfuscation: only(false),
    })
    .nullish()
    .transform(absent),
} as const;

const responseFormat = z
  .discriminatedUnion(
    'type',
    [
      z.strictObject({ type: z.literal('text') }),
      z.strictObject({ type: z.literal('json_object') }),
      z.strictObject({
        type: z.literal('json_schema'),
        json_schema: z.strictObject({
          name: z.string().max(64).nullish().transform(absent),
          description: z.string().max(4_096).nullish().transform(absent),
          schema: freeObject,
          strict: z.boolean().nullish().transform(absent),
        }),
      }),
    ],
    'must be text, json_object or json_schema',
  )
  .nullish()
  .transform(absent);

const TEXT_KINDS: ReadonlySet<unknown> = new Set(['text', 'refusal']);
const textPart = z
  .looseObject({ type: z.string() })
  .refine((part) => TEXT_KINDS.has(part.type), {
    ...unsupported('is a kind that these models can’t read (text only)'),
    path: ['type'],
  })
  .pipe(
    z.discriminatedUnion('type', [
      z.strictObject({ type: z.literal('text'), text: z.string() }),
      z.strictObject({ type: z.literal('refusal'), refusal: z.string() }),
    ]),
  );
const content = z.union([z.string(), z.array(textPart).min(1).max(1_024)]);
const name = z.string().max(64).nullish().transform(absent);
const functionName = z.string().regex(/^[A-Za-z0-9_.-]{1,64}$/);

const toolCall = z.strictObject({
  id: z.string().min(1).max(256),
  type: z.literal('function').optional(),
  index: z.int().min(0).optional(),
  function: z.strictObject({ name: functionName, arguments: z.string() }),
});

const message = z.discriminatedUnion(
  'role',
  [
    z.strictObject({ role: z.enum(['system', 'developer']), content, name }),
    z.strictObject({ role: z.literal('user'), content, name }),
    z.strictObject({
      role: z.literal('assistant'),
      content: content.nullish().transform(absent),
      name,
      refusal: z.string().nullish().transform(absent),
      tool_calls: z.array(toolCall).max(128).nullish().transform(absent),
      // An answer of ours or OpenAI's, sent back as history, has these; empty ones say nothing.
      annotations: z.array(z.unknown()).max(0).nullish().transform(absent),
      audio: z.null().optional(),
      function_call: z.null().optional(),
    }),
    z.strictObject({ role: z.literal('tool'), content, tool_call_id: z.string().min(1).max(256), name }),
  ],
  'must be system, developer, user, assistant or tool',
);

const tool = z.strictObject({
  type: z.literal('function'),
  function: z.strictObject({
    name: functionName,
    description: z.string().max(65_536).nullish().transform(absent),
    parameters: freeObject.nullish().transform(absent),
    strict: z.boolean().nullish().transform(absent),
  }),
});

const toolChoice = z
  .union([
    z.enum(['auto', 'none', 'required']),
    z.strictObject({ type: z.literal('function'), function: z.strictObject({ name: functionName }) }),
  ])
  .nullish()
  .transform(absent);

export const chatSchema = z.strictObject({
  ...SERVICE,
  ...SAMPLING,
  ...HARMLESS,
  ...CONVERSATION,
  messages: z.array(message).min(1).max(10_000),
  max_completion_tokens: SAMPLING.max_tokens,
  response_format: responseFormat,
  tools: z.array(tool).max(128).nullish().transform(absent),
  tool_choice: toolChoice,
  parallel_tool_calls: z.boolean().nullish().transform(absent),
  logprobs: z.boolean().nullish().transform(absent),
  top_logprobs: z.int().min(0).max(20).nullish().transform(absent),
  modalities: z
    .array(z.custom<'text'>((kind) => kind === 'text', unsupported('can only be "text"')))
    .nullish()
    .transform(absent),
});
export type ChatBody = z.output<typeof chatSchema>;

const tokenIds = z
  .array(
    z
      .int()
      .min(0)
      .max(10 * BIG),
  )
  .min(1)
  .max(BIG);
const texts = z.array(z.string()).min(1);

/** Most prompts in one call of /v1/completions. */
const MAX_PROMPTS = 64;

export const completionSchema = z.strictObject({
  ...SERVICE,
  ...SAMPLING,
  ...HARMLESS,
  ...CONVERSATION,
  prompt: z.union([z.string(), texts.max(MAX_PROMPTS), tokenIds, z.array(tokenIds).min(1).max(MAX_PROMPTS)]),
  response_format: responseFormat,
  logprobs: z.int().min(0).max(20).nullish().transform(absent),
  echo: z.boolean().nullish().transform(absent),
  best_of: only(1),
  suffix: only(''),
});
export type CompletionBody = z.output<typeof completionSchema>;

/** As OpenAI: most inputs in one call of /v1/embeddings. */
const MAX_INPUTS = 2_048;

export const embeddingSchema = z.strictObject({
  ...SERVICE,
  user: HARMLESS.user,
  metadata: HARMLESS.metadata,
  safety_identifier: HARMLESS.safety_identifier,
  input: z.union([
    z.string().min(1),
    z.array(z.string().min(1)).min(1).max(MAX_INPUTS),
    tokenIds,
    z.array(tokenIds).min(1).max(MAX_INPUTS),
  ]),
  encoding_format: z.enum(['float', 'base64']).nullish().transform(absent),
});
export type EmbeddingBody = z.output<typeof embeddingSchema>;
