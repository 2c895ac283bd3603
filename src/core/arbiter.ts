/**
 * The heart of Berth, in one sitting: events in, actions out. `handle` first takes in what happened, one handler per event, then
 * asks the policies in a fixed order: who waited too long, which models are on the device, which requests join, who computes.
 * No clock, no I/O, no chance: the same events at the same times give the same actions, in the node and in the simulator.
 */
import type { Action } from './actions.ts';
import { admit, chargeRequest, forget, leaveLine, readmit, refuseAllWaiting, refuseOverdue } from './admission.ts';
import { leaveBatch, startWaiting } from './batching.ts';
import { learnKvMove, learnLoad, learnLoadedBytes, learnRequest } from './costs.ts';
import type { CoreEvent, EventOf, EventType } from './events.ts';
import { chargeMicros, learnWorth, OUTPUT_WEIGHT } from './fairness.ts';
import type { Micros, ModelId, RequestId } from './ids.ts';
import { MILLI } from './ids.ts';
import { hold, heldBy } from './memory.ts';
import { reindex, waitingOf } from './queues.ts';
import { afterFailure, becomeCold, configure } from './lifecycle.ts';
import { decideResidency, lookAgainWhenIdle } from './residency.ts';
import { grantSlices } from './slices.ts';
import { learnPace } from './speedup.ts';
import type { Model, Request, State } from './state.ts';
import { act, createState, mustGet } from './state.ts';
import { unload } from './transitions.ts';

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
    state.outcomes.cancelled++;
    if (request.phase === 'waiting') return leaveLine(state, model, request);
    const because = {
      rule: 'client-left',
      ranMicros: state.now - request.arrivedAt,
      outputTokens: request.outputTokens,
    };
    act(state, { type: 'cancelRequest', modelId: model.id, requestId }, because);
    leaveEngine(state, model, request);
  },

  firstTokenEmitted(state, { requestId }) {
    const request = state.requests.get(requestId);
    if (request !== undefined) request.firstTokenAt ??= state.now;
  },

  requestFinished(state, event) {
    const request = running(state, event.requestId);
    if (request === null) return;
    const model = mustGet(state.models, request.modelId);
    state.outcomes[event.failed ? 'failed' : 'finished']++;
    if (!event.failed) {
      model.failure = null;
      learnRequest(model.costs, event);
      // Settle: what it got in the end, less what was charged on the way.
      const served = event.promptTokens - event.cachedTokens + OUTPUT_WEIGHT * event.outputTokens;
      chargeRequest(state, request, served - request.chargedTokens);
      chargeMicros(state, request.tenantId, event.restoreMicros ?? 0);
    }
    leaveEngine(state, model, request);
  },

  requestPreempted(state, { requestId }) {
    const request = running(state, requestId);
    if (request === null || request.phase !== 'preempting') return;
    const model = mustGet(state.models, request.modelId);
    leaveBatch(model, request);
    readmit(state, model, request);
  },

  requestLost(state, { requestId }) {
    const request = running(state, requestId);
    if (request === null) return;
    const model = mustGet(state.models, request.modelId);
    leaveBatch(model, request);
    readmit(state, model, request);
  },

  modelLoaded(state, event) {
    const model = awaited(state, event);
    if (model === null) return;
    model.transition = null;
    model.phase = 'resident';
    model.residentSince = state.now;
    model.lastUsedAt = state.now;
    model.loadAsked = false;
    // A process that dies is forgiven only when it has served somebody, else it could die and be loaded again for ever.
    if (model.failure?.code !== 'engine_died') model.failure = null;
    chargeSwitch(state, model, event.micros);
    learnLoad(model.costs, event.from, event.micros);
    learnLoadedBytes(model.costs, event.bytes);
    hold(state, model.id, event.bytes);
    state.residencyDirty = true;
    reindex(state, model);
  },

  modelLoadFailed(state, event) {
    const model = awaited(state, event);
    if (model === null) return;
    afterFailure(state, model, event.code, event.message);
  },

  modelFellAsleep(state, event) {
    const model = awaited(state, event);
    if (model === null) return;
    model.transition = null;
    model.phase = 'asleep';
    model.slice = null;
    model.costs.asleepBytes = event.bytes;
    hold(state, model.id, event.bytes);
    state.residencyDirty = true;
    reindex(state, model);
  },

  modelUnloaded(state, event) {
    const model = awaited(state, event);
    if (model === null) return;
    becomeCold(state, model);
  },

  engineDied(state, { modelId }) {
    const model = state.models.get(modelId);
    if (model === undefined || model.phase === 'cold') return;
    afterFailure(state, model, 'engine_died', `the process of ${modelId} ended unexpectedly`);
  },

  memoryMeasured(state, { modelId, bytes }) {
    const model = state.models.get(modelId);
    if (model === undefined || (model.phase !== 'resident' && model.phase !== 'asleep')) return;
    const isCurrent = model.loadedRevision === model.spec.revision;
    if (model.phase === 'resident' && isCurrent) learnLoadedBytes(model.costs, bytes);
    if (bytes > heldBy(state, modelId)) state.residencyDirty = true;
    hold(state, modelId, bytes);
  },

  sliceEnded(state, event) {
    const model = state.models.get(event.modelId);
    if (model === undefined) return;
    let worth = event.prefillTokens;
    for (const [requestId, tokens] of Object.entries(event.decodeTokens)) {
      worth += tokens * OUTPUT_WEIGHT;
      const request = state.requests.get(requestId as RequestId);
      if (request === undefined) continue;
      request.outputTokens += tokens;
      if (tokens > 0) request.fruitless = 0;
      chargeRequest(state, request, tokens * OUTPUT_WEIGHT);
    }
    learnWorth(state, worth, event.lanes * event.wallMicros);
    learnPace(model.costs.paces, event, state.now);
    if (model.slice?.id !== event.sliceId) return;
    model.slice = null;
    model.lastSliceEndedAt = state.now;
    if (model.active.size > 0 && event.steps === 0) model.quietUntil = state.now + MILLI;
    reindex(state, model);
  },

  kvSaved(state, { modelId, tokens, micros }) {
    const model = state.models.get(modelId);
    if (model !== undefined) learnKvMove(model.costs, tokens, micros);
  },

  loadRequested(state, { modelId, keepAliveMicros }) {
    const model = mustGet(state.models, modelId);
    if (keepAliveMicros !== null) model.keepAliveMicros = keepAliveMicros;
    if (model.removed) return;
    model.lastUsedAt = state.now;
    model.stopAsked = false;
    model.loadAsked = model.phase !== 'resident';
    state.residencyDirty = true;
    reindex(state, model);
  },

  stopRequested(state, { modelId, force }) {
    const model = mustGet(state.models, modelId);
    model.loadAsked = false;
    state.residencyDirty = true;
    reindex(state, model);
    model.stopAsked = model.phase !== 'cold';
    if (!force) return;
    const because = { rule: 'stopped', running: model.active.size, waiting: model.waiting };
    refuseAllWaiting(state, model, {
      code: 'model_stopped',
      message: `${modelId} was stopped`,
      retryAfterMicros: null,
      because,
    });
    if (model.phase !== 'cold' && model.phase !== 'unloading') unload(state, model, because);
  },

  nodeStopping(state) {
    state.stopping = true;
    for (const model of state.models.values()) {
      const because = { rule: 'node-stopping', waiting: model.waiting };
      model.loadAsked = false;
      reindex(state, model);
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

/** A switch is paid by those who waited for it, in equal parts. */
function chargeSwitch(state: State, model: Model, micros: Micros): void {
  for (const { tenantId } of waitingOf(state, model)) chargeMicros(state, tenantId, micros / model.waiting);
}

/** The model has done its work for the request: it was used, and may now be idle. */
function leaveEngine(state: State, model: Model, request: Request): void {
  leaveBatch(model, request);
  forget(state, request);
  model.lastUsedAt = state.now;
  if (request.keepAliveMicros !== null) model.keepAliveMicros = request.keepAliveMicros;
  if (model.active.size === 0) lookAgainWhenIdle(state, model);
  reindex(state, model);
}
