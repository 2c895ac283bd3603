/** Liveness: when nothing happens to a node any more, everything in it comes to rest. */
import type { State } from '../core/state.ts';

/** What is not at rest in a node to which nothing will happen any more; null: all is. */
export function unsettled(state: State): string | null {
  for (const { id, modelId, phase } of state.requests.values())
    return `${state.requests.size} requests are left, the first is ${id} of ${modelId} (${phase}, its model ${state.models.get(modelId)?.phase ?? 'unknown'})`;
  for (const model of state.models.values()) {
    if (model.removed) return `${model.id} is removed and still ${model.phase}`;
    if (model.transition !== null) return `${model.id} is ${model.phase} for ever`;
    if (model.slice !== null) return `${model.id} holds lanes for ever`;
  }
  const { arrived, finished, failed, refused, cancelled } = state.outcomes;
  const ended = finished + failed + refused + cancelled;
  return arrived === ended ? null : `${arrived} requests arrived and ${ended} ended`;
}
