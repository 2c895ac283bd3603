/**
 * Who leaves the device for whom? Idle models leave first, the cheapest to miss first. When they are not enough, and somebody has
 * waited for `patience`, computing models that have stayed for `minimumStay` finish what they run and start nothing new; in the
 * end they are preempted. Nothing leaves and nothing is interrupted unless all of it together makes room enough.
 */
import { remainingMicros } from './costs.ts';
import type { Bytes, Micros, ModelId } from './ids.ts';
import { MILLI } from './ids.ts';
import { preemptionMicros } from './kv.ts';
import { heldBy } from './memory.ts';
import { oldestArrival } from './queues.ts';
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

/** Since when somebody has waited for the model, seen from the outside: not before it was last on the device itself. */
function waitingSince(state: State, model: Model): Micros | null {
  const oldest = oldestArrival(state, model);
  return oldest === null ? null : Math.max(oldest, model.leftAt);
}

export function isOutOfPatience(state: State, model: Model): boolean {
  const since = waitingSince(state, model);
  return since !== null && state.now >= since + state.residency.patienceMicros;
}

export interface RoomWanted {
  /** null: the device holds more than its budget (it was lowered, or a model turned out larger). */
  readonly forModel: Model | null;
  readonly missing: Bytes;
  /** Models that make room; those asked to are added. */
  readonly draining: Set<ModelId>;
  /** Models that wait and are at least as urgent: not evicted for it. */
  readonly ahead: ReadonlySet<ModelId>;
}

/** Has models leave until `missing` bytes are on their way. Returns the bytes that were set free or will be; the rest is not there yet. */
export function makeRoom(state: State, wanted: RoomWanted): Bytes {
  const { forModel, missing, draining } = wanted;
  const idle: Departure[] = [];
  const working: Model[] = [];
  for (const id of state.present) {
    const model = mustGet(state.models, id);
    if (model === forModel || model.spec.pinned) continue;
    if (mayLeaveAtOnce(state, model, wanted)) idle.push(departureOf(state, model));
    else if (model.phase === 'resident') working.push(model);
  }
  const leaving = sum(idle) >= missing ? cheapest(idle, missing) : allTheWay(idle, missing, state);
  const found = sum(leaving);
  if (found >= missing || forModel === null)
    for (const departure of leaving) depart(state, departure, forModel, missing);
  if (found >= missing) return found;
  const isEnough = askToDrain(state, forModel, working, missing - found, draining);
  if (forModel === null) return found;
  // Those that could leave now must still be able to when the others are done.
  if (isEnough) for (const { model } of leaving) startDraining(state, model, draining);
  return 0;
}

function mayLeaveAtOnce(state: State, model: Model, { forModel, draining, ahead }: RoomWanted): boolean {
  if (model.phase === 'asleep' && (model.waiting > 0 || model.loadAsked)) {
    return forModel !== null && !ahead.has(model.id) && isOutOfPatience(state, forModel);
  }
  if (model.phase !== 'resident' && model.phase !== 'asleep') return false;
  const makesRoom = model.drainingSince !== null || draining.has(model.id);
  return model.active.size === 0 && (model.waiting === 0 || makesRoom);
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

/**
 * The longest resident first, as many as it takes; whether that will be enough. A model just loaded has started nothing yet in this
 * cycle: it stays for a moment at least, whatever the minimum, so that nothing is evicted before its first use.
 */
function askToDrain(
  state: State,
  forModel: Model | null,
  working: readonly Model[],
  missing: Bytes,
  draining: Set<ModelId>,
): boolean {
  const { patienceMicros, minimumStayMicros } = state.residency;
  if (forModel !== null && !isOutOfPatience(state, forModel)) {
    const since = waitingSince(state, forModel);
    if (since !== null) lookAgainAt(state, since + patienceMicros);
    return false;
  }
  const chosen: Model[] = [];
  let bytes = 0;
  for (const model of working.toSorted((a, b) => a.residentSince - b.residentSince)) {
    if (bytes >= missing) break;
    const mayLeaveAt = model.residentSince + Math.max(1, minimumStayMicros);
    if (state.now < mayLeaveAt) {
      lookAgainAt(state, mayLeaveAt);
      continue;
    }
    bytes += heldBy(state, model.id);
    chosen.push(model);
  }
  if (bytes < missing && forModel !== null) return false;
  for (const model of chosen) if (!draining.has(model.id)) drain(state, model, forModel, draining);
  return true;
}

function startDraining(state: State, model: Model, draining: Set<ModelId>): void {
  draining.add(model.id);
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

function drain(state: State, model: Model, forModel: Model | null, draining: Set<ModelId>): void {
  startDraining(state, model, draining);
  const overAt = (model.drainingSince ?? state.now) + drainMicros(state, model);
  if (state.now >= overAt) preemptAll(state, model, forModel, 'drain-over');
  else if (isPreemptingCheaper(state, model)) preemptAll(state, model, forModel, 'preempting-cheaper');
  else lookAgainAt(state, overAt);
}

/** Waiting for the longest of its requests takes longer than computing all of them again, and none got nothing the last time. */
function isPreemptingCheaper(state: State, model: Model): boolean {
  let longest = 0;
  let again = 0;
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
