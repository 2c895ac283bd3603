/**
 * What the core tells the shell to do: imperative, plain data. Each action has an id, which its completion carries back, and
 * `because`: the rule that decided and the numbers that it compared. The journal, `berth why` and the tests read that field.
 */
import type { ActionId, Bytes, Micros, ModelId, RequestId } from './ids.ts';

export interface Because {
  readonly rule: string;
  readonly [compared: string]: string | number | boolean;
}

/** Why the core refuses a request: a subset of the codes in `errors.ts` (held equal by the types of `runtime/perform.ts`). */
export type RefusalCode =
  | 'queue_full'
  | 'queue_timeout'
  | 'model_too_large'
  | 'model_load_failed'
  | 'model_file_missing'
  | 'model_file_invalid'
  | 'model_stopped'
  | 'engine_died'
  | 'engine_mismatch'
  | 'node_stopping';

interface ActionBase {
  readonly id: ActionId;
  readonly because: Because;
}

/** Bring the model onto the device (from disk or from sleep). `reservedBytes` are set aside for it. */
export interface EnsureLoaded extends ActionBase {
  readonly type: 'ensureLoaded';
  readonly modelId: ModelId;
  readonly reservedBytes: Bytes;
}
export interface EnsureAsleep extends ActionBase {
  readonly type: 'ensureAsleep';
  readonly modelId: ModelId;
}
export interface EnsureUnloaded extends ActionBase {
  readonly type: 'ensureUnloaded';
  readonly modelId: ModelId;
}
/** Hand the request to its model's engine, which computes it within the slices to come. */
export interface StartRequest extends ActionBase {
  readonly type: 'startRequest';
  readonly modelId: ModelId;
  readonly requestId: RequestId;
}
/** Take the request off the engine; it goes back to its queue and will be started again with what it had generated. */
export interface PreemptRequest extends ActionBase {
  readonly type: 'preemptRequest';
  readonly modelId: ModelId;
  readonly requestId: RequestId;
}
/** The request's client left or its time is over: free its work on the engine. */
export interface CancelRequest extends ActionBase {
  readonly type: 'cancelRequest';
  readonly modelId: ModelId;
  readonly requestId: RequestId;
}
/** Tell the request's caller that it won't be served. Its one outcome. */
export interface RefuseRequest extends ActionBase {
  readonly type: 'refuseRequest';
  readonly requestId: RequestId;
  readonly modelId: ModelId;
  readonly code: RefusalCode;
  readonly message: string;
  readonly retryAfterMicros: Micros | null;
}
/** The action's id is the slice's id. `micros` null: until `endSlice` or until there is no work. */
export interface GrantSlice extends ActionBase {
  readonly type: 'grantSlice';
  readonly modelId: ModelId;
  readonly lanes: number;
  readonly micros: Micros | null;
  /** No step should take longer: a long prompt is cut into chunks that do not. */
  readonly stepMicros: Micros;
}
export interface EndSlice extends ActionBase {
  readonly type: 'endSlice';
  readonly modelId: ModelId;
  readonly sliceId: ActionId;
}

export type Action =
  | EnsureLoaded
  | EnsureAsleep
  | EnsureUnloaded
  | StartRequest
  | PreemptRequest
  | CancelRequest
  | RefuseRequest
  | GrantSlice
  | EndSlice;
