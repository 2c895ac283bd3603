/**
 * The three ways in which a cluster is taken, always shown side by side. `compat`: Aegaeon's assumptions exactly. `honest`: refitted
 * constants, nothing free, one model computes and one more may be on its way. `resident`: as honest, and as many as fit may stay.
 */
import type { Limits, ResidencySpec } from '../core/events.ts';
import { SECOND } from '../core/ids.ts';
import type { Cluster, ModelCosts } from './costs.ts';
import { costsOf } from './costs.ts';
import type { PeerSetting } from './peers/gpus.ts';
import type { Slo } from './recorder.ts';
import type { SimModel, SimSetting } from './simulate.ts';

export type Column = 'compat' | 'honest' | 'resident';
export const COLUMNS: readonly Column[] = ['compat', 'honest', 'resident'];

const GB = 1e9;
const MOST_PREFILL_TOKENS = 4_096;

/** How long models stay and how long others wait: Berth's settings for a GPU whose loads take about a second. The same for all traces. */
export const GPU_RESIDENCY: ResidencySpec = {
  minimumStayMicros: 2 * SECOND,
  patienceMicros: 0,
  drainMicros: 0,
  keepAliveMicros: -1,
  sleepForMicros: -1,
};

/**
 * The node aims at a tenth of the promised TTFT. A first token that comes just in time leaves nothing for the second, and the core orders
 * those who have begun by when they last computed: new ones must be able to overtake them early.
 */
const TTFT_GOAL_SHARE = 0.1;

const LIMITS: Limits = { queuePerModel: 100_000, requests: 1_000_000, queueTimeoutMicros: 600 * SECOND };

export function sloOf(cluster: Cluster, scale: number): Slo {
  return {
    ttftMicros: Math.round(cluster.slo.ttft_s * scale * 1e6),
    tpotMicros: Math.round(cluster.slo.tpot_s * scale * 1e6),
  };
}

export interface ColumnOptions {
  readonly column: Column;
  readonly gpus: number;
  readonly sloScale: number;
  readonly models: readonly string[];
}

/** Berth on the cluster. */
export function berthSetting(cluster: Cluster, { column, gpus, sloScale, models }: ColumnOptions): SimSetting {
  const { cluster: hardware } = cluster;
  const slo = sloOf(cluster, sloScale);
  const isCompat = column === 'compat';
  const memoryBytes = hardware.gpu_memory_gb * GB;
  const modelOf = (name: string): SimModel => {
    const costs = costsOf(cluster, name, isCompat ? 'simulator' : 'refit');
    return { name, costs, ...roomOf(column, costs, memoryBytes, hardware.kv_fraction_of_free_memory) };
  };
  return {
    devices: gpus,
    lanes: 1,
    memoryBytes,
    device: {
      quantumMicros: isCompat ? hardware.time_quantum_ms * 1_000 : 1,
      linkBytesPerSecond: hardware.weights_host_to_device_gb_per_s * GB,
      freePrefetchLeastMicros: isCompat ? hardware.switch_minimum_ms * 1_000 : null,
      flatKvBytesPerToken: isCompat ? hardware.kv_swap_mb_per_token * 1e6 : null,
      batchTold: isCompat ? -1 : null,
      mostPrefillTokens: MOST_PREFILL_TOKENS,
    },
    slo,
    goals: { ttftMicros: Math.round(slo.ttftMicros * TTFT_GOAL_SHARE), interTokenMicros: slo.tpotMicros },
    residency: GPU_RESIDENCY,
    limits: LIMITS,
    giveUpMicros: hardware.drop_if_no_first_token_after_s * SECOND,
    keepsKv: true,
    spill: null,
    models: models.map(modelOf),
  };
}

/** The bytes that a model is charged, and how many requests it computes at once with them. */
function roomOf(
  column: Column,
  costs: ModelCosts,
  memoryBytes: number,
  kvFraction: number,
): Pick<SimModel, 'loadedBytes' | 'parallel'> {
  // One model a GPU, or one and the next: each is charged all of its share, so that no third one fits.
  const share = column === 'compat' ? memoryBytes : column === 'honest' ? Math.floor(memoryBytes / 2) : null;
  const kvRoom = share === null ? ROOM_FOR_KV * costs.weightBytes : (share - costs.weightBytes) * kvFraction;
  const tokens = kvRoom / costs.kvBytesPerToken;
  return {
    loadedBytes: share ?? Math.ceil(costs.weightBytes + kvRoom / kvFraction),
    parallel: Math.max(1, Math.min(256, Math.floor(tokens / USUAL_CONTEXT_TOKENS))),
  };
}

/** In the resident column, KV has room as large as this share of the weights. */
const ROOM_FOR_KV = 0.3;
/** A sequence is taken to have so many tokens when places are counted. */
const USUAL_CONTEXT_TOKENS = 1_500;

/** A peer on the same cluster. */
export function peerSetting(cluster: Cluster, { column, gpus, sloScale }: Omit<ColumnOptions, 'models'>): PeerSetting {
  const isCompat = column === 'compat';
  return {
    cluster,
    gpus,
    constants: isCompat ? 'simulator' : 'refit',
    freePrefetch: isCompat,
    quantumMicros: isCompat ? cluster.cluster.time_quantum_ms * 1_000 : 1,
    slo: sloOf(cluster, sloScale),
    honestKv: !isCompat,
  };
}
