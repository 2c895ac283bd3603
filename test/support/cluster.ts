/** A small cluster with round numbers, in the form of cluster.json: three sizes of models on two GPUs. */
import type { Arrival } from '../../src/sim/arrivals.ts';
import type { Cluster } from '../../src/sim/costs.ts';
import { generate, modelName } from '../../src/sim/generate.ts';

const profile = (weightsGb: number, kvBytes: number): Cluster['models'][string] => ({
  weights_gb: weightsGb,
  max_context_tokens: 4_096,
  kv_bytes_per_token_simulator: kvBytes,
  kv_bytes_per_token_grouped_query: kvBytes / 4,
  prefill: { base_s: 0.01, per_token_s: 0.00002, per_squared_token_s: 0 },
  decode_step: { base_s: 0.01, per_context_token_s: 0.0000002, per_sequence_s: 0.0001 },
});

export const CLUSTER: Cluster = {
  cluster: {
    gpus: 2,
    gpu_memory_gb: 80,
    kv_fraction_of_free_memory: 0.8,
    weights_host_to_device_gb_per_s: 16,
    kv_host_to_device_gb_per_s: 16,
    kv_swap_mb_per_token: 0.5,
    switch_minimum_ms: 10,
    time_quantum_ms: 1,
    drop_if_no_first_token_after_s: 15,
  },
  slo: { ttft_s: 10, tpot_s: 0.1 },
  model_name_rule: { modulo: 3, profile_by_remainder: ['small', 'middle', 'large'] },
  models: { small: profile(14, 400_000), middle: profile(18, 800_000), large: profile(26, 800_000) },
};

export const MODELS = Array.from({ length: 12 }, (_, index) => modelName(index));

/** Bursts for all of the models, of three tenants. */
export const bursts = (requests: number): Iterable<Arrival> =>
  generate({
    requests,
    perSecond: 2,
    pattern: 'gamma',
    models: MODELS.length,
    tenants: 3,
    zipf: 0.5,
    seed: 11,
    meanPromptTokens: 500,
    meanOutputTokens: 120,
  });
