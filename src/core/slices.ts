/**
 * Who computes, on how many lanes, for how long? Lanes granted never exceed the device's: two engines whose threads outnumber
 * the cores spin against each other and collapse (measured: 187 → 5.6 tokens/s). A load takes a lane too while it runs.
 *
 * With more busy models than lanes, each slice has one lane and the models take turns; otherwise the lanes are split by what they
 * buy (`speedup.ts`) and slices have no end: they are renewed, so that what they did is reported. A slice ends when its step has
 * returned, so its lanes are free only when that was reported.
 */
import type { Because } from './actions.ts';
import type { Micros } from './ids.ts';
import { MILLI, SECOND } from './ids.ts';
import { speedup, widthToTry } from './speedup.ts';
import type { Model, State } from './state.ts';
import { act, mustGet, wakeBy } from './state.ts';
import { inTurn } from './turns.ts';

/** The usual turn, and the shortest: shorter does not pay for the switch. */
const QUANTUM_MICROS = 100 * MILLI;
const SHORTEST_QUANTUM_MICROS = 20 * MILLI;
/** A slice without an end is renewed so often. */
const RENEW_MICROS = SECOND;
/** Another width is tried for so long. */
const TRY_MICROS = 100 * MILLI;
/** The longest and the shortest step that a policy asks for. */
const LONGEST_STEP_MICROS = 400 * MILLI;
const SHORTEST_STEP_MICROS = 20 * MILLI;
/** A lane must make a model faster by this much of a lane, or it is left idle: a lane that does not, does harm (its core spins). */
const LEAST_GAIN = 0.05;

/** Lanes that runners may spin on: a loading model needs one, but one is always left to compute. */
export function computeLanes(state: State): number {
  return Math.max(1, state.device.lanes - state.loading.size);
}

/** Lanes of slices that have not been seen to end. */
export function grantedLanes(state: State): number {
  let lanes = 0;
  for (const { slice } of state.sliced) lanes += slice?.lanes ?? 0;
  return lanes;
}

export function grantSlices(state: State): void {
  const busy: Model[] = [];
  for (const model of state.busy) {
    if (model.quietUntil > state.now) wakeBy(state, model.quietUntil);
    else busy.push(model);
  }
  if (busy.length === 0) return;
  const lanes = computeLanes(state);
  const areTurns = busy.length > lanes;
  const shares = areTurns ? new Map(busy.map((model) => [model, 1])) : split(busy, lanes);
  const free = lanes - grantedLanes(state);
  if (isShort(busy, shares, free)) takeBack(state, shares, areTurns || free < 0);
  if (areTurns) takeTurns(state, busy, lanes, free);
  else spreadOut(state, busy, shares, lanes, free);
}

// ---------------------------------------------------------------- more models than lanes: turns

function takeTurns(state: State, busy: readonly Model[], lanes: number, free: number): void {
  const waiting = busy.filter(({ slice }) => slice === null);
  if (free < 1 || waiting.length === 0) return;
  const micros = quantumMicros(state, busy, lanes);
  const because = { rule: 'turns-of-one-lane', busy: busy.length, lanes, quantumMicros: micros };
  for (const model of inTurn(state, waiting, SHORTEST_QUANTUM_MICROS).slice(0, free))
    grant(state, model, 1, micros, because);
}

/** No longer than the tightest inter-token goal of those who wait for their turn allows: all of them must come round in time. */
export function quantumMicros(state: State, contenders: readonly Model[], lanes: number): Micros {
  const rounds = Math.max(1, Math.ceil(contenders.length / lanes) - 1);
  const tightest = Math.min(...contenders.map((model) => tightestGoal(state, model)));
  return Math.max(SHORTEST_QUANTUM_MICROS, Math.min(QUANTUM_MICROS, Math.floor(tightest / rounds)));
}

function tightestGoal(state: State, model: Model): Micros {
  let tightest = Infinity;
  for (const id of model.active) tightest = Math.min(tightest, mustGet(state.requests, id).interTokenGoalMicros);
  return tightest;
}

// ---------------------------------------------------------------- lanes for all: split

/** One lane each, then each further lane to whom it buys most, as long as it buys anything. */
function split(busy: readonly Model[], lanes: number): Map<Model, number> {
  const shares = new Map(busy.map((model) => [model, 1]));
  for (let spare = lanes - busy.length; spare > 0; spare--) {
    let best: Model | null = null;
    let most = LEAST_GAIN;
    for (const model of busy) {
      const width = shares.get(model) ?? 1;
      const { paces } = model.costs;
      const gain = speedup(paces, width + 1, model.active.size) - speedup(paces, width, model.active.size);
      if (gain > most) [best, most] = [model, gain];
    }
    if (best === null) break;
    shares.set(best, (shares.get(best) ?? 1) + 1);
  }
  return shares;
}

function spreadOut(
  state: State,
  busy: readonly Model[],
  shares: ReadonlyMap<Model, number>,
  lanes: number,
  free: number,
): void {
  let left = free;
  for (const model of busy) {
    const { slice } = model;
    // One that has an end (a turn, a try) is left to it.
    if (slice !== null && (slice.ending || slice.micros !== null)) continue;
    const before = slice?.lanes ?? 0;
    const width = Math.min(shares.get(model) ?? 1, before + left);
    const renewAt = slice === null ? state.now : slice.grantedAt + RENEW_MICROS;
    if (width <= before && state.now < renewAt) wakeBy(state, renewAt);
    else if (width > 0) {
      const because = { rule: 'lanes-split', busy: busy.length, lanes, share: shares.get(model) ?? 1 };
      left -= renew(state, model, width, before + left, because) - before;
    }
  }
}

/** A new slice, in place of the open one if there is one: usually of `width`, now and then of another, to learn. */
function renew(state: State, model: Model, width: number, most: number, because: Because): number {
  const { paces } = model.costs;
  const other = model.slice === null ? null : widthToTry(paces, width, most, model.active.size, state.now);
  if (other === null) grant(state, model, width, null, because);
  else grant(state, model, other, TRY_MICROS, { rule: 'trying-a-width', usual: width, sequences: model.active.size });
  return other ?? width;
}

// ---------------------------------------------------------------- giving and taking

function isShort(busy: readonly Model[], shares: ReadonlyMap<Model, number>, free: number): boolean {
  let missing = 0;
  for (const model of busy) {
    if (model.slice?.ending === true) continue;
    missing += Math.max(0, (shares.get(model) ?? 1) - (model.slice?.lanes ?? 0));
  }
  return missing > free;
}

/** Slices that hold more lanes than their share, or (`endless`) that have no end, are told to end after their step. */
function takeBack(state: State, shares: ReadonlyMap<Model, number>, endless: boolean): void {
  for (const model of state.sliced) {
    const { slice } = model;
    const share = shares.get(model) ?? 0;
    if (slice === null || slice.ending || !(slice.lanes > share || (endless && slice.micros === null))) continue;
    slice.ending = true;
    const because = { rule: 'lanes-needed', lanes: slice.lanes, share };
    act(state, { type: 'endSlice', modelId: model.id, sliceId: slice.id }, because);
  }
}

function grant(state: State, model: Model, lanes: number, micros: Micros | null, because: Because): void {
  const stepMicros = longestStep(state);
  const id = act(state, { type: 'grantSlice', modelId: model.id, lanes, micros, stepMicros }, because);
  model.slice = { id, lanes, grantedAt: state.now, micros, ending: false };
  state.sliced.add(model);
  if (micros === null) wakeBy(state, state.now + RENEW_MICROS);
}

/**
 * A step holds up everybody in its batch, and whoever waits for its lanes: none may take longer than the tightest goal between two
 * tokens of a stream that flows. While only prompts are read it may be as long as a newcomer's first token can wait for: a
 * prompt is read a quarter faster in long steps (docs/decisions/0007).
 */
function longestStep(state: State): Micros {
  let tightest = Math.min(LONGEST_STEP_MICROS, state.patientStepMicros);
  for (const model of state.busy) {
    for (const id of model.active) {
      const { firstTokenAt, interTokenGoalMicros } = mustGet(state.requests, id);
      if (firstTokenAt !== null) tightest = Math.min(tightest, interTokenGoalMicros);
    }
  }
  return Math.max(SHORTEST_STEP_MICROS, tightest);
}
