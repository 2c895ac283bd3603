/**
 * May this request enter, and if not, why and when to come back? Each request ends in exactly one outcome: finished, failed,
 * refused or cancelled. Everything that waits has a bound and a deadline.
 */
import type { Because, RefusalCode } from './actions.ts';
import type { EventOf } from './events.ts';
import type { Micros } from './ids.ts';
import { SECOND } from './ids.ts';
import { charge, enter, leave, tenantOf } from './fairness.ts';
import { lendableBytes } from './memory.ts';
import { dequeue, enqueue, noteWanted, reindex, waitingOf } from './queues.ts';
import type { Model, Request, State } from './state.ts';
import { act, mustGet, wakeBy } from './state.ts';

interface Refusal {
  readonly code: RefusalCode;
  readonly message: string;
  readonly retryAfterMicros: Micros | null;
  readonly because: Because;
}

/** The pure question: null, or why not. */
export function whyNot(state: State, model: Model): Refusal | null {
  if (model.removed) {
    const because = { rule: 'model-removed', waiting: model.waiting };
    return { code: 'model_stopped', message: `${model.id} was removed`, retryAfterMicros: null, because };
  }
  if (state.stopping) {
    return {
      code: 'node_stopping',
      message: 'the node is shutting down',
      retryAfterMicros: 5 * SECOND,
      because: { rule: 'node-stopping' },
    };
  }
  const { failure } = model;
  if (failure !== null && state.now < failure.retryAt && !failure.forgiven) {
    const retryAfterMicros = failure.retryAt - state.now;
    const because = { rule: 'load-back-off', failures: failure.count, retryAfterMicros };
    return { code: failure.code, message: failure.message, retryAfterMicros, because };
  }
  const tooLarge = whyTooLarge(state, model);
  if (tooLarge !== null) return tooLarge;
  const retryAfterMicros = expectedWaitMicros(model);
  if (model.waiting >= state.limits.queuePerModel) {
    const because = { rule: 'queue-full', waiting: model.waiting, limit: state.limits.queuePerModel };
    return {
      code: 'queue_full',
      message: `${model.waiting} requests wait for ${model.id} already`,
      retryAfterMicros,
      because,
    };
  }
  if (state.requests.size >= state.limits.requests) {
    const because = { rule: 'node-full', requests: state.requests.size, limit: state.limits.requests };
    return {
      code: 'queue_full',
      message: `the node has ${state.requests.size} requests already`,
      retryAfterMicros,
      because,
    };
  }
  return null;
}

/** null if the device could hold the model with everything else gone that may go. */
export function whyTooLarge(state: State, model: Model): Refusal | null {
  const lendable = lendableBytes(state, model.id);
  const needed = model.costs.loadedBytes;
  if (needed <= lendable) return null;
  return {
    code: 'model_too_large',
    message: `${model.id} needs ${needed} bytes of device memory, and at most ${lendable} of the ${state.device.memoryBytes} can be lent to it`,
    retryAfterMicros: null,
    because: {
      rule: 'larger-than-budget',
      neededBytes: needed,
      lendableBytes: lendable,
      overheadBytes: state.device.overheadBytes,
    },
  };
}

/** When a place in the line should be free: one request's usual duration, shared by those computed at once. */
function expectedWaitMicros(model: Model): Micros {
  const { costs } = model;
  const request = costs.decodeMicrosPerToken * costs.meanOutputTokens;
  return Math.max(SECOND, Math.ceil(request / Math.max(1, model.spec.parallel)));
}

/** The request's model exists: the shell has checked that before. */
export function admit(state: State, event: EventOf<'requestArrived'>): void {
  const model = mustGet(state.models, event.modelId);
  state.outcomes.arrived++;
  learnArrival(state, model);
  const refusal = whyNot(state, model);
  if (refusal !== null) {
    const { because, ...rest } = refusal;
    state.outcomes.refused++;
    act(state, { type: 'refuseRequest', requestId: event.requestId, modelId: model.id, ...rest }, because);
    return;
  }
  const request: Request = {
    id: event.requestId,
    tenantId: event.tenantId,
    modelId: event.modelId,
    kind: event.kind,
    priority: event.priority,
    arrivedAt: state.now,
    dueAt: state.now + (event.ttftGoalMicros ?? model.spec.ttftGoalMicros),
    queuedAt: state.now,
    interTokenGoalMicros: event.interTokenGoalMicros ?? model.spec.interTokenGoalMicros,
    promptTokens: event.promptTokens,
    maxTokens: event.maxTokens,
    keepAliveMicros: event.keepAliveMicros,
    phase: 'waiting',
    firstTokenAt: null,
    outputTokens: 0,
    fruitless: 0,
    share: event.share ?? '',
    chargedTokens: 0,
  };
  state.requests.set(request.id, request);
  const tenant = tenantOf(state, request.tenantId);
  enter(state, tenant, request.share);
  enqueue(state, model, request);
  reindex(state, model);
  noteWanted(state, model);
}

function learnArrival(state: State, model: Model): void {
  if (model.lastArrivedAt !== null) {
    const gap = state.now - model.lastArrivedAt;
    model.gapMicros = model.gapMicros === null ? gap : Math.round(model.gapMicros + (gap - model.gapMicros) / 4);
  }
  model.lastArrivedAt = state.now;
}

/** The request has left the node, however it ended. */
export function forget(state: State, request: Request): void {
  state.requests.delete(request.id);
  leave(state, tenantOf(state, request.tenantId), request.share);
}

/** A preempted request waits again, with a deadline of its own: it is not to blame for the time that it computed. */
export function readmit(state: State, model: Model, request: Request): void {
  request.fruitless++;
  enqueue(state, model, request);
  state.residencyDirty = true;
  reindex(state, model);
  if (!model.removed) return;
  const because = { rule: 'model-removed', waiting: model.waiting };
  refuse(state, request, {
    code: 'model_stopped',
    message: `${model.id} was removed`,
    retryAfterMicros: null,
    because,
  });
}

/** Counts service towards its tenant, and remembers how much, so that a wrong estimate is settled at the end. */
export function chargeRequest(state: State, request: Request, tokens: number): void {
  request.chargedTokens += tokens;
  charge(tenantOf(state, request.tenantId), tokens, request.share);
}

/** A waiting request is gone. What was to make room for it need not any more. */
export function leaveLine(state: State, model: Model, request: Request): void {
  noteWanted(state, model);
  dequeue(state, model, request);
  forget(state, request);
  reindex(state, model);
}

/** Refuses one waiting request. */
export function refuse(state: State, request: Request, refusal: Refusal): void {
  const model = mustGet(state.models, request.modelId);
  leaveLine(state, model, request);
  state.outcomes.refused++;
  const { because, ...rest } = refusal;
  act(state, { type: 'refuseRequest', requestId: request.id, modelId: model.id, ...rest }, because);
}

export function refuseAllWaiting(state: State, model: Model, refusal: Refusal): void {
  for (const request of waitingOf(state, model)) refuse(state, request, refusal);
}

/** Requests that have waited too long are told so. The first of those that wait has waited longest. */
export function refuseOverdue(state: State): void {
  if (state.waiting.size === 0) state.nextRefusalAt = null;
  if (state.nextRefusalAt !== null && state.now >= state.nextRefusalAt) {
    state.nextRefusalAt = null;
    for (const request of state.waiting) {
      const refuseAt = request.queuedAt + state.limits.queueTimeoutMicros;
      if (state.now < refuseAt) {
        state.nextRefusalAt = refuseAt;
        break;
      }
      refuseOverdueOne(state, mustGet(state.models, request.modelId), request);
    }
  }
  if (state.nextRefusalAt !== null) wakeBy(state, state.nextRefusalAt);
}

function refuseOverdueOne(state: State, model: Model, request: Request): void {
  const waitedMicros = state.now - request.queuedAt;
  refuse(state, request, {
    code: 'queue_timeout',
    message: `no place on the device was found for ${model.id} within ${Math.round(waitedMicros / SECOND)} s`,
    retryAfterMicros: expectedWaitMicros(model),
    because: {
      rule: 'queue-timeout',
      waitedMicros,
      limitMicros: state.limits.queueTimeoutMicros,
      phase: model.phase,
    },
  });
}
