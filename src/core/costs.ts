/**
 * What will a load, a wake, a prefill, a decode step take? Learned from what events report, per model: exponentially weighted
 * means, so that yesterday's disk or yesterday's neighbour is forgotten. Integer micros throughout.
 */
import type { ModelSpec } from './events.ts';
import type { Bytes, Micros } from './ids.ts';
import type { Paces } from './speedup.ts';

export interface CostState {
  loadMicros: Micros;
  wakeMicros: Micros;
  /** Measured bytes on the device and asleep; the specification's guess until then. */
  loadedBytes: Bytes;
  asleepBytes: Bytes;
  measured: boolean;
  /** Device time per 1,000 prompt tokens, and per decode token as one sequence sees it. */
  prefillMicrosPerKiloToken: Micros;
  decodeMicrosPerToken: Micros;
  /** To save the KV of 1,000 tokens; reading it back takes no longer. */
  kvMicrosPerKiloToken: Micros;
  meanOutputTokens: number;
  readonly paces: Paces;
}

export function createCosts(spec: ModelSpec): CostState {
  return {
    loadMicros: spec.loadMicros,
    wakeMicros: Math.max(1, Math.floor(spec.loadMicros / 4)),
    loadedBytes: spec.loadedBytes,
    asleepBytes: spec.asleepBytes,
    measured: false,
    prefillMicrosPerKiloToken: 2_000_000,
    decodeMicrosPerToken: 20_000,
    kvMicrosPerKiloToken: 25_000,
    meanOutputTokens: 128,
    paces: new Map(),
  };
}

/** A quarter of the new: follows a change within a few events, and one outlier moves it by a quarter only. Rounded towards the new, to get there. */
const blend = (old: number, seen: number): number =>
  seen < old ? Math.floor(old + (seen - old) / 4) : Math.ceil(old + (seen - old) / 4);

export function learnLoad(costs: CostState, from: 'cold' | 'asleep' | 'already', micros: Micros): void {
  if (from === 'cold') costs.loadMicros = blend(costs.loadMicros, micros);
  if (from === 'asleep') costs.wakeMicros = blend(costs.wakeMicros, micros);
}

/** Bytes are not averaged: what was seen last, or more, must fit. */
export function learnLoadedBytes(costs: CostState, bytes: Bytes): void {
  costs.loadedBytes = costs.measured
    ? Math.max(bytes, costs.loadedBytes - Math.floor((costs.loadedBytes - bytes) / 4))
    : bytes;
  costs.measured = true;
}

const FEWEST_PREFILL_TOKENS = 32;

export function learnRequest(
  costs: CostState,
  seen: {
    promptTokens: number;
    cachedTokens: number;
    outputTokens: number;
    prefillMicros: Micros;
    decodeMicros: Micros;
  },
): void {
  const computed = seen.promptTokens - seen.cachedTokens;
  // The few new tokens behind a long cached beginning cost what a step costs: that tells nothing of a prompt.
  if (computed >= FEWEST_PREFILL_TOKENS && seen.prefillMicros > 0) {
    const perKilo = (seen.prefillMicros * 1000) / computed;
    costs.prefillMicrosPerKiloToken = blend(costs.prefillMicrosPerKiloToken, perKilo);
  }
  if (seen.outputTokens > 0) {
    costs.meanOutputTokens = Math.max(1, blend(costs.meanOutputTokens, seen.outputTokens));
    if (seen.decodeMicros > 0) {
      costs.decodeMicrosPerToken = Math.max(
        1,
        blend(costs.decodeMicrosPerToken, seen.decodeMicros / seen.outputTokens),
      );
    }
  }
}

export function learnKvMove(costs: CostState, tokens: number, micros: Micros): void {
  if (tokens > 0) costs.kvMicrosPerKiloToken = blend(costs.kvMicrosPerKiloToken, (micros * 1000) / tokens);
}

/** To bring the model onto the device from where it is. */
export const switchInMicros = (costs: CostState, asleep: boolean): Micros =>
  asleep ? costs.wakeMicros : costs.loadMicros;

/** To compute again what a preempted request has so far. */
export function recomputeMicros(costs: CostState, tokens: number): Micros {
  return Math.floor((costs.prefillMicrosPerKiloToken * tokens) / 1000);
}

/** How long a request of the usual length still decodes. */
export function remainingMicros(costs: CostState, outputTokens: number, maxTokens: number): Micros {
  const expected = Math.max(
    1,
    Math.min(maxTokens, Math.max(costs.meanOutputTokens, outputTokens + costs.meanOutputTokens / 2)) - outputTokens,
  );
  return Math.floor(expected * costs.decodeMicrosPerToken);
}
