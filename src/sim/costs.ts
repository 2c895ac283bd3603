/**
 * What a device takes for a model: bytes, loads, prompts, decode steps, KV moves. The step times are linear in what is computed, as
 * fitted to profiles of vLLM on H100 for Aegaeon's simulator (SOSP'25 artifact); `cluster.json` and what `berth profile` writes
 * have the same form.
 */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import type { Bytes, Micros } from '../core/ids.ts';
import { BerthError } from '../errors.ts';

/** Micros of a prefill of T prompt tokens (sum of squares S): `base + perToken × T + perSquaredToken × S`. */
export interface PrefillCost {
  readonly base: number;
  readonly perToken: number;
  readonly perSquaredToken: number;
}

/** Micros of a decode step over B sequences with C tokens of context in all: `base + perContextToken × C + perSequence × B`. */
export interface DecodeCost {
  readonly base: number;
  readonly perContextToken: number;
  readonly perSequence: number;
}

/** Of a device whose loads are no transfer over a link, as measured on a node: a machine's cores, a file in its page cache. */
export interface MeasuredMoves {
  readonly loadMicros: Micros;
  readonly wakeMicros: Micros;
  readonly parkMicros: Micros;
  readonly unloadMicros: Micros;
  readonly asleepBytes: Bytes;
  /** How many times as fast as on one lane it computes on so many: the first is 1. */
  readonly speedups: readonly number[];
}

export interface ModelCosts {
  /** null: loads go over the link. */
  readonly measured: MeasuredMoves | null;
  readonly weightBytes: Bytes;
  readonly kvBytesPerToken: Bytes;
  readonly mostContextTokens: number;
  readonly prefill: PrefillCost;
  readonly decode: DecodeCost;
}

/** Micros, rounded down to the device's clock step; at least one step. */
export const prefillMicros = (
  { base, perToken, perSquaredToken }: PrefillCost,
  tokens: number,
  squares: number,
  quantum: Micros,
): Micros => quantized(base + perToken * tokens + perSquaredToken * squares, quantum);

export const decodeMicros = (
  { base, perContextToken, perSequence }: DecodeCost,
  context: number,
  sequences: number,
  quantum: Micros,
): Micros => quantized(base + perContextToken * context + perSequence * sequences, quantum);

const quantized = (micros: number, quantum: Micros): Micros =>
  Math.max(quantum, Math.floor(micros / quantum) * quantum);

/** With so many lanes it is so many times as fast; beyond what was measured, no faster. */
export const speedupOf = ({ measured }: ModelCosts, lanes: number): number =>
  measured === null ? 1 : (measured.speedups[Math.min(lanes, measured.speedups.length) - 1] ?? 1);

const prefillSchema = z.looseObject({ base_s: z.number(), per_token_s: z.number(), per_squared_token_s: z.number() });
const decodeSchema = z.looseObject({ base_s: z.number(), per_context_token_s: z.number(), per_sequence_s: z.number() });
const clusterSchema = z.looseObject({
  cluster: z.looseObject({
    gpus: z.int().positive(),
    gpu_memory_gb: z.number().positive(),
    kv_fraction_of_free_memory: z.number().positive().max(1),
    weights_host_to_device_gb_per_s: z.number().positive(),
    kv_host_to_device_gb_per_s: z.number().positive(),
    kv_swap_mb_per_token: z.number().nonnegative(),
    switch_minimum_ms: z.number().nonnegative(),
    time_quantum_ms: z.number().positive(),
    drop_if_no_first_token_after_s: z.number().positive(),
  }),
  slo: z.looseObject({ ttft_s: z.number().positive(), tpot_s: z.number().positive() }),
  model_name_rule: z.looseObject({ modulo: z.int().positive(), profile_by_remainder: z.array(z.string()).min(1) }),
  models: z.record(
    z.string(),
    z.looseObject({
      weights_gb: z.number().positive(),
      max_context_tokens: z.int().positive(),
      kv_bytes_per_token_simulator: z.number().positive(),
      kv_bytes_per_token_grouped_query: z.number().positive(),
      prefill: prefillSchema,
      decode_step: decodeSchema,
      prefill_refit: prefillSchema.optional(),
      decode_step_refit: decodeSchema.optional(),
    }),
  ),
  profile_by_name: z.record(z.string(), z.string()).optional(),
});

export type Cluster = z.infer<typeof clusterSchema>;

/** Reads and checks a `cluster.json`; its fields: `docs/simulator.md`. */
export const readCluster = (path: string): Cluster => asCluster(readJson(path), path);

/** Throws `invalid_request`, in which `path` is named. */
export function asCluster(parsed: unknown, path: string): Cluster {
  const checked = clusterSchema.safeParse(parsed);
  if (!checked.success) throw new BerthError('invalid_request', `${path}: ${z.prettifyError(checked.error)}`);
  const wrong = whatIsWrong(checked.data);
  if (wrong !== null) throw new BerthError('invalid_request', `${path}: ${wrong}`);
  return checked.data;
}

/** What the fields, each in its form, say of each other. */
function whatIsWrong({ cluster, models, model_name_rule: rule, profile_by_name: byName = {} }: Cluster): string | null {
  const isKnown = (profile: string): boolean => Object.hasOwn(models, profile);
  const { modulo, profile_by_remainder: profiles } = rule;
  const stranger = profiles.find((profile) => !isKnown(profile));
  if (stranger !== undefined) return `model_name_rule names ${stranger}, which is not in models`;
  if (profiles.length !== modulo)
    return `model_name_rule needs an entry in profile_by_remainder for each remainder: ${modulo}, not ${profiles.length}`;
  const misnamed = Object.entries(byName).find(([, profile]) => !isKnown(profile));
  if (misnamed !== undefined) return `profile_by_name: ${misnamed[0]} is a ${misnamed[1]}, which is not in models`;
  const large = Object.entries(models).find(([, { weights_gb: weights }]) => weights >= cluster.gpu_memory_gb);
  return large === undefined
    ? null
    : `models: the weights of ${large[0]} leave no room on a GPU of ${cluster.gpu_memory_gb} GB (cluster.gpu_memory_gb)`;
}

export function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw new BerthError('invalid_request', `the cluster file ${path} can’t be read: ${(error as Error).message}`);
  }
}

/** Which constants: those of Aegaeon's simulator as they are, or refitted, with KV as the architectures have it. */
export type Constants = 'simulator' | 'refit';

const GB = 1e9;

/** What the file says by the model's name, else by the last number in it. */
function profileOf({ model_name_rule: rule, profile_by_name: byName = {} }: Cluster, name: string): string {
  if (Object.hasOwn(byName, name)) return byName[name] as string;
  const number = Number(/(\d+)\D*$/.exec(name)?.[1] ?? 0);
  return rule.profile_by_remainder[number % rule.modulo] as string;
}

export function costsOf(cluster: Cluster, name: string, constants: Constants): ModelCosts {
  const profile = cluster.models[profileOf(cluster, name)] as Cluster['models'][string];
  const isRefit = constants === 'refit';
  const prefill = isRefit ? (profile.prefill_refit ?? profile.prefill) : profile.prefill;
  const decode = isRefit ? (profile.decode_step_refit ?? profile.decode_step) : profile.decode_step;
  return {
    measured: null,
    weightBytes: profile.weights_gb * GB,
    kvBytesPerToken: isRefit ? profile.kv_bytes_per_token_grouped_query : profile.kv_bytes_per_token_simulator,
    mostContextTokens: profile.max_context_tokens,
    prefill: {
      base: prefill.base_s * 1e6,
      perToken: prefill.per_token_s * 1e6,
      perSquaredToken: prefill.per_squared_token_s * 1e6,
    },
    decode: {
      base: decode.base_s * 1e6,
      perContextToken: decode.per_context_token_s * 1e6,
      perSequence: decode.per_sequence_s * 1e6,
    },
  };
}

/** Lengths that fit the model's context, shortened as Aegaeon's simulator does (`length_rule` of cluster.json). */
export function fitLengths(
  costs: ModelCosts,
  promptTokens: number,
  outputTokens: number,
): { promptTokens: number; outputTokens: number } {
  const both = promptTokens + outputTokens;
  if (both <= costs.mostContextTokens) return { promptTokens, outputTokens };
  const scale = costs.mostContextTokens / Math.max(both + 32, 16_384);
  return {
    promptTokens: Math.max(1, Math.floor(promptTokens * scale)),
    outputTokens: Math.max(1, Math.floor(outputTokens * scale)),
  };
}
