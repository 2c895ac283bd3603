/** Changes of the configuration, and what follows a failure: rarer than a request, so apart from the cycle. */
import { refuse, refuseAllWaiting } from './admission.ts';
import type { RefusalCode } from './actions.ts';
import type { EventOf } from './events.ts';
import { tenantOf } from './fairness.ts';
import { MILLI, SECOND } from './ids.ts';
import { hold } from './memory.ts';
import { grantedLanes } from './slices.ts';
import { reindex, waitingOf } from './queues.ts';
import { createCosts } from './costs.ts';
import type { Model, State } from './state.ts';
import { createModel } from './state.ts';

/** The whole configuration at once: what is absent is unloaded and forgotten, what is changed is relaunched when it is idle. */
export function configure(state: State, event: EventOf<'configured'>): void {
  state.device = event.device;
  state.laneCeiling = Math.max(event.device.lanes, grantedLanes(state));
  state.limits = event.limits;
  const tightestGoal = Math.min(...event.models.map(({ ttftGoalMicros }) => ttftGoalMicros), 60 * SECOND);
  state.patientStepMicros = Math.max(LEAST_PATIENT_STEP_MICROS, Math.floor(tightestGoal * STEP_PART_OF_TTFT));
  state.residency = event.residency;
  if (state.waiting.size > 0) state.nextRefusalAt = state.now;
  state.residencyDirty = true;
  for (const tenant of state.tenants.values()) tenant.weight = 1;
  for (const { tenantId, weight } of event.tenants) tenantOf(state, tenantId).weight = weight;
  const named = new Set<string>();
  for (const spec of event.models) {
    named.add(spec.modelId);
    let model = state.models.get(spec.modelId);
    if (model === undefined) {
      model = createModel(spec);
      state.models.set(spec.modelId, model);
    }
    const changed = model.spec.revision !== spec.revision;
    model.spec = spec;
    model.removed = false;
    if (changed) Object.assign(model.costs, createCosts(spec));
    if (changed) model.failure = null;
    if (spec.pinned && model.phase !== 'resident') model.loadAsked = true;
    reindex(state, model);
  }
  for (const model of state.models.values()) if (!named.has(model.id)) remove(state, model);
}

function remove(state: State, model: Model): void {
  model.removed = true;
  model.loadAsked = false;
  const because = { rule: 'model-removed', waiting: model.waiting };
  refuseAllWaiting(state, model, {
    code: 'model_stopped',
    message: `${model.id} was removed`,
    retryAfterMicros: null,
    because,
  });
  if (model.phase === 'cold') state.models.delete(model.id);
  reindex(state, model);
}

/** What a newcomer may have to wait for one step of another model, as a part of its goal for the first token. */
const STEP_PART_OF_TTFT = 0.15;
const LEAST_PATIENT_STEP_MICROS = 100 * MILLI;

/** A second failure in a row waits twice as long as the first before the next try, up to a minute. */
const FIRST_BACK_OFF_MICROS = 250 * MILLI;
const LONGEST_BACK_OFF_MICROS = 60 * SECOND;
/**
 * After so many failures in a row those who wait are told; until then the model is tried again for them. A load is forgiven only where
 * one has succeeded before, as without memory for a moment: what never loaded will not load the next time either.
 */
const FORGIVEN: Partial<Record<RefusalCode, number>> = { engine_died: 3, model_load_failed: 1 };

/** The model holds nothing any more, and nothing is under way. One that is pinned comes back. */
export function becomeCold(state: State, model: Model): void {
  model.loadAsked ||= model.spec.pinned && !model.stopAsked && !model.removed && !state.stopping;
  model.transition = null;
  model.phase = 'cold';
  model.loadedRevision = null;
  model.stopAsked = false;
  model.drainingSince = null;
  model.slice = null;
  hold(state, model.id, 0);
  state.residencyDirty = true;
  reindex(state, model);
  if (model.removed) state.models.delete(model.id);
}

/** A load failed or the process died: the model is cold, its bytes are free, and the next try waits a little longer each time. */
export function afterFailure(state: State, model: Model, code: RefusalCode, message: string): void {
  const count = (model.failure?.count ?? 0) + 1;
  const backOffMicros = Math.min(LONGEST_BACK_OFF_MICROS, FIRST_BACK_OFF_MICROS * 2 ** Math.min(count - 1, 10));
  const forgiven = count <= (FORGIVEN[code] ?? 0) && (code === 'engine_died' || model.costs.measured);
  model.failure = { code, message, count, retryAt: state.now + backOffMicros, forgiven };
  model.loadAsked = false;
  becomeCold(state, model);
  if (forgiven) return;
  for (const request of waitingOf(state, model)) {
    refuse(state, request, {
      code,
      message,
      retryAfterMicros: backOffMicros,
      because: { rule: 'load-failed', failures: count, backOffMicros },
    });
  }
}
