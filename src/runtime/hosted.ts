/** A model as the node hosts it: what the configuration and its file say, and its handle on an engine. */
import type { ModelSpec } from '../core/events.ts';
import type { Bytes, Micros, ModelId } from '../core/ids.ts';
import { SECOND } from '../core/ids.ts';
import type { Adapter, Engine, EngineModel, ModelLaunch } from '../engines/engine.ts';
import type { ModelView } from './api.ts';

/** A name under which a model is computed with LoRA weights. To people it is a model. */
export interface AdapterSpec {
  readonly id: ModelId;
  readonly aliases: readonly string[];
  readonly adapter: Adapter;
  readonly source: string;
  readonly createdSeconds: number;
  readonly fileBytes: Bytes;
}

/** What `berth.yaml` and the model's file say together. */
export interface HostedSpec {
  readonly id: ModelId;
  readonly aliases: readonly string[];
  readonly engine: Engine;
  readonly launch: ModelLaunch;
  readonly pinned: boolean;
  /** null: the node's; -1: for ever. */
  readonly keepAliveMicros: Micros | null;
  readonly ttftGoalMicros: Micros;
  readonly interTokenGoalMicros: Micros;
  /** How long embeddings wait for company. */
  readonly embedWindowMicros: Micros;
  readonly source: string;
  readonly createdSeconds: number;
  readonly fileBytes: Bytes;
  readonly digest: string | null;
  readonly details: ModelView['details'];
  /** Changes with the file's content. */
  readonly fingerprint: string;
  /** It is computed on another machine: it takes no lanes of this one. */
  readonly isElsewhere?: boolean;
  readonly adapters?: readonly AdapterSpec[];
}

export interface Hosted {
  spec: HostedSpec;
  estimate: { readonly loadedBytes: Bytes; readonly asleepBytes: Bytes };
  model: EngineModel;
  /** The revision that `model` was opened with. */
  revision: string;
  chargedBytes: Bytes;
}

/** What a running process can't change: another value is another launch. */
export function revisionOf(spec: HostedSpec): string {
  const { path, contextTokens, kvTokens, parallel, batchTokens, args = [], adapterRank } = spec.launch;
  const sizes = [spec.engine.name, path, contextTokens, kvTokens, parallel, batchTokens, spec.fingerprint];
  const rank = adapterRank === undefined ? [] : [`adapters of ${adapterRank}`];
  return [...sizes, ...args, ...rank].join('|');
}

/** Requests to embed that an engine is given at once: it puts as many as fit into a step. */
const EMBED_PARALLEL = 64;

/** Reading from disk at about 500 MB/s, until the first load was measured. */
const guessLoadMicros = (fileBytes: Bytes): Micros => Math.max(100_000, Math.floor(fileBytes / 500));

export function toModelSpec(hosted: Hosted, keepsKv: boolean): ModelSpec {
  const { spec, estimate } = hosted;
  return {
    modelId: spec.id,
    parallel: spec.launch.parallel,
    embedParallel: EMBED_PARALLEL,
    embedWindowMicros: spec.embedWindowMicros,
    pinned: spec.pinned,
    canSleep: spec.engine.capabilities.sleeps,
    keepsKv: spec.engine.capabilities.exportsKv && keepsKv,
    loadedBytes: estimate.loadedBytes,
    asleepBytes: estimate.asleepBytes,
    loadMicros: Math.min(600 * SECOND, guessLoadMicros(spec.fileBytes)),
    ttftGoalMicros: spec.ttftGoalMicros,
    interTokenGoalMicros: spec.interTokenGoalMicros,
    keepAliveMicros: spec.keepAliveMicros,
    revision: revisionOf(spec),
    ...(spec.isElsewhere === true && { isElsewhere: true }),
  };
}
