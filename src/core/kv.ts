/**
 * What is lost of a request's KV when it is taken off the device? Where each conversation's KV is after that (device, host memory,
 * disk, gone) is decided in `src/kv/book.ts`, by the same rules for ended and for preempted requests.
 */
import type { Micros } from './ids.ts';
import { recomputeMicros } from './costs.ts';
import type { Model, Request } from './state.ts';

/** What taking the request off the device costs: saved and read back where that is quicker, else computed again. */
export function preemptionMicros(model: Model, request: Request): Micros {
  const tokens = request.promptTokens + request.outputTokens;
  const again = recomputeMicros(model.costs, tokens);
  if (!model.spec.keepsKv) return again;
  return Math.min(again, Math.floor((2 * model.costs.kvMicrosPerKiloToken * tokens) / 1000));
}
