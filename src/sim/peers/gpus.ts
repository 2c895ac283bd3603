/** The cluster on which the peers run: what Aegaeon's simulator assumes, or the same with honest transfers. */
import type { Micros } from '../../core/ids.ts';
import type { Arrival } from '../arrivals.ts';
import type { Cluster, Constants } from '../costs.ts';
import { costsOf, decodeMicros, prefillMicros } from '../costs.ts';
import type { FaultSpec } from '../faults.ts';
import type { Slo } from '../recorder.ts';
import type { Report } from '../report.ts';
import type { PeerModel, PeerRequest } from './request.ts';
import { contextOf, isOver } from './request.ts';

export interface PeerSetting {
  readonly cluster: Cluster;
  readonly gpus: number;
  readonly constants: Constants;
  /**
   * `free`: loads are hidden behind the compute since the last one, and take no memory (Aegaeon's assumption). `charged`: hidden too, but
   * the memory is shared with the model that comes. `none`: loads are waited for.
   */
  readonly prefetch: 'free' | 'charged' | 'none';
  /** Clock step of all times: 1,000 in Aegaeon's simulator. */
  readonly quantumMicros: Micros;
  readonly slo: Slo;
  /** Models that a GPU holds at most, where that is counted. */
  readonly slots: number;
  /** As many models as fit may stay. */
  readonly isResident: boolean;
  /** What goes wrong, until the last request has come. */
  readonly faults?: FaultSpec;
  /** KV that leaves a GPU is charged as KV that comes, at the model's own size; else in at a flat size, out free. */
  readonly honestKv: boolean;
}

export interface Peer {
  readonly name: string;
  run(arrivals: Iterable<Arrival>, setting: PeerSetting): Report;
}

const GB = 1e9;
/** Where models share the memory, each has room for so many tokens of KV. */
export const ROOM_TOKENS = 20_000;
const GIB = 1024 ** 3;

export interface Gpus {
  readonly setting: PeerSetting;
  readonly modelOf: (name: string) => PeerModel;
  prefill(requests: readonly PeerRequest[]): Micros;
  decode(requests: readonly PeerRequest[]): Micros;
  /** One token of a batch with so much context, by the formula without rounding. */
  decodeExact(model: PeerModel, context: number): Micros;
  kvIn(model: PeerModel, tokens: number): Micros;
}

/** `share`: among so many models a GPU's memory is divided. */
export function createGpus(setting: PeerSetting, share = 1): Gpus {
  const { cluster, quantumMicros } = setting;
  const { cluster: hardware } = cluster;
  const models = new Map<string, PeerModel>();
  const modelOf = (name: string): PeerModel => {
    let model = models.get(name);
    if (model === undefined) {
      const costs = costsOf(cluster, name, setting.constants);
      const weightsGb = costs.weightBytes / GB;
      // GB less GB, then as if GiB: what the artifact's simulator computes.
      const roomBytes = (hardware.gpu_memory_gb / share - weightsGb) * hardware.kv_fraction_of_free_memory * GIB;
      const number = Number(/(\d+)\D*$/.exec(name)?.[1] ?? models.size);
      const loadMicros = Math.floor((weightsGb / hardware.weights_host_to_device_gb_per_s) * 1_000) * 1_000;
      const usualKvBytes = (ROOM_TOKENS * costs.kvBytesPerToken) / hardware.kv_fraction_of_free_memory;
      model = {
        number,
        costs,
        kvTokens: Math.floor(roomBytes / costs.kvBytesPerToken),
        neededBytes: costs.weightBytes + usualKvBytes,
        loadMicros,
      };
      models.set(name, model);
    }
    return model;
  };
  /** The artifact's decode estimator is always told a batch of -1 when it is given a list of lengths. */
  const batchOf = (count: number): number => (setting.constants === 'simulator' ? -1 : count);
  const bandwidth = hardware.kv_host_to_device_gb_per_s * GB;
  return {
    setting,
    modelOf,
    prefill(requests) {
      let tokens = 0;
      let squares = 0;
      for (const request of requests) {
        const length = contextOf(request);
        tokens += length;
        squares += length * length;
      }
      return prefillMicros((requests[0] as PeerRequest).model.costs.prefill, tokens, squares, quantumMicros);
    },
    decode(requests) {
      let context = 0;
      let count = 0;
      for (const request of requests) {
        if (isOver(request)) continue;
        context += contextOf(request);
        count++;
      }
      return decodeMicros((requests[0] as PeerRequest).model.costs.decode, context, batchOf(count), quantumMicros);
    },
    decodeExact: ({ costs: { decode } }, context) =>
      decode.base + decode.perContextToken * context + decode.perSequence * batchOf(1),
    kvIn({ costs }, tokens) {
      const bytes = setting.honestKv ? 2 * costs.kvBytesPerToken : hardware.kv_swap_mb_per_token * 1e6;
      return Math.floor((tokens * bytes * 1e6) / bandwidth / quantumMicros) * quantumMicros;
    },
  };
}
