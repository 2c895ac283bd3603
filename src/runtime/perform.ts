/** Carries out what the core decided. Each action ends in exactly one completion, which goes back to the core as an event. */
import type { Action, RefusalCode } from '../core/actions.ts';
import type { CoreEvent } from '../core/events.ts';
import type { ModelId, RequestId } from '../core/ids.ts';
import { asBerthError } from '../errors.ts';
import type { BerthError, ErrorCode } from '../errors.ts';
import type { EngineEvent } from '../engines/engine.ts';
import type { Hosted } from './hosted.ts';
import { revisionOf } from './hosted.ts';
import type { DeviceTime, Payer } from './device-time.ts';
import type { KvDesk } from './kv-desk.ts';
import type { Log } from './log.ts';
import type { Metrics } from './metrics.ts';
import type { LiveRequest } from './requests.ts';
import { engineRequestOf } from './requests.ts';
import type { Clock } from './clock.ts';

export interface Stage {
  /** The device's name; null: it is the node's only one. */
  readonly label: string | null;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly kv: KvDesk;
  readonly deviceTime: DeviceTime;
  /** null: nothing is known of it any more. */
  readonly payerOf: (id: RequestId) => Payer | null;
  hosted(modelId: ModelId): Hosted | undefined;
  request(id: RequestId): LiveRequest | undefined;
  /** The requests that wait for this model or run on it. */
  requestsOf(modelId: ModelId): Iterable<LiveRequest>;
  /** Opens the model on its engine anew, since its launch has changed. */
  reopen(hosted: Hosted): void;
  /** Something has happened. */
  tell(event: CoreEvent): void;
  /** The request's engine said something. */
  heard(live: LiveRequest, event: EngineEvent): void;
  /** The request has had its one outcome without its engine. */
  drop(live: LiveRequest, failure: { code: ErrorCode; message: string; retryAfterMicros: number | null }): void;
}

export function perform(stage: Stage, action: Action): void {
  switch (action.type) {
    case 'ensureLoaded':
      return load(stage, action.modelId, action.id);
    case 'ensureAsleep':
      return park(stage, action.modelId, action.id);
    case 'ensureUnloaded':
      return unload(stage, action.modelId, action.id);
    case 'startRequest':
      return start(stage, action.modelId, action.requestId);
    case 'preemptRequest':
      return preempt(stage, action.modelId, action.requestId, action.id);
    case 'cancelRequest':
      // Who stops an answer often goes on with the conversation.
      return stage.hosted(action.modelId)?.model.cancel(action.requestId, true);
    case 'refuseRequest': {
      const live = stage.request(action.requestId);
      stage.metrics.refused(action.modelId, action.code);
      if (live !== undefined) stage.drop(live, action);
      return;
    }
    case 'grantSlice':
      stage.deviceTime.granted(stage.clock.now(), action.id, action.modelId, action.lanes);
      return stage.hosted(action.modelId)?.model.slice({
        sliceId: action.id,
        lanes: action.lanes,
        micros: action.micros,
        stepMicros: action.stepMicros,
      });
    case 'endSlice':
      return stage.hosted(action.modelId)?.model.endSlice(action.sliceId);
    default:
      return action satisfies never;
  }
}

/** The codes with which a load can fail, as the core knows them; anything else is the general one. */
const LOAD_FAILURES = new Set<ErrorCode>([
  'model_too_large',
  'model_file_missing',
  'model_file_invalid',
  'model_stopped',
  'engine_died',
  'engine_mismatch',
] satisfies RefusalCode[]);

const refusalCode = (error: BerthError): RefusalCode =>
  LOAD_FAILURES.has(error.code) ? (error.code as RefusalCode) : 'model_load_failed';

function load(stage: Stage, modelId: ModelId, actionId: number): void {
  const hosted = stage.hosted(modelId);
  if (hosted === undefined) return;
  if (hosted.revision !== revisionOf(hosted.spec)) stage.reopen(hosted);
  const now = stage.clock.now();
  stage.deviceTime.loading(now, modelId);
  for (const live of stage.requestsOf(modelId)) {
    live.loadingSince ??= now;
    live.sink({ type: 'loading', model: modelId });
  }
  hosted.model.ensureLoaded().then(
    ({ from, micros, memoryBytes }) => {
      stage.metrics.moved(modelId, 'device', micros);
      endLoading(stage, modelId);
      stage.tell({ type: 'modelLoaded', actionId, modelId, from, micros, bytes: memoryBytes });
    },
    (thrown: unknown) => {
      const error = asBerthError(thrown);
      endLoading(stage, modelId);
      stage.tell({ type: 'modelLoadFailed', actionId, modelId, code: refusalCode(error), message: error.message });
    },
  );
}

function endLoading(stage: Stage, modelId: ModelId): void {
  const now = stage.clock.now();
  const waiting = [...stage.requestsOf(modelId)];
  stage.deviceTime.loaded(
    now,
    modelId,
    waiting.map(({ submission }) => submission),
  );
  for (const live of waiting) {
    if (live.loadingSince !== null) live.loadMicros += now - live.loadingSince;
    live.loadingSince = null;
  }
}

function park(stage: Stage, modelId: ModelId, actionId: number): void {
  stage
    .hosted(modelId)
    ?.model.ensureAsleep()
    .then(
      ({ micros, memoryBytes }) => {
        stage.metrics.moved(modelId, 'host', micros);
        stage.kv.left(modelId);
        stage.tell({ type: 'modelFellAsleep', actionId, modelId, micros, bytes: memoryBytes });
      },
      // What can't be put to sleep is taken off altogether: its memory is wanted.
      () => unload(stage, modelId, actionId),
    );
}

/** A process that can't be reaped still holds its memory: the books must not say that it is free, so it is tried again. */
const UNLOAD_AGAIN_MICROS = 1_000_000;

function unload(stage: Stage, modelId: ModelId, actionId: number): void {
  stage
    .hosted(modelId)
    ?.model.ensureUnloaded()
    .then(
      ({ micros }) => {
        stage.metrics.moved(modelId, 'disk', micros);
        stage.kv.left(modelId);
        stage.tell({ type: 'modelUnloaded', actionId, modelId, micros });
      },
      (thrown: unknown) => {
        stage.log.error({ model: modelId, reason: asBerthError(thrown).message }, 'a model could not be unloaded');
        stage.clock.after(UNLOAD_AGAIN_MICROS, () => unload(stage, modelId, actionId));
      },
    );
}

function start(stage: Stage, modelId: ModelId, requestId: RequestId): void {
  const live = stage.request(requestId);
  const hosted = stage.hosted(modelId);
  if (live === undefined || hosted === undefined) return;
  live.startedAt ??= stage.clock.now();
  hosted.model.submit(engineRequestOf(live, stage.kv.planOf(live, hosted)), (event) => stage.heard(live, event));
}

function preempt(stage: Stage, modelId: ModelId, requestId: RequestId, actionId: number): void {
  const live = stage.request(requestId);
  const hosted = stage.hosted(modelId);
  if (live !== undefined && hosted !== undefined) stage.kv.preempting(live, hosted);
  hosted?.model.cancel(requestId, true);
  stage.metrics.preempted(modelId);
  if (live !== undefined) {
    live.preempted = true;
    live.sink({ type: 'preempted' });
  }
  stage.tell({ type: 'requestPreempted', actionId, requestId });
}
