/** The node's state as people see it: `berth ps`, the admin API, `/v1/models`. */
import type { Bytes, Micros, ModelId, RequestId } from '../core/ids.ts';
import { freeBytes, heldBy } from '../core/memory.ts';
import { positionOf } from '../core/queues.ts';
import type { Model, State } from '../core/state.ts';
import type { ModelState, ModelView, NodeStatus, StreamEvent } from './api.ts';
import type { AdapterSpec, Hosted } from './hosted.ts';

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

export function modelView(
  hosted: Hosted,
  model: Model | undefined,
  state: State,
  now: Micros,
  device: string | null,
): ModelView {
  const { spec } = hosted;
  const phase = model?.phase ?? 'cold';
  const failure = model?.failure ?? null;
  return {
    id: spec.id,
    aliases: spec.aliases,
    engine: spec.engine.name,
    ...(device !== null && { device }),
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

/** An adapter is where its base is; what the base holds and computes is counted there. */
export const adapterView = (base: ModelView, { id, aliases, adapter, ...own }: AdapterSpec): ModelView => ({
  ...base,
  ...own,
  id,
  aliases,
  parent: base.id,
  chargedBytes: 0,
  running: 0,
  waiting: 0,
  lanes: 0,
  digest: adapter.fingerprint === '' ? null : adapter.fingerprint,
});

/** A request that is not computed at once is told its place. */
export function queuedNote(
  state: State,
  { id, modelId }: { readonly id: RequestId; readonly modelId: ModelId },
  events: readonly StreamEvent[],
): StreamEvent[] {
  const request = state.requests.get(id);
  const model = state.models.get(modelId);
  if (request?.phase !== 'waiting' || model === undefined || events.length > 0) return [];
  if (model.phase === 'loading') return [{ type: 'loading', model: model.id }];
  return [{ type: 'queued', position: positionOf(model, request) + 1 }];
}

export function statusOf(
  state: State,
  deviceName: string,
  chargedBytes: Bytes,
): Pick<NodeStatus, 'device' | 'requests'> {
  let running = 0;
  for (const model of state.models.values()) running += model.active.size;
  const { memoryBytes, lanes, overheadBytes } = state.device;
  const { finished, failed, refused } = state.outcomes;
  const reservedBytes = state.heldBytes + overheadBytes;
  return {
    device: { name: deviceName, memoryBytes, lanes, reservedBytes, chargedBytes, freeBytes: freeBytes(state) },
    requests: { running, waiting: state.requests.size - running, finished, failed: failed + refused },
  };
}

/** All devices of a node as one. */
export function together(all: readonly ReturnType<typeof statusOf>[]): ReturnType<typeof statusOf> {
  const [first] = all;
  if (first !== undefined && all.length === 1) return first;
  const sum = (of: (one: ReturnType<typeof statusOf>) => number): number => all.reduce((so, one) => so + of(one), 0);
  return {
    device: {
      name: `${all.length} devices`,
      memoryBytes: sum(({ device }) => device.memoryBytes),
      lanes: sum(({ device }) => device.lanes),
      reservedBytes: sum(({ device }) => device.reservedBytes),
      chargedBytes: sum(({ device }) => device.chargedBytes),
      freeBytes: sum(({ device }) => device.freeBytes),
    },
    requests: {
      running: sum(({ requests }) => requests.running),
      waiting: sum(({ requests }) => requests.waiting),
      finished: sum(({ requests }) => requests.finished),
      failed: sum(({ requests }) => requests.failed),
    },
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
