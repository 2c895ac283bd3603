/** The three ways between the places where a model can be. Each is one action; until it has ended nothing else is asked of the model. */
import type { Because } from './actions.ts';
import { switchInMicros } from './costs.ts';
import type { Bytes } from './ids.ts';
import { heldBy, hold } from './memory.ts';
import { reindex } from './queues.ts';
import type { Model, State } from './state.ts';
import { act } from './state.ts';

/** Reserves the bytes, and loads or wakes the model. `free`: what the caller compared. */
export function load(state: State, model: Model, free: Bytes): void {
  const reservedBytes = Math.max(model.costs.loadedBytes, heldBy(state, model.id));
  const because: Because = {
    rule: model.waiting > 0 ? 'most-urgent' : 'asked',
    from: model.phase,
    waiting: model.waiting,
    slackMicros: model.dueAt === null ? 0 : model.dueAt - state.now,
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
  model.leftAt = state.now;
  model.transition = act(state, { type: 'ensureAsleep', modelId: model.id }, because);
  reindex(state, model);
}

export function unload(state: State, model: Model, because: Because): void {
  model.phase = 'unloading';
  model.leftAt = state.now;
  model.transition = act(state, { type: 'ensureUnloaded', modelId: model.id }, because);
  reindex(state, model);
}
