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
  if (busy.length === 0) return;
  const share = Math.max(1, Math.floor(lanes / busy.length));
  const areTurns = busy.length > lanes;
  const waiting = busy
    .filter(({ slice }) => slice === null)
    .toSorted((a, b) => a.lastSliceEndedAt - b.lastSliceEndedAt);
  let free = lanes - grantedLanes(state);
  let short = -free;
  for (const { slice } of busy) if (slice?.ending !== true) short += Math.max(0, share - (slice?.lanes ?? 0));
  if (short > 0) takeBack(state, share, areTurns || free < 0);

  const widths = new Map<Model, number>();
  for (const model of waiting) {
    const width = Math.min(share, free);
    if (width < 1) break;
    widths.set(model, width);
    free -= width;
  }
  if (free > 0 && widths.size === waiting.length) spread(busy, widths, free);
  const micros = areTurns && widths.size > 0 ? quantumMicros(state, busy, lanes) : null;
  for (const [model, width] of widths) {
    const rule = model.slice !== null ? 'lanes-spare' : areTurns ? 'turns-of-one-lane' : 'lanes-split';
    grant(state, model, width, micros, { rule, busy: busy.length, lanes, share, quantumMicros: micros ?? -1 });
  }
}

/** Slices that hold more lanes than their share, or (`endless`) that have no end, are told to end after their step. */
function takeBack(state: State, share: number, endless: boolean): void {
  for (const { id, slice } of state.sliced) {
    if (slice === null || slice.ending || !(slice.lanes > share || (endless && slice.micros === null))) continue;
    slice.ending = true;
    const because = { rule: 'lanes-needed', lanes: slice.lanes, share };
    act(state, { type: 'endSlice', modelId: id, sliceId: slice.id }, because);
  }
}

/** Lanes that nobody waits for go to those who compute, the narrowest first; a new slice replaces an open one. */
function spread(busy: readonly Model[], widths: Map<Model, number>, free: number): void {
  let spare = free;
  const widthOf = (model: Model): number => widths.get(model) ?? model.slice?.lanes ?? 0;
  const open = busy.filter(({ slice }) => slice?.ending !== true).toSorted((a, b) => widthOf(a) - widthOf(b));
  for (const [index, model] of open.entries()) {
    const more = Math.ceil(spare / (open.length - index));
    if (more > 0) widths.set(model, widthOf(model) + more);
    spare -= more;
  }
}

function grant(state: State, model: Model, lanes: number, micros: Micros | null, because: Because): void {
  const id = act(state, { type: 'grantSlice', modelId: model.id, lanes, micros }, because);
  model.slice = { id, lanes, grantedAt: state.now, micros, ending: false };
  state.sliced.add(model);
}
