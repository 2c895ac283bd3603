/**
 * With whom is a request computed? Requests of a resident model join its running batch at the next step, as long as a sequence
 * is free (continuous batching); those of a model that is not there gather in its line and are served by one load.
 */
import { chargeRequest } from './admission.ts';
import { dequeue, nextWaiting, reindex } from './queues.ts';
import type { Model, State } from './state.ts';
import { act, mustGet } from './state.ts';

/** May another request of the model join now? */
export function hasRoom(model: Model): boolean {
  return (
    model.phase === 'resident' &&
    model.drainingSince === null &&
    !model.stopAsked &&
    model.loadedRevision === model.spec.revision &&
    model.active.size < model.spec.parallel
  );
}

export function startWaiting(state: State): void {
  for (const model of state.startable) {
    while (model.waiting > 0 && hasRoom(model)) startNext(state, model);
    reindex(state, model);
  }
}

function startNext(state: State, model: Model): void {
  const request = nextWaiting(state, model);
  if (request === null) return;
  dequeue(state, model, request);
  request.phase = 'running';
  model.active.add(request.id);
  model.lastUsedAt = state.now;
  model.loadAsked = false;
  // The prompt is charged when it is taken, not when it is done: else a burst of one tenant is all taken at the old counter.
  if (request.chargedTokens === 0) chargeRequest(state, request, request.promptTokens);
  const counter = mustGet(state.tenants, request.tenantId).counter;
  act(
    state,
    { type: 'startRequest', modelId: model.id, requestId: request.id },
    {
      rule: 'least-served',
      waitedMicros: state.now - request.arrivedAt,
      counter,
      active: model.active.size,
      parallel: model.spec.parallel,
      waiting: model.waiting,
    },
  );
}
