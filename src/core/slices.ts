/**
 * Who computes, on how many lanes, for how long? Lanes granted never exceed the device's: two engines whose threads outnumber
 * the cores spin against each other and collapse (measured: 187 → 5.6 tokens/s). A load takes a lane too while it runs.
 *
 * With at least as many busy models as lanes, each slice has one lane and the models rotate; with fewer, the lanes are split and
 * slices are open-ended. A slice ends when its step has returned, so its lanes are free only when that was reported.
 */
import type { Because } from './actions.ts';
import type { Micros } from './ids.ts';
import { MILLI } from './ids.ts';
import type { Model, State } from './state.ts';
import { act, mustGet, wakeBy } from './state.ts';

/** The usual turn, and its bounds: shorter does not pay for the switch, longer is felt as a stall. */
const QUANTUM_MICROS = 100 * MILLI;
const SHORTEST_QUANTUM_MICROS = 20 * MILLI;

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

/** No longer than the tightest inter-token goal of those who wait for their turn allows: all of them must come round in time. */
export function quantumMicros(state: State, contenders: readonly Model[], lanes: number): Micros {
  let tightest = QUANTUM_MICROS;
  const rounds = Math.max(1, Math.ceil(contenders.length / lanes) - 1);
  for (const model of contenders) {
    for (const id of model.active)
      tightest = Math.min(tightest, Math.floor(mustGet(state.requests, id).interTokenGoalMicros / rounds));
  }
  return Math.max(SHORTEST_QUANTUM_MICROS, tightest);
}

export function grantSlices(state: State): void {
  const lanes = computeLanes(state);
  const busy: Model[] = [];
  for (const model of state.busy) {
    if (model.quietUntil > state.now) wakeBy(state, model.quietUntil);
    else busy.push(model);
  }
  const taking = busy.length >= lanes && busy.length > 1;
  const share = taking ? 1 : Math.max(1, Math.floor(lanes / Math.max(1, busy.length)));
  const waiting = busy
    .filter((model) => model.slice === null)
    .toSorted((a, b) => a.lastSliceEndedAt - b.lastSliceEndedAt);
  let free = lanes - grantedLanes(state);
  if (waiting.length > 0 || free < 0) takeBack(state, share, busy.length > lanes, free < 0);
  const micros = waiting.length > 0 && busy.length > lanes ? quantumMicros(state, busy, lanes) : null;
  for (const model of waiting) {
    const granted = Math.min(share, free);
    if (granted < 1) break;
    const rule = taking ? 'turns-of-one-lane' : 'lanes-split';
    grant(state, model, granted, micros, { rule, busy: busy.length, lanes, share, quantumMicros: micros ?? -1 });
    free -= granted;
  }
  if (free > 0 && waiting.length === 0) widen(state, busy, free);
}

/** Slices that hold more lanes than their share, or that have no end while others wait, are told to end after their step. */
function takeBack(state: State, share: number, needsTurns: boolean, overcommitted: boolean): void {
  for (const { id, slice } of state.sliced) {
    if (slice === null || slice.ending) continue;
    if (slice.lanes <= share && !(needsTurns && slice.micros === null) && !(overcommitted && slice.micros === null))
      continue;
    slice.ending = true;
    act(
      state,
      { type: 'endSlice', modelId: id, sliceId: slice.id },
      { rule: 'lanes-needed', lanes: slice.lanes, share },
    );
  }
}

/** Lanes that nobody waits for go to the models that compute: a new slice replaces the open one. */
function widen(state: State, busy: readonly Model[], free: number): void {
  let spare = free;
  for (const [index, model] of busy.entries()) {
    const { slice } = model;
    const more = Math.ceil(spare / (busy.length - index));
    if (slice === null || slice.ending || more === 0) continue;
    grant(state, model, slice.lanes + more, null, { rule: 'lanes-spare', spare, busy: busy.length });
    spare -= more;
  }
}

function grant(state: State, model: Model, lanes: number, micros: Micros | null, because: Because): void {
  const id = act(state, { type: 'grantSlice', modelId: model.id, lanes, micros }, because);
  model.slice = { id, lanes, grantedAt: state.now, micros, ending: false };
  state.sliced.add(model);
}
