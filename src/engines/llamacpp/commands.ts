/** What the runner's main thread and its llama.cpp thread tell each other (structured clones, within one process). */
import type { KvEntryId, RequestId, TenantId } from '../../core/ids.ts';
import type { ErrorCode } from '../../errors.ts';
import type { KvEvent, KvGrant, KvPlan, ModelLaunch, Sampling, SliceGrant, SliceReport } from '../engine.ts';
import type { WireEvent } from './protocol.ts';

/** A generate request with its prompt rendered and its grammar written. */
export interface GenerateJob {
  readonly kind: 'generate';
  readonly requestId: RequestId;
  readonly tenantId: TenantId;
  readonly kv: KvPlan | null;
  readonly prompt:
    | { readonly type: 'text'; readonly text: string; readonly addSpecial: boolean }
    | { readonly type: 'tokens'; readonly tokens: readonly number[] };
  readonly maxTokens: number | null;
  readonly sampling: Sampling;
  readonly stop: readonly string[];
  readonly grammar: string | null;
  readonly logprobs: number | null;
  readonly ignoreEos: boolean;
  readonly echo: boolean;
  /** Write control tokens out, so that a tool call marked by them can be seen. */
  readonly showSpecial: boolean;
  readonly resumeTokens: readonly number[];
}

export interface EmbedJob {
  readonly kind: 'embed';
  readonly requestId: RequestId;
  readonly inputs: readonly (string | readonly number[])[];
}

export type Job = GenerateJob | EmbedJob;

export type ToWorker =
  | { readonly type: 'load'; readonly launch: ModelLaunch }
  | { readonly type: 'sleep' }
  | { readonly type: 'submit'; readonly job: Job }
  | { readonly type: 'cancel'; readonly requestId: RequestId; readonly keep: boolean }
  | { readonly type: 'grantKv'; readonly grant: KvGrant }
  | { readonly type: 'dropKv'; readonly entryId: KvEntryId }
  | { readonly type: 'slice'; readonly grant: SliceGrant }
  | { readonly type: 'endSlice'; readonly sliceId: number };

/** `resumed`: the text of tokens that were sent before; the parser of tool calls needs to have seen it. */
export type JobEvent = WireEvent | { readonly type: 'resumed'; readonly text: string };
export type JobEvents = readonly (readonly [RequestId, JobEvent])[];

export interface TemplateFacts {
  readonly chatTemplate: string | null;
  readonly bosText: string;
  readonly eosText: string;
  readonly addsBos: boolean;
}

export type FromWorker =
  | { readonly type: 'started'; readonly engineVersion: string }
  | {
      readonly type: 'loaded';
      readonly from: 'cold' | 'asleep';
      readonly micros: number;
      readonly mappedWeightBytes: number;
      readonly growthBytes: number;
      readonly phases: Readonly<Record<string, number>>;
      readonly template: TemplateFacts;
    }
  | { readonly type: 'loadFailed'; readonly code: ErrorCode; readonly message: string }
  | { readonly type: 'grew'; readonly growthBytes: number }
  | { readonly type: 'asleep'; readonly micros: number }
  | { readonly type: 'sliceEnded'; readonly report: SliceReport }
  | { readonly type: 'kv'; readonly event: KvEvent }
  | { readonly type: 'events'; readonly items: JobEvents }
  | { readonly type: 'fatal'; readonly code: ErrorCode; readonly message: string };

export interface WorkerSetup {
  /** One counter that the main thread raises for each command: the worker waits on it. */
  readonly bell: SharedArrayBuffer;
}
