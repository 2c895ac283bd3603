/**
 * Which models are on the device, asleep in host memory, or cold? Models with waiting requests are brought in by the deadline of
 * their most urgent one. To make room, idle models leave first, cheapest to miss first; a model that computes has to make room
 * only when somebody has waited for `patience`, and not before it has stayed for `minimumStay`. Nothing is evicted for a model
 * that it won't make room for, and nothing is evicted before its first use (while requests wait for it).
 */
import type { Because } from './actions.ts';
import { switchInMicros } from './costs.ts';
import type { Bytes, Micros, ModelId } from './ids.ts';
import { preemptionMicros } from './kv.ts';
import { remainingMicros } from './costs.ts';
import { freeBytes, heldBy, hold } from './memory.ts';
import { earliestDue, oldestArrival, reindex } from './queues.ts';
import type { Model, State } from './state.ts';
import { act, mustGet, wakeBy } from './state.ts';

export function decideResidency(state: State): void {
  if (!state.residencyDirty && (state.residencyWakeAt === null || state.now < state.residencyWakeAt))
    return keepWake(state);
  state.residencyDirty = false;
  state.residencyWakeAt = null;
  const drainBefore = new Set<ModelId>();
  for (const id of state.present) {
    const model = mustGet(state.models, id);
    if (model.drainingSince !== null) drainBefore.add(id);
    retire(state, model);
  }
  const drained = bringIn(state);
  for (const id of drainBefore) if (!drained.has(id)) mustGet(state.models, id).drainingSince = null;
  keepWake(state);
}

const keepWake = (state: State): void => {
  if (state.residencyWakeAt !== null) wakeBy(state, state.residencyWakeAt);
};

function lookAgainAt(state: State, at: Micros): void {
  if (state.residencyWakeAt === null || at < state.residencyWakeAt) state.residencyWakeAt = at;
}

// ---------------------------------------------------------------- leaving by itself

/** A model without work that is removed, stopped, of an old revision, or idle past its keep-alive, goes. */
function retire(state: State, model: Model): void {
  if (model.phase !== 'resident' && model.phase !== 'asleep') return;
  if (model.active.size > 0) return;
  const outdated = model.loadedRevision !== null && model.loadedRevision !== model.spec.revision;
  if (model.removed || model.stopAsked || outdated) {
    return unload(state, model, {
      rule: model.removed ? 'removed' : model.stopAsked ? 'stopped' : 'relaunched',
      phase: model.phase,
    });
  }
  if (model.waiting > 0 || model.loadAsked || model.spec.pinned) return;
  const asleep = model.phase === 'asleep';
  const keepAlive = model.keepAliveMicros ?? model.spec.keepAliveMicros ?? state.residency.keepAliveMicros;
  const limit = asleep ? state.residency.sleepForMicros : keepAlive;
  if (limit < 0) return;
  const expiresAt = model.lastUsedAt + limit + (asleep ? Math.max(0, keepAlive) : 0);
  if (state.now < expiresAt) return lookAgainAt(state, expiresAt);
  const because = {
    rule: asleep ? 'slept-long' : 'keep-alive',
    idleMicros: state.now - model.lastUsedAt,
    limitMicros: limit,
  };
  if (asleep || limit === 0 || !model.spec.canSleep) unload(state, model, because);
  else park(state, model, because);
}

/** The model's last running request is gone: somebody may be waiting for its room, else its keep-alive starts. */
export function lookAgainWhenIdle(state: State, model: Model): void {
  if (state.wanted.size > 0 || model.removed || model.stopAsked || model.loadedRevision !== model.spec.revision)
    state.residencyDirty = true;
  const keepAlive = model.keepAliveMicros ?? model.spec.keepAliveMicros ?? state.residency.keepAliveMicros;
  if (keepAlive >= 0 && !model.spec.pinned) lookAgainAt(state, state.now + keepAlive);
}

// ---------------------------------------------------------------- coming in

/** Models that somebody waits for, most urgent first. */
function inOrderOfUrgency(state: State): Model[] {
  const due = new Map<ModelId, Micros>();
  const candidates: Model[] = [];
  for (const id of state.wanted) {
    const model = mustGet(state.models, id);
    if (model.phase !== 'cold' && model.phase !== 'asleep') continue;
    if (model.failure !== null && state.now < model.failure.retryAt) {
      lookAgainAt(state, model.failure.retryAt);
      continue;
    }
    due.set(id, (earliestDue(state, model) ?? state.now) - switchInMicros(model.costs, model.phase === 'asleep'));
    candidates.push(model);
  }
  return candidates.toSorted((a, b) => mustGet(due, a.id) - mustGet(due, b.id));
}

/** Loads what fits, makes room for what doesn't; returns the models that were asked to make room. */
function bringIn(state: State): Set<ModelId> {
  const draining = new Set<ModelId>();
  /** Free now, and free once the evictions under way are done; what earlier models in the order need is taken off both. */
  let free = freeBytes(state);
  let coming = free + bytesOnTheirWayOut(state);
  if (free < 0 && coming < 0) coming += makeRoom(state, null, -coming, draining);
  let loads = state.loading.size;
  const mostLoads = Math.max(1, Math.floor(state.device.lanes / 2));
  for (const model of inOrderOfUrgency(state)) {
    const need = model.costs.loadedBytes - heldBy(state, model.id);
    if (need > coming) coming += makeRoom(state, model, need - coming, draining);
    if (need <= free && need <= coming) {
      if (loads < mostLoads) {
        load(state, model, free);
        loads++;
      }
    } else if (need > coming && !isOutOfPatience(state, model)) {
      // It can't have room yet: those behind it may use what is free. Once it is out of patience, nothing passes it any more.
      continue;
    }
    free -= need;
    coming -= need;
  }
  return draining;
}

function isOutOfPatience(state: State, model: Model): boolean {
  const waitedSince = oldestArrival(state, model);
  return waitedSince !== null && state.now >= waitedSince + state.residency.patienceMicros;
}

function bytesOnTheirWayOut(state: State): Bytes {
  let bytes = 0;
  for (const id of state.present) {
    const model = mustGet(state.models, id);
    if (model.phase === 'unloading') bytes += heldBy(state, id);
    if (model.phase === 'parking') bytes += heldBy(state, id) - model.costs.asleepBytes;
  }
  return bytes;
}

// ---------------------------------------------------------------- making room

interface Departure {
  readonly model: Model;
  readonly to: 'asleep' | 'cold';
  readonly bytes: Bytes;
  /** Expected cost of missing it, per byte freed: micros of reload per second of waiting for its next use. */
  readonly price: number;
}

/** What one step down frees and costs: to sleep where that is possible and frees something, else off the device. */
function departureOf(state: State, model: Model): Departure {
  const held = heldBy(state, model.id);
  const canPark = model.phase === 'resident' && model.spec.canSleep && model.costs.asleepBytes < held;
  const bytes = canPark ? held - model.costs.asleepBytes : held;
  const back = canPark
    ? model.costs.wakeMicros
    : model.phase === 'asleep'
      ? model.costs.loadMicros - model.costs.wakeMicros
      : model.costs.loadMicros;
  const sinceLast = state.now - (model.lastArrivedAt ?? 0);
  const nextUseMicros = Math.max(1, model.gapMicros ?? 0, sinceLast);
  return {
    model,
    to: canPark ? 'asleep' : 'cold',
    bytes,
    price: Math.max(1, back) / nextUseMicros / Math.max(1, bytes),
  };
}

/**
 * Has idle models leave until `missing` bytes are on their way, or none if they would not be enough; then asks computing ones to
 * make room. Returns the bytes that were set free or will be.
 */
function makeRoom(state: State, forModel: Model | null, missing: Bytes, draining: Set<ModelId>): Bytes {
  const idle: Departure[] = [];
  const working: Model[] = [];
  for (const id of state.present) {
    const model = mustGet(state.models, id);
    if (model === forModel || model.spec.pinned || (model.phase !== 'resident' && model.phase !== 'asleep')) continue;
    const makesRoom = model.drainingSince !== null || draining.has(id);
    if (model.active.size === 0 && (model.waiting === 0 || makesRoom) && !model.loadAsked)
      idle.push(departureOf(state, model));
    else if (model.phase === 'resident') working.push(model);
  }
  const leaving = sum(idle) >= missing ? cheapest(idle, missing) : allTheWay(idle, missing, state);
  if (sum(leaving) >= missing) {
    for (const departure of leaving) depart(state, departure, forModel, missing);
    return sum(leaving);
  }
  if (forModel !== null) askToDrain(state, forModel, working, missing - sum(leaving), draining);
  return 0;
}

/** Sleep does not free enough: as many as needed, the cheapest first, leave the device altogether. */
function allTheWay(idle: readonly Departure[], missing: Bytes, state: State): Departure[] {
  let still = missing - sum(idle);
  return idle
    .toSorted((a, b) => a.price - b.price)
    .map((departure) => {
      const more = heldBy(state, departure.model.id) - departure.bytes;
      if (still <= 0 || more <= 0) return departure;
      still -= more;
      return { ...departure, to: 'cold', bytes: departure.bytes + more };
    });
}

const sum = (departures: readonly Departure[]): Bytes => departures.reduce((total, { bytes }) => total + bytes, 0);

/** The cheapest first until it is enough; then those that turn out unneeded stay after all. */
function cheapest(idle: readonly Departure[], missing: Bytes): Departure[] {
  const chosen: Departure[] = [];
  let bytes = 0;
  for (const departure of idle.toSorted((a, b) => a.price - b.price)) {
    if (bytes >= missing) break;
    chosen.push(departure);
    bytes += departure.bytes;
  }
  return chosen.toReversed().filter((departure) => {
    if (bytes - departure.bytes < missing) return true;
    bytes -= departure.bytes;
    return false;
  });
}

function depart(state: State, { model, to, bytes, price }: Departure, forModel: Model | null, missing: Bytes): void {
  const because = {
    rule: forModel === null ? 'memory-pressure' : 'cheapest-to-miss',
    for: forModel?.id ?? '',
    missingBytes: missing,
    freesBytes: bytes,
    price: Number(price.toPrecision(4)),
    idleMicros: state.now - model.lastUsedAt,
  };
  if (to === 'asleep') park(state, model, because);
  else unload(state, model, because);
}

/** Computing models, the longest resident first, finish what they run and start nothing new; in the end they are preempted. */
function askToDrain(
  state: State,
  forModel: Model,
  working: readonly Model[],
  missing: Bytes,
  draining: Set<ModelId>,
): void {
  const waitedSince = oldestArrival(state, forModel);
  if (waitedSince === null) return;
  const { patienceMicros, minimumStayMicros, drainMicros } = state.residency;
  if (state.now < waitedSince + patienceMicros) return lookAgainAt(state, waitedSince + patienceMicros);
  let bytes = 0;
  for (const model of working.toSorted((a, b) => a.residentSince - b.residentSince)) {
    if (bytes >= missing) return;
    if (draining.has(model.id)) continue;
    const mayLeaveAt = model.residentSince + minimumStayMicros;
    if (state.now < mayLeaveAt) {
      lookAgainAt(state, mayLeaveAt);
      continue;
    }
    bytes += departureOf(state, model).bytes;
    draining.add(model.id);
    model.drainingSince ??= state.now;
    const overAt = model.drainingSince + drainMicros;
    if (state.now >= overAt) preemptAll(state, model, forModel, 'drain-over');
    else if (isPreemptingCheaper(state, model)) preemptAll(state, model, forModel, 'preempting-cheaper');
    else lookAgainAt(state, overAt);
  }
}

/** Waiting for the longest of its requests takes longer than computing all of them again. */
function isPreemptingCheaper(state: State, model: Model): boolean {
  let longest = 0;
  let again = 0;
  for (const id of model.active) {
    const request = mustGet(state.requests, id);
    longest = Math.max(longest, remainingMicros(model.costs, request.outputTokens, request.maxTokens));
    again += preemptionMicros(model, request);
  }
  return again < longest;
}

function preemptAll(state: State, model: Model, forModel: Model, rule: string): void {
  for (const id of model.active) {
    const request = mustGet(state.requests, id);
    if (request.phase !== 'running') continue;
    request.phase = 'preempting';
    const drainedMicros = state.now - (model.drainingSince ?? state.now);
    const because = { rule, for: forModel.id, drainedMicros, againMicros: preemptionMicros(model, request) };
    act(state, { type: 'preemptRequest', modelId: model.id, requestId: id }, because);
  }
}

// ---------------------------------------------------------------- the three ways

function load(state: State, model: Model, free: Bytes): void {
  const reservedBytes = Math.max(model.costs.loadedBytes, heldBy(state, model.id));
  const due = earliestDue(state, model);
  const because: Because = {
    rule: model.waiting > 0 ? 'most-urgent' : 'asked',
    from: model.phase,
    waiting: model.waiting,
    slackMicros: due === null ? 0 : due - state.now,
    expectedMicros: switchInMicros(model.costs, model.phase === 'asleep'),
    reservedBytes,
    freeBytes: free,
  };
  hold(state, model.id, reservedBytes);
  model.phase = 'loading';
  model.loadedRevision = model.spec.revision;
  model.transition = act(state, { type: 'ensureLoaded', modelId: model.id, reservedBytes }, because);
  reindex(state, model);
}

export function park(state: State, model: Model, because: Because): void {
  model.phase = 'parking';
  model.transition = act(state, { type: 'ensureAsleep', modelId: model.id }, because);
  reindex(state, model);
}

export function unload(state: State, model: Model, because: Because): void {
  model.phase = 'unloading';
  model.transition = act(state, { type: 'ensureUnloaded', modelId: model.id }, because);
  reindex(state, model);
}
