/**
 * What the gateway, the admin API and the CLI see of a running node. `runtime/node.ts` implements it; tests of the gateway
 * give a small one of their own.
 */
import type { Because } from '../core/actions.ts';
import type { Bytes, Micros, ModelId, RequestId, TenantId } from '../core/ids.ts';
import type { EmbedRequest, EngineCapabilities, EngineEvent, GenerateRequest } from '../engines/engine.ts';
import type { KvEntryView, KvStats } from '../kv/cache.ts';

/** A request as the gateway hands it over. `model` may be a name or an alias. */
export interface Submission {
  readonly model: string;
  readonly tenantId: TenantId;
  /** Names the key in bills; null: none was needed. Never the key. */
  readonly keyId: string | null;
  readonly request: Omit<GenerateRequest, 'resumeTokens' | 'kv'> | EmbedRequest;
  readonly priority: 'interactive' | 'batch';
  /** Goals from headers or the model's `slo`; null: the model's. They order work, and refuse nothing. */
  readonly ttftGoalMicros: Micros | null;
  readonly interTokenGoalMicros: Micros | null;
  /** How long the model stays after this request (`keep_alive`); null: the model's own; -1: for ever; 0: unload at once. */
  readonly keepAliveMicros: Micros | null;
  /** What the client calls the conversation (`prompt_cache_key`, `x-conversation-id`, `x-session-id`); null: nothing. A hint only. */
  readonly conversation: string | null;
  /** Which of the tenant's own users it is for, as an opaque name; absent: it does not say. */
  readonly share?: string;
}

/** Where a request's time went. `x-berth-*` and the `berth` field of a response come from it. */
export interface RequestTimings {
  readonly queueMicros: Micros;
  readonly loadMicros: Micros;
  readonly ttftMicros: Micros;
  readonly totalMicros: Micros;
  /** Reading its saved KV, and where it was; null: there was none. */
  readonly restoreMicros: Micros;
  readonly kvTier: 'device' | 'host' | 'disk' | null;
}

/**
 * What becomes of a request. After zero or more `queued`/`loading`, the engine's events; the last one is `finished`, `embedded`
 * or `failed`, exactly once. `failed` carries a `retryAfterMicros` where known.
 */
export type StreamEvent =
  | { readonly type: 'queued'; readonly position: number }
  | { readonly type: 'loading'; readonly model: ModelId }
  | { readonly type: 'preempted' }
  | { readonly type: 'resumed' }
  | Extract<EngineEvent, { type: 'accepted' | 'tokens' | 'toolCall' }>
  | (Extract<EngineEvent, { type: 'finished' | 'embedded' }> & {
      readonly timings: RequestTimings;
      /** It was ended in mid-answer, with the reason `length`, because a token budget was spent. */
      readonly cutOff?: 'budget';
    })
  | (Extract<EngineEvent, { type: 'failed' }> & { readonly retryAfterMicros?: Micros });

export interface SubmissionHandle {
  readonly requestId: RequestId;
  readonly modelId: ModelId;
  /** The client left: the work is freed within one token; the sink hears nothing more. Idempotent. */
  cancel(): void;
}

/** The words of llama-server's router, plus the two ways on and off the device. */
export type ModelState = 'unloaded' | 'loading' | 'loaded' | 'sleeping' | 'parking' | 'failed';

export interface ModelView {
  readonly id: ModelId;
  readonly aliases: readonly string[];
  /** The model whose LoRA adapter it is. Left out: it is a model itself. */
  readonly parent?: ModelId;
  readonly engine: string;
  /** Where it is, or was the last time. Left out: nowhere yet, or the node has only one. */
  readonly device?: string;
  readonly capabilities: EngineCapabilities;
  readonly state: ModelState;
  /** Where its weights are: computing memory, only mapped (asleep), or only the file. */
  readonly tier: 'device' | 'host' | 'disk';
  readonly source: string;
  /** Unix seconds of the file. */
  readonly createdSeconds: number;
  readonly fileBytes: Bytes;
  /** Charged against the budget now. */
  readonly chargedBytes: Bytes;
  readonly contextTokens: number;
  readonly parallel: number;
  readonly pinned: boolean;
  /** Requests computing / waiting. */
  readonly running: number;
  readonly waiting: number;
  readonly lanes: number;
  /** Micros from now until the keep-alive runs out; null: for ever or not loaded. */
  readonly expiresInMicros: Micros | null;
  readonly digest: string | null;
  readonly details: {
    readonly format: string;
    readonly architecture: string | null;
    readonly parameters: number | null;
    readonly quantization: string | null;
    readonly trainedContextTokens: number | null;
    readonly chatTemplate: boolean;
  };
  readonly failure: { readonly code: string; readonly message: string } | null;
}

export interface DecisionView {
  readonly at: Micros;
  readonly action: string;
  readonly model: ModelId | null;
  readonly request: RequestId | null;
  readonly because: Because;
  /** Left out: the node has only one. */
  readonly device?: string;
}

interface DeviceStatus {
  readonly name: string;
  readonly memoryBytes: Bytes;
  readonly lanes: number;
  readonly reservedBytes: Bytes;
  readonly chargedBytes: Bytes;
  readonly freeBytes: Bytes;
}

export interface DeviceView extends DeviceStatus {
  readonly id: string;
  /** Requests computing / waiting there. */
  readonly running: number;
  readonly waiting: number;
}

export interface NodeStatus {
  readonly version: string;
  readonly uptimeMicros: Micros;
  /** Of several: all together. */
  readonly device: DeviceStatus;
  /** Left out: there is only one. */
  readonly devices?: readonly DeviceView[];
  readonly requests: {
    readonly running: number;
    readonly waiting: number;
    readonly finished: number;
    readonly failed: number;
  };
  /** Configuration errors of the last save, if it was refused. */
  readonly configError: string | null;
}

/** Where conversations' KV is. */
export interface KvView {
  readonly stats: KvStats;
  /** The most recently used first. */
  readonly entries: readonly KvEntryView[];
}

export interface NodeApi {
  /** Throws a `BerthError` at once for an unknown model, a full queue, a request that its engine can't serve. */
  submit(submission: Submission, sink: (event: StreamEvent) => void): SubmissionHandle;
  /** Models that this tenant may use, in the configuration's order. */
  models(tenantId: TenantId): readonly ModelView[];
  /** By name or alias; throws `model_not_found`. */
  model(name: string, tenantId: TenantId): ModelView;
  status(): NodeStatus;
  /** Ready to answer: started and not stopping. */
  ready(): boolean;
  /** Loads a model without a request; resolves when it is on the device. */
  load(name: string, tenantId: TenantId): Promise<void>;
  /** Unloads a model; running requests are finished first, or failed with `model_stopped` when `force`. */
  stop(name: string, tenantId: TenantId, options: { readonly force: boolean }): Promise<void>;
  /** The last decisions about a model or a request, oldest first; throws `not_found`. */
  why(name: string): readonly DecisionView[];
  /** null: the node keeps no KV. */
  kv(): KvView | null;
  /** Prometheus text. */
  metrics(): Promise<string>;
}
