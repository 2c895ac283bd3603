/**
 * The three ways in which a cluster is taken, always shown side by side. `compat`: Aegaeon's assumptions exactly. `honest`: refitted
 * constants, nothing free, one model computes and one more may be on its way. `resident`: as honest, and as many as fit may stay.
 */
import type { Limits, ResidencySpec } from '../core/events.ts';
import { SECOND } from '../core/ids.ts';
import type { Cluster, ModelCosts } from './costs.ts';
import { costsOf } from './costs.ts';
import type { FaultSpec } from './faults.ts';
import type { PeerSetting } from './peers/gpus.ts';
import { ROOM_TOKENS } from './peers/gpus.ts';
import type { Slo } from './recorder.ts';
import type { SimModel, SimSetting } from './simulate.ts';

export type Column = 'compat' | 'honest' | 'resident';
export const COLUMNS: readonly Column[] = ['compat', 'honest', 'resident'];

const GB = 1e9;
const MOST_PREFILL_TOKENS = 4_096;

/**
 * Berth's settings for a GPU, the same for all traces: a model stays a little longer than the longest load takes, so that the next load
 * can hide behind it (half as long again where KV has to pass the same link); then whoever waits may come at once, and what runs is interrupted
 * at a token.
 */
function residencyOf(column: Column, models: readonly SimModel[], linkBytesPerSecond: number): ResidencySpec {
  const longestLoad = Math.max(0, ...models.map(({ costs }) => (costs.weightBytes * SECOND) / linkBytesPerSecond));
  return {
    minimumStayMicros: Math.ceil(longestLoad * (column === 'compat' ? 1.1 : 1.5)),
    patienceMicros: 0,
    drainMicros: 0,
    keepAliveMicros: -1,
    sleepForMicros: -1,
  };
}

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
  readonly faults?: FaultSpec;
}

/** Berth on the cluster. */
export function berthSetting(cluster: Cluster, { column, gpus, sloScale, models, faults }: ColumnOptions): SimSetting {
  const { cluster: hardware } = cluster;
  const slo = sloOf(cluster, sloScale);
  const isCompat = column === 'compat';
  const memoryBytes = hardware.gpu_memory_gb * GB;
  const modelOf = (name: string): SimModel => {
    const costs = costsOf(cluster, name, isCompat ? 'simulator' : 'refit');
    return { name, costs, ...roomOf(column, costs, memoryBytes, hardware.kv_fraction_of_free_memory) };
  };
  const all = models.map(modelOf);
  const linkBytesPerSecond = hardware.weights_host_to_device_gb_per_s * GB;
  return {
    devices: gpus,
    lanes: 1,
    memoryBytes,
    device: {
      quantumMicros: isCompat ? hardware.time_quantum_ms * 1_000 : 1,
      linkBytesPerSecond,
      freePrefetchLeastMicros: isCompat ? hardware.switch_minimum_ms * 1_000 : null,
      flatKvBytesPerToken: isCompat ? hardware.kv_swap_mb_per_token * 1e6 : null,
      batchTold: isCompat ? -1 : null,
      mostPrefillTokens: MOST_PREFILL_TOKENS,
    },
    slo,
    goals: { ttftMicros: Math.round(slo.ttftMicros * TTFT_GOAL_SHARE), interTokenMicros: slo.tpotMicros },
    residency: residencyOf(column, all, linkBytesPerSecond),
    limits: LIMITS,
    inFlight: null,
    overheadBytes: 0,
    giveUpMicros: hardware.drop_if_no_first_token_after_s * SECOND,
    keepsKv: true,
    spill: { turnMicros: 2 * SECOND, joinMicros: 5 * SECOND, devicesPerModel: 8 },
    models: all,
    ...(faults === undefined ? {} : { faults }),
  };
}

/** The bytes that a model is charged, and how many requests it computes at once with them. */
function roomOf(
  column: Column,
  costs: ModelCosts,
  memoryBytes: number,
  kvFraction: number,
): Pick<SimModel, 'loadedBytes' | 'parallel' | 'kvTokens'> {
  const needed = costs.weightBytes + (ROOM_TOKENS * costs.kvBytesPerToken) / kvFraction;
  // One model a GPU, or one and the next: each is charged so much that no other fits beside them.
  const loadedBytes =
    column === 'compat' ? memoryBytes : Math.ceil(column === 'honest' ? Math.max(needed, memoryBytes / 3 + 1) : needed);
  const kvTokens = Math.floor(((loadedBytes - costs.weightBytes) * kvFraction) / costs.kvBytesPerToken);
  return { loadedBytes, kvTokens, parallel: Math.max(1, Math.min(256, Math.floor(kvTokens / USUAL_CONTEXT_TOKENS))) };
}

/** A sequence is taken to have so many tokens when places are counted; what was really held is reported. */
const USUAL_CONTEXT_TOKENS = 1_400;

/** A peer on the same cluster. */
export function peerSetting(
  cluster: Cluster,
  { column, gpus, sloScale, faults }: Omit<ColumnOptions, 'models'>,
): PeerSetting {
  const isCompat = column === 'compat';
  return {
    cluster,
    gpus,
    constants: isCompat ? 'simulator' : 'refit',
    prefetch: isCompat ? 'free' : 'none',
    quantumMicros: isCompat ? cluster.cluster.time_quantum_ms * 1_000 : 1,
    slo: sloOf(cluster, sloScale),
    slots: isCompat ? 1 : 2,
    isResident: column === 'resident',
    honestKv: !isCompat,
    ...(faults === undefined ? {} : { faults }),
  };
}
