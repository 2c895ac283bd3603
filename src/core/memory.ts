/**
 * Who holds which byte? Reserve before a load, commit what was measured after it, release when it was seen free. At every
 * moment: free + overhead + the sum of what is held = the budget, and the message of a breach prints all terms.
 */
import type { Bytes, ModelId } from './ids.ts';
import type { State } from './state.ts';

export const freeBytes = (state: State): Bytes =>
  state.device.memoryBytes - state.device.overheadBytes - state.heldBytes;

export const heldBy = (state: State, modelId: ModelId): Bytes => state.held.get(modelId) ?? 0;

/** The most that this model could ever have: the budget less what is never lent and what other models hold for good. */
export function lendableBytes(state: State, modelId: ModelId): Bytes {
  let bytes = state.device.memoryBytes - state.device.overheadBytes;
  for (const { id } of state.pinned) if (id !== modelId) bytes -= heldBy(state, id);
  return bytes;
}

/** Sets what the model holds: a reservation before a load, a measurement after it, 0 when its memory was seen free. */
export function hold(state: State, modelId: ModelId, bytes: Bytes): void {
  const before = heldBy(state, modelId);
  state.heldBytes += bytes - before;
  if (bytes === 0) state.held.delete(modelId);
  else state.held.set(modelId, bytes);
}

/** What evictions under way will set free. */
export function bytesOnTheirWayOut(state: State): Bytes {
  let bytes = 0;
  for (const { id, phase, costs } of state.present) {
    if (phase === 'unloading') bytes += heldBy(state, id);
    if (phase === 'parking') bytes += heldBy(state, id) - costs.asleepBytes;
  }
  return bytes;
}
