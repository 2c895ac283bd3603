/**
 * Who leaves the device for whom? Idle models leave first, the cheapest to miss first. When they are not enough, and somebody has
 * waited for `patience`, computing models that have stayed for `minimumStay` finish what they run and start nothing new; in the
 * end they are preempted. Nothing leaves and nothing is interrupted unless all of it together makes room enough.
 */
import { remainingMicros, switchInMicros } from './costs.ts';
import type { Bytes, Micros } from './ids.ts';
import { MILLI } from './ids.ts';
import { preemptionMicros } from './kv.ts';
import { isAhead, leastCounter } from './fairness.ts';
import { heldBy } from './memory.ts';
import { leastInteractive } from './queues.ts';
import type { Model, State } from './state.ts';
import { act, lookAgainAt, mustGet } from './state.ts';
import { park, unload } from './transitions.ts';

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

/** Nobody passes a model any more for which somebody has waited so long; the wait begins anew when the model was on the device. */
export function isOutOfPatience(state: State, model: Model): boolean {
  return model.waitingSince !== null && state.now >= patientUntil(state, model.waitingSince, model);
}

const patientUntil = (state: State, waitingSince: Micros, model: Model, patiences = 1): Micros =>
  Math.max(waitingSince, model.leftAt) + patiences * state.residency.patienceMicros;

/** A model is put off for so many times the patience; then it has its turn whatever its tenants have received. */
const PUT_OFF_PATIENCES = 5;
const PUT_OFF_LOOK_MICROS = 50 * MILLI;

/** Have the tenants that wait for it (`counter`: the least served of them) received far more than these others (`least`), who compute now? */
export function isPutOff(state: State, model: Model, counter: number, least: number): boolean {
  const until = patientUntil(state, model.waitingSince ?? state.now, model, PUT_OFF_PATIENCES);
  if (state.now >= until || !isAhead(counter, least)) return false;
  lookAgainAt(state, Math.min(until, state.now + PUT_OFF_LOOK_MICROS + state.wanted.size * MILLI));
  return true;
}

/** What may leave the device, looked at once in a decision and shared by all who want room. */
export interface Room {
  isSurveyed: boolean;
  /** Cheapest to miss first; `idleBytes` is what they hold in all. */
  idle: Departure[];
  idleBytes: Bytes;
  /** Asleep, and somebody waits for them. */
  readonly asleep: Model[];
  /** Longest resident first. */
  working: readonly Model[];
  /** Models that make room. */
  readonly draining: Set<Model>;
  /** Models that wait, at least as urgent as the one in turn: they don't leave for it. */
  readonly ahead: Set<Model>;
}

export const createRoom = (): Room => ({
  isSurveyed: false,
  idle: [],
  idleBytes: 0,
  asleep: [],
  working: [],
  draining: new Set(),
  ahead: new Set(),
});

function survey(state: State, room: Room): void {
  room.isSurveyed = true;
  const working: Model[] = [];
  for (const model of state.present) {
    if (model.spec.pinned || (model.phase !== 'resident' && model.phase !== 'asleep')) continue;
    const isWanted = model.waiting > 0 || model.loadAsked;
    if (model.active.size === 0 && (!isWanted || model.drainingSince !== null))
      room.idle.push(departureOf(state, model));
    else if (model.phase === 'asleep') room.asleep.push(model);
    else working.push(model);
  }
  room.idle.sort(byPrice);
  room.idleBytes = heldIn(state, room.idle);
  room.working = working.toSorted((a, b) => a.residentSince - b.residentSince);
}

const byPrice = (a: Departure, b: Departure): number => a.price - b.price;
const sum = (departures: readonly Departure[]): Bytes => departures.reduce((total, { bytes }) => total + bytes, 0);
const heldIn = (state: State, departures: readonly Departure[]): Bytes =>
  departures.reduce((total, { model }) => total + heldBy(state, model.id), 0);

/** Those that are on their way by now, in or out, are no longer to be had. */
export function takeOut(state: State, room: Room): void {
  room.idle = room.idle.filter(({ model }) => model.transition === null);
  room.idleBytes = heldIn(state, room.idle);
}

interface RoomMade {
  /** Free now or soon. */
  readonly bytes: Bytes;
  /** The rest comes when models have finished what they run. */
  readonly isDraining: boolean;
}

const NONE: RoomMade = { bytes: 0, isDraining: false };

/**
 * Has models leave until `missing` bytes are on their way. `forModel` null: the device holds more than its budget, because that was
 * lowered or a model turned out larger.
 */
export function makeRoom(state: State, room: Room, forModel: Model | null, missing: Bytes): RoomMade {
  if (!room.isSurveyed) survey(state, room);
  const isPressing = forModel === null || isOutOfPatience(state, forModel);
  if (!isPressing && room.idleBytes < missing) {
    if (forModel.waitingSince !== null) lookAgainAt(state, patientUntil(state, forModel.waitingSince, forModel));
    return NONE;
  }
  // A model asleep for which somebody waits, though less urgently, must not keep its bytes from one that is out of patience.
  const behind =
    forModel !== null && isPressing && room.idleBytes < missing
      ? room.asleep.filter((model) => model.transition === null && !room.ahead.has(model))
      : [];
  const idle =
    behind.length === 0
      ? room.idle
      : [...room.idle, ...behind.map((model) => departureOf(state, model))].toSorted(byPrice);
  const leaving = sum(idle) >= missing ? cheapest(idle, missing) : allTheWay(idle, missing, state);
  const bytes = sum(leaving);
  if (bytes >= missing || forModel === null) {
    for (const departure of leaving) depart(state, departure, forModel, missing);
    takeOut(state, room);
  }
  if (bytes >= missing) return { bytes, isDraining: false };
  const isDraining = askToDrain(state, room, forModel, missing - bytes);
  if (forModel === null) return { bytes, isDraining };
  // Those that could leave now must still be able to when the others are done.
  if (isDraining) for (const { model } of leaving) startDraining(state, room, model);
  return { bytes: 0, isDraining };
}

/** Sleep does not free enough: as many as needed, the cheapest first, leave the device altogether. */
function allTheWay(idle: readonly Departure[], missing: Bytes, state: State): Departure[] {
  let still = missing - sum(idle);
  return idle.map((departure) => {
    const more = heldBy(state, departure.model.id) - departure.bytes;
    if (still <= 0 || more <= 0) return departure;
    still -= more;
    return { ...departure, to: 'cold', bytes: departure.bytes + more };
  });
}

/** The cheapest first until it is enough; then those that turn out unneeded stay after all. */
function cheapest(idle: readonly Departure[], missing: Bytes): Departure[] {
  const chosen: Departure[] = [];
  let bytes = 0;
  for (const departure of idle) {
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

/**
 * The longest resident first, as many as it takes; whether that will be enough. A model just loaded has started nothing yet in this
 * cycle: it stays for a moment at least, whatever the minimum, so that nothing is evicted before its first use. Nor does
 * one make room for tenants that have received far more than those for whom it computes, until these are even.
 */
function askToDrain(state: State, room: Room, forModel: Model | null, missing: Bytes): boolean {
  const chosen: Model[] = [];
  let bytes = 0;
  const counter = forModel === null ? 0 : leastCounter(state, forModel.queues.keys());
  for (const model of room.working) {
    if (bytes >= missing) break;
    if (forModel !== null && isPutOff(state, forModel, counter, leastInteractive(state, model.active))) continue;
    const mayLeaveAt = model.residentSince + Math.max(1, state.residency.minimumStayMicros);
    if (state.now < mayLeaveAt) {
      lookAgainAt(state, mayLeaveAt);
      continue;
    }
    bytes += heldBy(state, model.id);
    chosen.push(model);
  }
  if (bytes < missing && forModel !== null) return false;
  for (const model of chosen) if (!room.draining.has(model)) drain(state, room, model, forModel);
  return true;
}

function startDraining(state: State, room: Room, model: Model): void {
  room.draining.add(model);
  model.drainingSince ??= state.now;
}

/** A request that got nothing from its last stay has twice as long in the next, so that the longest prompt is through some day. */
const FRUITLESS_DRAIN_MICROS = 100 * MILLI;
const MOST_DOUBLINGS = 10;

/** How long the model may still compute when it has to make room. */
export function drainMicros(state: State, model: Model): Micros {
  let fruitless = 0;
  for (const id of model.active) fruitless = Math.max(fruitless, mustGet(state.requests, id).fruitless);
  const usual = state.residency.drainMicros;
  if (fruitless === 0) return usual;
  return Math.max(usual, FRUITLESS_DRAIN_MICROS) * 2 ** Math.min(fruitless, MOST_DOUBLINGS);
}

function drain(state: State, room: Room, model: Model, forModel: Model | null): void {
  startDraining(state, room, model);
  const overAt = (model.drainingSince ?? state.now) + drainMicros(state, model);
  if (state.now >= overAt) preemptAll(state, model, forModel, 'drain-over');
  else if (isPreemptingCheaper(state, model)) preemptAll(state, model, forModel, 'preempting-cheaper');
  else lookAgainAt(state, overAt);
}

/** Waiting for the longest of its requests takes longer than bringing the model and all of them back, and none got nothing the last time. */
function isPreemptingCheaper(state: State, model: Model): boolean {
  let longest = 0;
  let again = switchInMicros(model.costs, model.spec.canSleep);
  for (const id of model.active) {
    const request = mustGet(state.requests, id);
    if (request.fruitless > 0) return false;
    longest = Math.max(longest, remainingMicros(model.costs, request.outputTokens, request.maxTokens));
    again += preemptionMicros(model, request);
  }
  return again < longest;
}

function preemptAll(state: State, model: Model, forModel: Model | null, rule: string): void {
  for (const id of model.active) {
    const request = mustGet(state.requests, id);
    if (request.phase !== 'running') continue;
    request.phase = 'preempting';
    const drainedMicros = state.now - (model.drainingSince ?? state.now);
    const because = { rule, for: forModel?.id ?? '', drainedMicros, againMicros: preemptionMicros(model, request) };
    act(state, { type: 'preemptRequest', modelId: model.id, requestId: id }, because);
  }
}
