/**
 * With whom is a request computed? Requests of a resident model join its running batch at the next step, as long as a sequence
 * is free (continuous batching); those of a model that is not there gather in its line and are served by one load. Embeddings wait
 * a few milliseconds for company, or until they are a full batch. An interactive request that finds all places taken takes one from
 * a batch request, which goes on later where it was.
 */
import { chargeRequest } from './admission.ts';
import { isAhead } from './fairness.ts';
import type { TenantId } from './ids.ts';
import { preemptionMicros } from './kv.ts';
import { dequeue, nextWaiting, reindex, waitingEmbeds } from './queues.ts';
import type { Model, Request, State } from './state.ts';
import { act, mustGet, wakeBy } from './state.ts';

/** May another request of this kind join now? */
function hasRoom(model: Model, kind: Request['kind']): boolean {
  const { parallel, embedParallel } = model.spec;
  return kind === 'embed' ? model.embedding < embedParallel : model.active.size - model.embedding < parallel;
}

/** It takes no new requests: it makes room, or is to be stopped or relaunched. */
const isLeaving = (model: Model): boolean =>
  model.drainingSince !== null || model.stopAsked || model.loadedRevision !== model.spec.revision;

export function startWaiting(state: State): void {
  for (const model of state.startable) {
    if (model.phase !== 'resident' || isLeaving(model)) continue;
    for (const kind of ['generate', 'embed'] as const) startKind(state, model, kind);
    reindex(state, model);
  }
}

function startKind(state: State, model: Model, kind: Request['kind']): void {
  if (kind === 'embed' && !isWindowOver(state, model)) return;
  for (let next = nextWaiting(state, model, kind); next !== null; next = nextWaiting(state, model, kind)) {
    if (!hasRoom(model, kind)) return makePlace(state, model, next);
    start(state, model, next);
  }
}

/** Those that come within the window of the first go through the engine as one batch; a running batch is joined at once. */
function isWindowOver(state: State, model: Model): boolean {
  const { embedWindowMicros, embedParallel } = model.spec;
  const { count, oldestAt } = waitingEmbeds(state, model);
  if (oldestAt === null || model.embedding > 0 || count >= embedParallel) return true;
  const over = oldestAt + embedWindowMicros;
  if (state.now >= over) return true;
  wakeBy(state, over);
  return false;
}

function start(state: State, model: Model, request: Request): void {
  dequeue(state, model, request);
  request.phase = 'running';
  model.active.add(request.id);
  if (request.kind === 'embed') model.embedding++;
  model.lastUsedAt = state.now;
  model.loadAsked = false;
  // The prompt is charged when it is taken, not when it is done: else a burst of one tenant is all taken at the old counter.
  if (request.chargedTokens === 0) chargeRequest(state, request, request.promptTokens);
  const because = {
    rule: 'least-served',
    waitedMicros: state.now - request.arrivedAt,
    counter: mustGet(state.tenants, request.tenantId).counter,
    active: model.active.size,
    parallel: model.spec.parallel,
    waiting: model.waiting,
  };
  act(state, { type: 'startRequest', modelId: model.id, requestId: request.id }, because);
}

/**
 * An interactive request takes a place from a batch request; or from a tenant that has received far more than its own; or, where its
 * own has no place at all, from one that has several: whoever floods a model makes others wait for a step, not for a whole answer.
 * It is taken from the one served most, and of its requests from the one that has least to lose.
 */
function makePlace(state: State, model: Model, waiting: Request): void {
  if (waiting.priority !== 'interactive' || waiting.kind === 'embed') return;
  // What is computed elsewhere can't be gone on from.
  if (model.spec.isElsewhere === true) return;
  const own = mustGet(state.tenants, waiting.tenantId).counter;
  const places = placesOf(state, model);
  let chosen: { readonly request: Request; readonly key: number; readonly lost: number; readonly rule: string } | null =
    null;
  for (const id of model.active) {
    const request = mustGet(state.requests, id);
    // One place is on its way already.
    if (request.phase === 'preempting') return;
    if (request.kind === 'embed') continue;
    const { counter } = mustGet(state.tenants, request.tenantId);
    const isBatch = request.priority === 'batch';
    // Nobody is sent away twice without having got anything, and nobody to compute everything again.
    const mayPause = model.spec.keepsKv && request.fruitless === 0;
    const hasBegun = request.firstTokenAt !== null || request.outputTokens > 0;
    const isOverserved = mayPause && hasBegun && isAhead(counter, own);
    const hasSeveral =
      mayPause && !places.has(waiting.tenantId) && counter >= own && (places.get(request.tenantId) ?? 0) > 1;
    if (!isBatch && !isOverserved && !hasSeveral) continue;
    const rule = isBatch ? 'interactive-first' : isOverserved ? 'least-served-first' : 'a-place-each';
    const [key, lost] = [isBatch ? Infinity : counter, preemptionMicros(model, request)];
    if (chosen === null || key > chosen.key || (key === chosen.key && lost < chosen.lost))
      chosen = { request, key, lost, rule };
  }
  if (chosen === null) return;
  const { request, rule, lost } = chosen;
  request.phase = 'preempting';
  const because = { rule, for: waiting.id, againMicros: lost };
  act(state, { type: 'preemptRequest', modelId: model.id, requestId: request.id }, because);
}

/** How many of the model's places each tenant has. */
function placesOf(state: State, model: Model): ReadonlyMap<TenantId, number> {
  const places = new Map<TenantId, number>();
  for (const id of model.active) {
    const { kind, tenantId } = mustGet(state.requests, id);
    if (kind === 'generate') places.set(tenantId, (places.get(tenantId) ?? 0) + 1);
  }
  return places;
}

/** The engine has let go of the request. */
export function leaveBatch(model: Model, request: Request): void {
  if (model.active.delete(request.id) && request.kind === 'embed') model.embedding--;
}
