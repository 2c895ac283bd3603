/**
 * What happened: past tense, plain data. Everything that the core knows came in through one of these; time comes in beside them
 * (`handle({ now, events })`). No event holds a prompt or an output.
 */
import type { RefusalCode } from './actions.ts';
import type { ActionId, Bytes, Micros, ModelId, RequestId, TenantId } from './ids.ts';

/** The device that models share. A lane is a unit of compute: a core on CPU, the GPU or a partition of it. */
export interface DeviceSpec {
  readonly memoryBytes: Bytes;
  readonly lanes: number;
  /** Held by the node itself (a spare runner): named in the books, never lent. */
  readonly overheadBytes: Bytes;
}

export interface Limits {
  /** Most waiting requests of one model. */
  readonly queuePerModel: number;
  /** Most requests in the node, waiting and running. */
  readonly requests: number;
  /** Longest wait for a start; then `queue_timeout`. */
  readonly queueTimeoutMicros: Micros;
}

export interface ResidencySpec {
  /** A model that has work is left on the device at least so long. */
  readonly minimumStayMicros: Micros;
  /** A request waits so long before a model that is computing has to make room for its model. */
  readonly patienceMicros: Micros;
  /** A model that makes room may finish running requests for so long; then they are preempted. */
  readonly drainMicros: Micros;
  /** Idle so long, a model goes to sleep (or is unloaded, where its engine can't sleep). -1: never. */
  readonly keepAliveMicros: Micros;
  /** Asleep so long, a model is unloaded. -1: never. */
  readonly sleepForMicros: Micros;
}

export interface ModelSpec {
  readonly modelId: ModelId;
  /** Most requests that generate at once, and most that are embedded at once. */
  readonly parallel: number;
  readonly embedParallel: number;
  /** How long embeddings wait for company while none is computed. */
  readonly embedWindowMicros: Micros;
  readonly pinned: boolean;
  readonly canSleep: boolean;
  /** What is computed of a preempted request is saved, and read back when it goes on. */
  readonly keepsKv: boolean;
  /** First guesses of its bytes; what is measured replaces them. */
  readonly loadedBytes: Bytes;
  readonly asleepBytes: Bytes;
  /** First guess of a cold load; learned afterwards. */
  readonly loadMicros: Micros;
  readonly ttftGoalMicros: Micros;
  readonly interTokenGoalMicros: Micros;
  /** null: the node's. */
  readonly keepAliveMicros: Micros | null;
  /** Changes when the file or the launch changes: a resident model of another revision is replaced. */
  readonly revision: string;
  /** Computed on another machine: its requests take no lanes, so none is granted, and none is taken from it. */
  readonly isElsewhere?: boolean;
}

export interface TenantSpec {
  readonly tenantId: TenantId;
  /** Share of service relative to the others; 1 where not said. */
  readonly weight: number;
}

export type CoreEvent =
  /** The whole configuration, at the start and at each change: what is absent is gone. */
  | {
      readonly type: 'configured';
      readonly device: DeviceSpec;
      readonly limits: Limits;
      readonly residency: ResidencySpec;
      readonly models: readonly ModelSpec[];
      readonly tenants: readonly TenantSpec[];
    }
  | {
      readonly type: 'requestArrived';
      readonly requestId: RequestId;
      readonly tenantId: TenantId;
      readonly modelId: ModelId;
      readonly kind: 'generate' | 'embed';
      readonly priority: 'interactive' | 'batch';
      /** Estimated until the engine has counted. */
      readonly promptTokens: number;
      readonly maxTokens: number;
      readonly ttftGoalMicros: Micros | null;
      readonly interTokenGoalMicros: Micros | null;
      readonly keepAliveMicros: Micros | null;
      /** Which of the tenant's own users it is for; absent: it does not say. */
      readonly share?: string;
    }
  /** The client left. */
  | { readonly type: 'requestCancelled'; readonly requestId: RequestId }
  | { readonly type: 'firstTokenEmitted'; readonly requestId: RequestId }
  /** The engine is through with it. `failed`: it ended in an error. */
  | {
      readonly type: 'requestFinished';
      readonly requestId: RequestId;
      readonly failed: boolean;
      readonly promptTokens: number;
      readonly cachedTokens: number;
      readonly outputTokens: number;
      readonly prefillMicros: Micros;
      readonly decodeMicros: Micros;
      /** Reading saved KV back for it; absent: none was. */
      readonly restoreMicros?: Micros;
    }
  /** Its engine died under it; what it has generated is known, and it goes on when the model is back. */
  | { readonly type: 'requestLost'; readonly requestId: RequestId }
  /** The engine has let go of a request that was to be preempted. */
  | { readonly type: 'requestPreempted'; readonly actionId: ActionId; readonly requestId: RequestId }
  | {
      readonly type: 'modelLoaded';
      readonly actionId: ActionId;
      readonly modelId: ModelId;
      readonly from: 'cold' | 'asleep' | 'already';
      readonly micros: Micros;
      readonly bytes: Bytes;
    }
  | {
      readonly type: 'modelLoadFailed';
      readonly actionId: ActionId;
      readonly modelId: ModelId;
      readonly code: RefusalCode;
      readonly message: string;
    }
  | {
      readonly type: 'modelFellAsleep';
      readonly actionId: ActionId;
      readonly modelId: ModelId;
      readonly micros: Micros;
      readonly bytes: Bytes;
    }
  | { readonly type: 'modelUnloaded'; readonly actionId: ActionId; readonly modelId: ModelId; readonly micros: Micros }
  /** The model's process is gone unasked. Its running requests have been reported finished before. */
  | { readonly type: 'engineDied'; readonly modelId: ModelId }
  | { readonly type: 'memoryMeasured'; readonly modelId: ModelId; readonly bytes: Bytes }
  | {
      readonly type: 'sliceEnded';
      readonly modelId: ModelId;
      readonly sliceId: ActionId;
      readonly lanes: number;
      readonly steps: number;
      readonly prefillTokens: number;
      /** By request. */
      readonly decodeTokens: Readonly<Record<RequestId, number>>;
      readonly wallMicros: Micros;
      readonly computeMicros: Micros;
    }
  /** The KV of an ended or preempted request went from the device into a file. */
  | { readonly type: 'kvSaved'; readonly modelId: ModelId; readonly tokens: number; readonly micros: Micros }
  /** An operator wants it on the device. */
  | { readonly type: 'loadRequested'; readonly modelId: ModelId; readonly keepAliveMicros: Micros | null }
  /** An operator wants it off the device; `force`: at once. */
  | { readonly type: 'stopRequested'; readonly modelId: ModelId; readonly force: boolean }
  /** The node shuts down: nothing is admitted any more. */
  | { readonly type: 'nodeStopping' }
  /** Only time has passed. */
  | { readonly type: 'ticked' };

export type EventType = CoreEvent['type'];
export type EventOf<T extends EventType> = Extract<CoreEvent, { type: T }>;
