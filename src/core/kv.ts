/**
 * Where is each conversation's KV: device, host, disk, gone? The honest policy for now: on the device while its request runs,
 * gone when the request ends or is preempted (then recomputed, and the recomputation is counted).
 */
import type { Micros } from './ids.ts';
import { recomputeMicros } from './costs.ts';
import type { Model, Request } from './state.ts';

/** What taking the request off the device costs later. */
export function preemptionMicros(model: Model, request: Request): Micros {
  return recomputeMicros(model.costs, request.promptTokens + request.outputTokens);
}
