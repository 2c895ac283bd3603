/**
 * The heart of Berth, in one sitting: events in, actions out. `handle` first takes in what happened, one handler per event, then
 * asks the policies in a fixed order: who waited too long, which models are on the device, which requests join, who computes.
 * No clock, no I/O, no chance: the same events at the same times give the same actions, in the node and in the simulator.
 */
import type { Action } from './actions.ts';
import { admit, chargeRequest, forget, refuseAllWaiting, refuseOverdue } from './admission.ts';
import { startWaiting } from './batching.ts';
import { learnLoad, learnLoadedBytes, learnRequest } from './costs.ts';
import type { CoreEvent, EventOf, EventType } from './events.ts';
import { OUTPUT_WEIGHT, tenantOf } from './fairness.ts';
import type { Micros, ModelId, RequestId } from './ids.ts';
import { MILLI } from './ids.ts';
import { hold, heldBy } from './memory.ts';
import { dequeue, enqueue, reindex } from './queues.ts';
import { afterFailure, configure } from './lifecycle.ts';
import { decideResidency, lookAgainWhenIdle, unload } from './residency.ts';
import { grantSlices } from './slices.ts';
import type { Model, Request, State } from './state.ts';
import { act, createState, mustGet } from './state.ts';

export interface Input {
  readonly now: Micros;
  readonly events: readonly CoreEvent[];
}

export interface Decision {
  readonly actions: readonly Action[];
  /** Call again by then even if nothing happens; null: no need. */
  readonly wakeAt: Micros | null;
}

export interface Arbiter {
  handle(input: Input): Decision;
  /** For reading only. */
  readonly state: State;
}

export function createArbiter(): Arbiter {
  const state = createState();
  return { state, handle: (input) => handle(state, input) };
}

function handle(state: State, { now, events }: Input): Decision {
  // A clock that jumps back must not make anything younger than it was.
  state.now = Math.max(state.now, now);
  state.wakeAt = null;
  state.actions.length = 0;
  for (const event of events) take(state, event);
  refuseOverdue(state);
  decideResidency(state);
  startWaiting(state);
  grantSlices(state);
  return { actions: [...state.actions], wakeAt: state.wakeAt };
}

type Handlers = { readonly [T in EventType]: (state: State, event: EventOf<T>) => void };

function take<T extends EventType>(state: State, event: EventOf<T>): void {
  (HANDLERS[event.type] as (state: State, event: EventOf<T>) => void)(state, event);
}

/** The event's model, if it is known and the completion is of the action under way: a late one is dropped. */
function awaited(state: State, { modelId, actionId }: { modelId: ModelId; actionId: number }): Model | null {
  const model = state.models.get(modelId);
  return model !== undefined && model.transition === actionId ? model : null;
}

const HANDLERS: Handlers = {
  configured: configure,

  requestArrived: admit,

  requestCancelled(state, { requestId }) {
    const request = state.requests.get(requestId);
    if (request === undefined) return;
    const model = mustGet(state.models, request.modelId);
    if (request.phase === 'waiting') dequeue(model, request);
    else {
      model.active.delete(requestId);
      const because = {
        rule: 'client-left',
        ranMicros: state.now - request.arrivedAt,
        outputTokens: request.outputTokens,
      };
      act(state, { type: 'cancelRequest', modelId: model.id, requestId }, because);
      worked(state, model, request);
    }
    state.outcomes.cancelled++;
    forget(state, request);
    reindex(state, model);
  },

  firstTokenEmitted(state, { requestId }) {
    const request = state.requests.get(requestId);
    if (request !== undefined) request.firstTokenAt ??= state.now;
  },

  requestFinished(state, event) {
    const request = running(state, event.requestId);
    if (request === null) return;
    const model = mustGet(state.models, request.modelId);
    model.active.delete(request.id);
    if (!event.failed) learnRequest(model.costs, event);
    // Settle: what it got in the end, less what was charged on the way.
    const served = event.promptTokens - event.cachedTokens + OUTPUT_WEIGHT * event.outputTokens;
    if (!event.failed) chargeRequest(state, request, served - request.chargedTokens);
    state.outcomes[event.failed ? 'failed' : 'finished']++;
    forget(state, request);
    worked(state, model, request);
    reindex(state, model);
  },

  requestPreempted(state, { requestId }) {
    const request = running(state, requestId);
    if (request === null || request.phase !== 'preempting') return;
    const model = mustGet(state.models, request.modelId);
    model.active.delete(requestId);
    enqueue(state, model, request, true);
    state.residencyDirty = true;
    reindex(state, model);
  },

  modelLoaded(state, event) {
    const model = awaited(state, event);
    if (model === null) return;
    model.transition = null;
    model.phase = 'resident';
    model.residentSince = state.now;
    model.lastUsedAt = state.now;
    model.loadAsked = false;
    model.failure = null;
    learnLoad(model.costs, event.from, event.micros);
    learnLoadedBytes(model.costs, event.bytes);
    hold(state, model.id, event.bytes);
    state.residencyDirty = true;
    reindex(state, model);
  },

  modelLoadFailed(state, event) {
    const model = awaited(state, event);
    if (model === null) return;
    model.loadAsked = model.spec.pinned && !model.removed;
    afterFailure(state, model, event.code, event.message);
  },

  modelFellAsleep(state, event) {
    const model = awaited(state, event);
    if (model === null) return;
    model.transition = null;
    model.phase = 'asleep';
    model.costs.asleepBytes = event.bytes;
    hold(state, model.id, event.bytes);
    state.residencyDirty = true;
    reindex(state, model);
  },

  modelUnloaded(state, event) {
    const model = awaited(state, event);
    if (model === null) return;
    gone(state, model);
    if (model.removed) state.models.delete(model.id);
  },

  engineDied(state, { modelId }) {
    const model = state.models.get(modelId);
    if (model === undefined || model.phase === 'cold') return;
    afterFailure(state, model, 'engine_died', `the process of ${modelId} ended unexpectedly`);
    if (model.removed) state.models.delete(model.id);
  },

  memoryMeasured(state, { modelId, bytes }) {
    const model = state.models.get(modelId);
    if (model === undefined || (model.phase !== 'resident' && model.phase !== 'asleep')) return;
    if (model.phase === 'resident') learnLoadedBytes(model.costs, bytes);
    if (bytes > heldBy(state, modelId)) state.residencyDirty = true;
    hold(state, modelId, bytes);
  },

  sliceEnded(state, event) {
    const model = state.models.get(event.modelId);
    if (model === undefined) return;
    for (const [requestId, tokens] of Object.entries(event.decodeTokens)) {
      const request = state.requests.get(requestId as RequestId);
      if (request === undefined) continue;
      request.outputTokens += tokens;
      chargeRequest(state, request, tokens * OUTPUT_WEIGHT);
    }
    if (model.slice?.id !== event.sliceId) return;
    model.slice = null;
    model.lastSliceEndedAt = state.now;
    if (model.active.size > 0 && event.steps === 0) model.quietUntil = state.now + MILLI;
    reindex(state, model);
  },

  loadRequested(state, { modelId, keepAliveMicros }) {
    const model = mustGet(state.models, modelId);
    if (keepAliveMicros !== null) model.keepAliveMicros = keepAliveMicros;
    model.lastUsedAt = state.now;
    model.loadAsked = model.phase !== 'resident';
    state.residencyDirty = true;
    reindex(state, model);
  },

  stopRequested(state, { modelId, force }) {
    const model = mustGet(state.models, modelId);
    model.loadAsked = false;
    state.residencyDirty = true;
    reindex(state, model);
    if (model.phase === 'cold' || model.phase === 'unloading') return;
    model.stopAsked = true;
    if (!force) return;
    const because = { rule: 'stopped', running: model.active.size, waiting: model.waiting };
    refuseAllWaiting(state, model, {
      code: 'model_stopped',
      message: `${modelId} was stopped`,
      retryAfterMicros: null,
      because,
    });
    unload(state, model, because);
  },

  nodeStopping(state) {
    state.stopping = true;
    for (const model of state.models.values()) {
      const because = { rule: 'node-stopping', waiting: model.waiting };
      refuseAllWaiting(state, model, {
        code: 'node_stopping',
        message: 'the node is shutting down',
        retryAfterMicros: null,
        because,
      });
    }
  },

  ticked() {},
};

/** A request that its engine has. Of others (cancelled or refused meanwhile) nothing is heard any more. */
function running(state: State, id: RequestId): Request | null {
  const request = state.requests.get(id);
  return request === undefined || request.phase === 'waiting' ? null : request;
}

/** The model has done some work for the request: it is used, and may now be idle. */
function worked(state: State, model: Model, request: Request): void {
  model.lastUsedAt = state.now;
  if (request.keepAliveMicros !== null) model.keepAliveMicros = request.keepAliveMicros;
  tenantOf(state, request.tenantId);
  if (model.active.size === 0) lookAgainWhenIdle(state, model);
}

/** The model's memory was seen free. */
function gone(state: State, model: Model): void {
  model.transition = null;
  model.phase = 'cold';
  model.loadedRevision = null;
  model.stopAsked = false;
  model.drainingSince = null;
  model.slice = null;
  hold(state, model.id, 0);
  state.residencyDirty = true;
  reindex(state, model);
}
