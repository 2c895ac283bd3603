/** The node's state as people see it: `berth ps`, the admin API, `/v1/models`. */
import type { Micros } from '../core/ids.ts';
import { heldBy } from '../core/memory.ts';
import type { Model, State } from '../core/state.ts';
import type { ModelState, ModelView } from './api.ts';
import type { Hosted } from './hosted.ts';

const STATES: Readonly<Record<Model['phase'], ModelState>> = {
  cold: 'unloaded',
  loading: 'loading',
  resident: 'loaded',
  parking: 'parking',
  asleep: 'sleeping',
  unloading: 'parking',
};

const TIERS: Readonly<Record<Model['phase'], ModelView['tier']>> = {
  cold: 'disk',
  loading: 'device',
  resident: 'device',
  parking: 'device',
  asleep: 'host',
  unloading: 'device',
};

export function modelView(hosted: Hosted, model: Model | undefined, state: State, now: Micros): ModelView {
  const { spec } = hosted;
  const phase = model?.phase ?? 'cold';
  const failure = model?.failure ?? null;
  return {
    id: spec.id,
    aliases: spec.aliases,
    engine: spec.engine.name,
    capabilities: spec.engine.capabilities,
    state: failure !== null && phase === 'cold' ? 'failed' : STATES[phase],
    tier: TIERS[phase],
    source: spec.source,
    createdSeconds: spec.createdSeconds,
    fileBytes: spec.fileBytes,
    chargedBytes: heldBy(state, spec.id),
    contextTokens: spec.launch.contextTokens,
    parallel: spec.launch.parallel,
    pinned: spec.pinned,
    running: model?.active.size ?? 0,
    waiting: model?.waiting ?? 0,
    lanes: model?.slice?.lanes ?? 0,
    expiresInMicros: model === undefined ? null : expiresIn(model, state, now),
    digest: spec.digest,
    details: spec.details,
    failure: failure === null ? null : { code: failure.code, message: failure.message },
  };
}

function expiresIn(model: Model, state: State, now: Micros): Micros | null {
  if ((model.phase !== 'resident' && model.phase !== 'asleep') || model.spec.pinned) return null;
  const keepAlive = model.keepAliveMicros ?? model.spec.keepAliveMicros ?? state.residency.keepAliveMicros;
  if (keepAlive < 0) return null;
  if (model.phase === 'asleep') {
    const { sleepForMicros } = state.residency;
    return sleepForMicros < 0 ? null : Math.max(0, model.lastUsedAt + keepAlive + sleepForMicros - now);
  }
  const from = model.active.size > 0 || model.waiting > 0 ? now : model.lastUsedAt;
  return Math.max(0, from + keepAlive - now);
}
