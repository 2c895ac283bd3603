/**
 * Which models are on the device, asleep in host memory, or cold? Models with waiting requests are brought in by the deadline of
 * their most urgent one, within what is fair between tenants. To make room, idle models leave first, cheapest to miss first; a model that computes has to make room
 * only when somebody has waited for `patience`, and not before it has stayed for `minimumStay`. Nothing is evicted for a model
 * that it won't make room for, and nothing is evicted before its first use (while requests wait for it).
 */
import { refuseAllWaiting, whyTooLarge } from './admission.ts';
import { ascending } from './ascending.ts';
import type { Keyed } from './ascending.ts';
import { createRoom, isOutOfPatience, isPutOff, makeRoom, takeOut } from './eviction.ts';
import { isAhead, leastCounter } from './fairness.ts';
import { bytesOnTheirWayOut, freeBytes, heldBy } from './memory.ts';
import { leastInteractive, reindex, startBy } from './queues.ts';
import type { Model, State } from './state.ts';
import { lookAgainAt, wakeBy } from './state.ts';
import { load, park, unload } from './transitions.ts';

export function decideResidency(state: State): void {
  if (!state.residencyDirty && (state.residencyWakeAt === null || state.now < state.residencyWakeAt))
    return keepWake(state);
  state.residencyDirty = false;
  state.residencyWakeAt = null;
  state.blockedAt = null;
  const madeRoom: Model[] = [];
  for (const model of state.present) {
    if (model.drainingSince !== null) madeRoom.push(model);
    retire(state, model);
  }
  const draining = bringIn(state);
  for (const model of madeRoom) if (!draining.has(model)) model.drainingSince = null;
  keepWake(state);
}

const keepWake = (state: State): void => {
  if (state.residencyWakeAt !== null) wakeBy(state, state.residencyWakeAt);
};

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
  if (
    state.wanted.size > 0 ||
    freeBytes(state) < 0 ||
    model.removed ||
    model.stopAsked ||
    model.loadedRevision !== model.spec.revision
  )
    state.residencyDirty = true;
  const keepAlive = model.keepAliveMicros ?? model.spec.keepAliveMicros ?? state.residency.keepAliveMicros;
  if (keepAlive >= 0 && !model.spec.pinned) lookAgainAt(state, state.now + keepAlive);
}

// ---------------------------------------------------------------- coming in

/** Loads what fits, makes room for what doesn't; returns the models that were asked to make room. */
function bringIn(state: State): ReadonlySet<Model> {
  const room = createRoom();
  /** Free now, and free once the evictions under way are done; what earlier models in the order need is taken off both. */
  let free = freeBytes(state);
  let coming = free + bytesOnTheirWayOut(state);
  if (coming < 0) coming += makeRoom(state, room, null, -coming).bytes;
  let loads = state.loading.size;
  const mostLoads = Math.max(1, Math.floor(state.device.lanes / 2));
  for (const { model, key } of inOrderOfUrgency(state)) {
    room.ahead.add(model);
    const need = model.costs.loadedBytes - heldBy(state, model.id);
    if (need > coming) {
      const made = makeRoom(state, room, model, need - coming);
      coming += made.bytes;
      if (need > coming && !made.isDraining) {
        // It can't have room yet: those behind it may use what is free. Once it is out of patience, nothing passes it any more.
        if (!isOutOfPatience(state, model)) continue;
        state.blockedAt = key;
        break;
      }
    }
    if (need <= free && need <= coming && loads < mostLoads) {
      load(state, model, free);
      takeOut(state, room);
      loads++;
    }
    free -= need;
    coming -= need;
  }
  return room.draining;
}

interface Candidate extends Keyed {
  readonly model: Model;
}

/** Later than any due time. */
const AFTER_ALL_MICROS = 1e14;

/** What the least served tenant has received of those who compute on a lane that a load would take; Infinity: none is taken. */
function leastComputing(state: State): number {
  let least = Infinity;
  if (state.busy.size <= Math.max(1, state.device.lanes - state.loading.size - 1)) return least;
  for (const { active } of state.busy) least = Math.min(least, leastInteractive(state, active));
  return least;
}

/**
 * Models that somebody waits for, most urgent first; those of tenants that have received far more than others come after these, and
 * are put off while the others need the lanes that a load takes.
 */
function inOrderOfUrgency(state: State): Iterable<Candidate> {
  const candidates: Candidate[] = [];
  const wanted = [...state.wanted].map((model) => ({ model, counter: leastCounter(state, model.queues.keys()) }));
  const computing = leastComputing(state);
  let least = Infinity;
  for (const { model, counter } of wanted) if (model.waiting > 0) least = Math.min(least, counter);
  for (const { model, counter } of wanted) {
    if (model.phase !== 'cold' && model.phase !== 'asleep') continue;
    if (model.failure !== null && state.now < model.failure.retryAt) {
      lookAgainAt(state, model.failure.retryAt);
      continue;
    }
    const tooLarge = whyTooLarge(state, model);
    if (tooLarge === null && isPutOff(state, model, counter, computing)) continue;
    if (tooLarge === null) {
      const behind = model.waiting > 0 && isAhead(counter, least) ? AFTER_ALL_MICROS : 0;
      candidates.push({ model, key: startBy(state, model) + behind });
    } else {
      refuseAllWaiting(state, model, tooLarge);
      model.loadAsked = false;
      reindex(state, model);
      // Nobody waits for it any more: if it is asleep, its time to leave begins.
      lookAgainAt(state, state.now);
    }
  }
  return ascending(candidates);
}
