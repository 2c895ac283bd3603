/** The waiting lines of a model, one per tenant, and the indices that keep an event's cost independent of the number of models. */
import { switchInMicros } from './costs.ts';
import type { Micros, RequestId, TenantId } from './ids.ts';
import { leastServed, tenantOf } from './fairness.ts';
import type { Model, Request, State } from './state.ts';
import { mustGet } from './state.ts';

/** Puts the model into the sets that the policies walk. To be called after each change of its phase, line or work. */
export function reindex(state: State, model: Model): void {
  const put = (set: Set<Model>, member: boolean): void => {
    if (member) set.add(model);
    else set.delete(model);
  };
  put(state.present, model.phase !== 'cold');
  put(state.pinned, model.spec.pinned && !model.removed);
  put(state.busy, model.phase === 'resident' && model.active.size > 0 && model.spec.isElsewhere !== true);
  put(state.sliced, model.slice !== null);
  put(state.loading, model.phase === 'loading');
  put(state.wanted, model.phase !== 'resident' && (model.waiting > 0 || model.loadAsked));
  put(state.startable, model.phase === 'resident' && model.waiting > 0);
}

/** Into its tenant's line: batch behind interactive, else by arrival, so that a preempted one is started again first. */
export function enqueue(state: State, model: Model, request: Request): void {
  const line = model.queues.get(request.tenantId) ?? [];
  model.queues.set(request.tenantId, line);
  let at = line.length;
  const isAhead = (other: RequestId): boolean => {
    const { priority, arrivedAt } = mustGet(state.requests, other);
    return priority === request.priority ? arrivedAt <= request.arrivedAt : priority === 'interactive';
  };
  while (at > 0 && !isAhead(line[at - 1] as RequestId)) at--;
  line.splice(at, 0, request.id);
  model.waiting++;
  request.phase = 'waiting';
  request.queuedAt = state.now;
  state.waiting.add(request);
  state.nextRefusalAt ??= state.now + state.limits.queueTimeoutMicros;
  lookAtHeads(state, model);
}

export function dequeue(state: State, model: Model, request: Request): void {
  const line = model.queues.get(request.tenantId);
  const at = line?.indexOf(request.id) ?? -1;
  if (line === undefined || at < 0)
    throw new Error(`broken invariant: request ${request.id} is in no line of ${model.id}`);
  line.splice(at, 1);
  if (line.length === 0) model.queues.delete(request.tenantId);
  model.waiting--;
  state.waiting.delete(request);
  lookAtHeads(state, model);
}

function lookAtHeads(state: State, model: Model): void {
  model.dueAt = null;
  model.waitingSince = null;
  for (const line of model.queues.values()) {
    const { dueAt, arrivedAt } = mustGet(state.requests, line[0] as RequestId);
    model.dueAt = Math.min(model.dueAt ?? dueAt, dueAt);
    model.waitingSince = Math.min(model.waitingSince ?? arrivedAt, arrivedAt);
  }
}

/**
 * By when a load must begin for the first token to be in time. One that has just been on the device is not urgent again at once, or
 * two models with long lines would never let a third one in.
 */
export function startBy(state: State, model: Model): Micros {
  const dueAt = Math.max(model.dueAt ?? state.now, model.leftAt);
  return dueAt - switchInMicros(model.costs, model.phase === 'asleep');
}

/** Somebody waits for a model that is not there, or no longer: residency must look, unless others are served before it anyway. */
export function noteWanted(state: State, model: Model): void {
  if (model.phase !== 'cold' && model.phase !== 'asleep') return;
  const isBehind = state.blockedAt !== null && startBy(state, model) > state.blockedAt;
  if (!isBehind || model.failure !== null) state.residencyDirty = true;
}

/** Who of this kind is started next: interactive before batch, then the tenant that was served least, in it its least served user, then by arrival. */
export function nextWaiting(state: State, model: Model, kind: Request['kind']): Request | null {
  const heads = [...model.queues.values()].flatMap((line) => firstOf(state, line, kind) ?? []);
  const interactive = heads.filter(({ priority }) => priority === 'interactive');
  const eligible = interactive.length > 0 ? interactive : heads;
  const tenant = leastServed(
    state,
    eligible.map(({ tenantId }) => tenantId),
  );
  return eligible.find(({ tenantId }) => tenantId === tenant) ?? null;
}

function firstOf(state: State, line: readonly RequestId[], kind: Request['kind']): Request | null {
  let [first, least]: [Request | null, number] = [null, Infinity];
  for (const id of line) {
    const request = mustGet(state.requests, id);
    if (request.kind !== kind) continue;
    const { shares } = tenantOf(state, request.tenantId);
    if (shares.size < 2) return request;
    if (first !== null && request.priority !== first.priority) break;
    const counter = shares.get(request.share)?.counter ?? 0;
    if (counter < least) [first, least] = [request, counter];
  }
  return first;
}

/** How many embeddings wait, and since when the first of them does. */
export function waitingEmbeds(
  state: State,
  model: Model,
): { readonly count: number; readonly oldestAt: Micros | null } {
  let count = 0;
  let oldestAt: Micros | null = null;
  for (const { kind, queuedAt } of waitingOf(state, model)) {
    if (kind !== 'embed') continue;
    count++;
    oldestAt = Math.min(oldestAt ?? queuedAt, queuedAt);
  }
  return { count, oldestAt };
}

/** Every waiting request of the model, in no particular order; a list of its own, so that they may leave while it is walked. */
export function waitingOf(state: State, model: Model): Request[] {
  return [...model.queues.values()].flatMap((line) => line.map((id) => mustGet(state.requests, id)));
}

/** What the least served tenant has received of those that have an interactive request among these; Infinity: none has. */
export function leastInteractive(state: State, ids: Iterable<RequestId>): number {
  let least = Infinity;
  for (const id of ids) {
    const { priority, tenantId } = mustGet(state.requests, id);
    if (priority === 'interactive') least = Math.min(least, tenantOf(state, tenantId).counter);
  }
  return least;
}

export function* tenantsOf(state: State, ids: Iterable<RequestId>): Generator<TenantId> {
  for (const id of ids) yield mustGet(state.requests, id).tenantId;
}

/** How many wait before this one, in the node's view: its model's line. */
export function positionOf(model: Model, request: Request): number {
  let position = 0;
  for (const line of model.queues.values()) {
    for (const id of line) {
      if (id === request.id) return position;
      position++;
    }
  }
  return position;
}
