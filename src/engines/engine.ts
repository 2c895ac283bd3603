/**
 * The contract between Berth and an engine (llama.cpp, vLLM, …). It speaks of capabilities, not brands. What it is not: a
 * scheduler. An engine computes only inside slices that it was granted (where it `preempts`), and holds only models that it
 * was told to hold. Verbs are idempotent: they *ensure* a state. `test/contract/engine-contract.ts` is its executable form.
 */
import type { ErrorCode } from '../errors.ts';
import type { Bytes, KvEntryId, Micros, ModelId, RequestId, TenantId } from '../core/ids.ts';

export interface EngineCapabilities {
  /** Where a computation can be taken off the device: after a token, only between requests, or never. */
  readonly preempts: 'token' | 'turn' | 'never';
  readonly sleeps: boolean;
  readonly exportsKv: boolean;
  readonly saltsPrefixCache: boolean;
  readonly adjustableLanes: boolean;
  readonly embeds: boolean;
  readonly logprobs: boolean;
}

/** How a model is run. Everything here changes the engine's memory or results: a change of it is a new launch. */
export interface ModelLaunch {
  readonly modelId: ModelId;
  /** The model's file (GGUF) or folder. */
  readonly path: string;
  /** Longest prompt + output of one request, in tokens. */
  readonly contextTokens: number;
  /** Tokens of KV cache shared by all sequences (unified). At least `contextTokens`. */
  readonly kvTokens: number;
  /** Most requests computed at once. */
  readonly parallel: number;
  /** Most tokens in one decode call: the prefill chunk. */
  readonly batchTokens: number;
  /** Limit enforced on the process, 0 = none. */
  readonly memoryLimitBytes: Bytes;
  /** Further arguments for the engine's own program, where it is one. */
  readonly args?: readonly string[];
  /** Requests may name adapters of at most this rank; left out: none. */
  readonly adapterRank?: number;
}

export interface Sampling {
  readonly temperature: number;
  readonly topP: number;
  readonly topK: number;
  readonly minP: number;
  readonly seed: number | null;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  readonly repeatPenalty: number;
  /** Token id → bias. */
  readonly logitBias: Readonly<Record<number, number>>;
}

export type ContentPart = { readonly type: 'text'; readonly text: string };
export interface ToolCall {
  readonly id: string;
  readonly name: string;
  /** The arguments as JSON text. */
  readonly arguments: string;
}
export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant' | 'tool';
  readonly content: string;
  readonly name?: string;
  readonly toolCalls?: readonly ToolCall[];
  readonly toolCallId?: string;
}
export interface ToolSpec {
  readonly name: string;
  readonly description?: string;
  /** JSON schema of the arguments. */
  readonly parameters?: Readonly<Record<string, unknown>>;
}
export type ToolChoice = 'auto' | 'none' | 'required' | { readonly name: string };

/** What the text must look like: free, any JSON object, or JSON by a schema. */
export type OutputFormat =
  | { readonly type: 'text' }
  | { readonly type: 'json_object' }
  | { readonly type: 'json_schema'; readonly schema: Readonly<Record<string, unknown>> };

export type PromptInput =
  | {
      readonly type: 'chat';
      readonly messages: readonly ChatMessage[];
      readonly tools: readonly ToolSpec[];
      readonly toolChoice: ToolChoice;
    }
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'tokens'; readonly tokens: readonly number[] };

/** LoRA weights that a model is computed with. */
export interface Adapter {
  readonly id: ModelId;
  /** Its folder. */
  readonly path: string;
  /** Changes with the folder's content. */
  readonly fingerprint: string;
}

interface RequestBase {
  readonly requestId: RequestId;
  readonly tenantId: TenantId;
  /** Left out: the model as it is. Only of models that were launched with an `adapterRank`. */
  readonly adapter?: Adapter;
}

export interface GenerateRequest extends RequestBase {
  readonly kind: 'generate';
  /** Left out: interactive. For engines that order what they have; Berth has ordered what it gave them. */
  readonly priority?: 'interactive' | 'batch';
  readonly input: PromptInput;
  /** null: until the context is full. */
  readonly maxTokens: number | null;
  readonly sampling: Sampling;
  readonly stop: readonly string[];
  readonly format: OutputFormat;
  /** null: none; n: the chosen token's and the n likeliest tokens' log-probabilities. */
  readonly logprobs: number | null;
  readonly ignoreEos: boolean;
  /** Return the prompt's text before the output (`echo` of /v1/completions). */
  readonly echo: boolean;
  /**
   * Token ids that were generated before (by a run that was preempted or died) and already sent to the client: prefilled after
   * the prompt, counted in `maxTokens`, not sent again.
   */
  readonly resumeTokens: readonly number[];
  /** Left out: no KV is kept after it, and none is looked for. */
  readonly kv?: KvPlan;
}

/** Whose KV a request may begin with, and under which name its own is kept. Engines with `exportsKv` only. */
export interface KvPlan {
  /** What the request leaves on the device when it ends is called so. */
  readonly entryId: KvEntryId;
  /**
   * A file that probably begins like the prompt. The engine believes nothing: it compares tokens, owner, checksum and size, and
   * computes the prompt where they do not fit. null: none is known.
   */
  readonly restore: KvFile | null;
}

/** A saved sequence as it lies in a file. */
export interface KvFile {
  /** Absolute. */
  readonly path: string;
  /** Both must be what the file's head says. */
  readonly tenantId: TenantId;
  readonly fingerprint: string;
}

/** Leave to save one idle sequence, when its place is needed or the model leaves the device. */
export interface KvGrant extends KvFile {
  readonly entryId: KvEntryId;
  /** The file may be as large, and no larger. */
  readonly bytes: Bytes;
  /** Written into the file's head as it is; for whoever finds the file again. */
  readonly label: Readonly<Record<string, unknown>>;
}

/** What becomes of the KV of ended requests. */
export type KvEvent =
  /** The request has ended or was cancelled with `keep`; so many tokens of it lie idle on the device. `bytes`: what a file of it takes. */
  | { readonly type: 'kept'; readonly entryId: KvEntryId; readonly tokens: number; readonly bytes: Bytes }
  /** It is in its file, and no longer on the device. */
  | { readonly type: 'saved'; readonly entryId: KvEntryId; readonly bytes: Bytes; readonly micros: Micros }
  /**
   * It is no longer on the device, and in no file. `continued`: another request went on from it; `needless`: too short to be kept or
   * not granted; `failed`: it could not be written.
   */
  | { readonly type: 'dropped'; readonly entryId: KvEntryId; readonly why: 'continued' | 'needless' | 'failed' };

export interface EmbedRequest extends RequestBase {
  readonly kind: 'embed';
  readonly inputs: readonly (string | readonly number[])[];
}

export type EngineRequest = GenerateRequest | EmbedRequest;

export interface TokenLogprob {
  readonly token: string;
  readonly tokenId: number;
  readonly logprob: number;
  readonly top: readonly { readonly token: string; readonly tokenId: number; readonly logprob: number }[];
}

export interface RequestUsage {
  readonly promptTokens: number;
  /** Of the prompt's tokens, those whose KV was at hand. */
  readonly cachedTokens: number;
  readonly outputTokens: number;
  /** Device time in steps that held this request's prompt / decode tokens, shared by tokens with the others of the step. */
  readonly prefillMicros: Micros;
  readonly decodeMicros: Micros;
}

/** What becomes of a request, in order: accepted, (tokens | toolCall)*, then exactly one of finished, embedded, failed. */
export type EngineEvent =
  /** `restored`: what became of the plan's file, if it was asked for; `restoreMicros`: how long the device was kept by that. */
  | {
      readonly type: 'accepted';
      readonly promptTokens: number;
      readonly cachedTokens: number;
      readonly restored?: 'yes' | 'not-needed' | 'refused';
      readonly restoreMicros?: Micros;
    }
  /** `text` is whole characters, stop strings cut; it may be empty while a character or a possible stop string is incomplete. */
  | {
      readonly type: 'tokens';
      readonly text: string;
      readonly tokenIds: readonly number[];
      readonly logprobs?: readonly TokenLogprob[];
    }
  | { readonly type: 'toolCall'; readonly index: number; readonly call: ToolCall }
  | { readonly type: 'finished'; readonly reason: 'stop' | 'length' | 'tool_calls'; readonly usage: RequestUsage }
  | { readonly type: 'embedded'; readonly vectors: readonly Float32Array[]; readonly usage: RequestUsage }
  | { readonly type: 'failed'; readonly code: ErrorCode; readonly message: string; readonly param?: string };

export type EngineSink = (event: EngineEvent) => void;

/** The right to compute: on how many lanes, for how long. It ends when the step that runs at `micros` has returned. */
export interface SliceGrant {
  readonly sliceId: number;
  readonly lanes: number;
  /** null: until `endSlice`, or until there is no work. */
  readonly micros: Micros | null;
  /** No step should take longer: a long prompt is cut into chunks that do not. Left out: the engine's own choice. */
  readonly stepMicros?: Micros;
}

export interface SliceReport {
  readonly sliceId: number;
  readonly lanes: number;
  /** Why it ended: its time was over, nothing was left to do, it was told to. */
  readonly ended: 'time' | 'idle' | 'told';
  readonly steps: number;
  readonly prefillTokens: number;
  /** Tokens decoded, by request. */
  readonly decodeTokens: Readonly<Record<RequestId, number>>;
  /** From the first step's start to the last step's end. */
  readonly wallMicros: Micros;
  /** Inside the engine's compute calls and sampling. */
  readonly computeMicros: Micros;
  /** `computeMicros` by request, shared by tokens within a step; the sum may be some micros off. */
  readonly requestMicros: Readonly<Record<RequestId, Micros>>;
  /** Requests that still have work. */
  readonly pending: number;
}

export interface LoadReport {
  readonly micros: Micros;
  /** How it got there: from disk, or from sleep. `already`: it was there. */
  readonly from: 'cold' | 'asleep' | 'already';
  readonly memoryBytes: Bytes;
}
export interface ReleaseReport {
  readonly micros: Micros;
  /** What the model still holds, measured. */
  readonly memoryBytes: Bytes;
}

export interface MemorySample {
  /** What counts against the device's budget: private memory plus, while resident, the weights it maps and what it may grow by. */
  readonly chargedBytes: Bytes;
  readonly privateBytes: Bytes;
  readonly mappedWeightBytes: Bytes;
  /** Bytes that its KV cache may still grow by, unasked. */
  readonly growthBytes: Bytes;
}

/** What an engine tells unasked. */
export interface EngineObserver {
  sliceEnded(report: SliceReport): void;
  /**
   * The process is gone: all its requests have been failed with `engine_died` before this call. A death within a verb under way
   * is told by that verb's promise instead.
   */
  died(reason: string): void;
  memory(sample: MemorySample): void;
  /** Engines with `exportsKv` only. What was on the device when the process died is gone without a word. */
  kv?(event: KvEvent): void;
}

/** One model on one engine. No method throws synchronously; failures of the promises are `BerthError`s. */
export interface EngineModel {
  ensureLoaded(): Promise<LoadReport>;
  ensureAsleep(): Promise<ReleaseReport>;
  /** Resolves when the process is reaped and its memory seen free. Requests still running are failed with `model_stopped`. */
  ensureUnloaded(): Promise<ReleaseReport>;
  slice(grant: SliceGrant): void;
  endSlice(sliceId: number): void;
  submit(request: EngineRequest, sink: EngineSink): void;
  /**
   * The request's work ends within one token; its sink hears nothing more. Unknown ids are ignored. `keep`: what was computed of it
   * stays idle on the device, as after its end.
   */
  cancel(requestId: RequestId, keep?: boolean): void;
  /** Engines with `exportsKv` only: idle KV may be saved so. Unknown entries are ignored. */
  grantKv?(grant: KvGrant): void;
  /** Engines with `exportsKv` only: idle KV is not wanted any more (its tenant is gone). Unknown entries are ignored. */
  dropKv?(entryId: KvEntryId): void;
}

export interface Engine {
  readonly name: string;
  readonly capabilities: EngineCapabilities;
  /** What it holds besides its models (a started spare process): kept out of what is lent. */
  readonly overheadBytes: Bytes;
  /** No I/O: the model is cold. */
  open(launch: ModelLaunch, observer: EngineObserver): EngineModel;
  /** null, or why this request can't be served (an unsupported schema, say), before it is queued. */
  check(request: EngineRequest): { readonly code: ErrorCode; readonly message: string; readonly param?: string } | null;
  /** First guess of a loaded model's bytes from its file, until one was measured. */
  estimate(launch: ModelLaunch): Promise<{ readonly loadedBytes: Bytes; readonly asleepBytes: Bytes }>;
  /** Ends every child; resolves when all are reaped. */
  close(): Promise<void>;
}
