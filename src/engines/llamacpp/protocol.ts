/**
 * What the node (adapter) and a runner process tell each other, over Node's IPC channel as JSON. A runner hosts one model. It
 * is started without one (a spare), so that a cold model pays its load only.
 */
import type { Bytes, KvEntryId, Micros, RequestId } from '../../core/ids.ts';
import type { ErrorCode } from '../../errors.ts';
import type { EngineEvent, EngineRequest, KvEvent, KvGrant, ModelLaunch, SliceGrant, SliceReport } from '../engine.ts';

export type ToRunner =
  /** From started: loads. From asleep: wakes. Answered by `loaded` or `loadFailed`. */
  | { readonly type: 'load'; readonly launch: ModelLaunch }
  /** Saves idle KV, frees contexts and compute buffers, keeps the model. Answered by `asleep`. Only without requests. */
  | { readonly type: 'sleep' }
  | { readonly type: 'submit'; readonly request: EngineRequest }
  /** `keep`: what was computed of it stays idle. */
  | { readonly type: 'cancel'; readonly requestId: RequestId; readonly keep: boolean }
  /** Idle KV, now or when its request has ended, may be saved so. */
  | { readonly type: 'grantKv'; readonly grant: KvGrant }
  | { readonly type: 'dropKv'; readonly entryId: KvEntryId }
  | { readonly type: 'slice'; readonly grant: SliceGrant }
  | { readonly type: 'endSlice'; readonly sliceId: number }
  /** Frees everything and exits with 0. */
  | { readonly type: 'exit' };

/** As `EngineEvent`, but vectors travel as base64 of little-endian float32. */
export type WireEvent =
  | Exclude<EngineEvent, { type: 'embedded' }>
  | (Omit<Extract<EngineEvent, { type: 'embedded' }>, 'vectors'> & { readonly vectorsBase64: readonly string[] });

export type FromRunner =
  /** The libraries are loaded and checked; a model can be loaded. */
  | { readonly type: 'started'; readonly engineVersion: string; readonly micros: Micros }
  | {
      readonly type: 'loaded';
      readonly from: 'cold' | 'asleep';
      readonly micros: Micros;
      /** Bytes of the weights mapped from the file (clean pages), as opposed to copied or repacked ones. */
      readonly mappedWeightBytes: Bytes;
      /** Bytes that its KV cache, which starts small, may still grow by. */
      readonly growthBytes: Bytes;
      readonly phases: Readonly<Record<string, Micros>>;
    }
  | { readonly type: 'loadFailed'; readonly code: ErrorCode; readonly message: string }
  /** The KV cache has grown: by so much it may grow now. */
  | { readonly type: 'grew'; readonly growthBytes: Bytes }
  | { readonly type: 'asleep'; readonly micros: Micros }
  | { readonly type: 'sliceEnded'; readonly report: SliceReport }
  | { readonly type: 'kv'; readonly event: KvEvent }
  /** All events of one step, together. */
  | { readonly type: 'events'; readonly items: readonly (readonly [RequestId, WireEvent])[] }
  /** The runner can't go on; it exits right after. */
  | { readonly type: 'fatal'; readonly code: ErrorCode; readonly message: string };
