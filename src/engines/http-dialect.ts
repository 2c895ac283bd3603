/** What differs between the servers that `http-engine.ts` runs: how one is started, and how requests are put to it. */
import type { Bytes, ModelId } from '../core/ids.ts';
import type { BerthError } from '../errors.ts';
import type { Engine, EngineCapabilities, EngineEvent, EngineRequest, ModelLaunch } from './engine.ts';
import type { HttpClient } from './http-client.ts';

export interface ServerPlace {
  /** On loopback; 0 where it listens on the socket. */
  readonly port: number;
  /** A folder of its own that nobody else can enter, for sockets. Removed when the process has ended. */
  readonly folder: string;
  /** Where it listens: a unix socket in that folder, else null. */
  readonly socketPath: string | null;
  /** Made for this start: whoever else is on the machine must not use the model. */
  readonly apiKey: string;
}

export interface ServerCommand {
  readonly command: string;
  readonly args: readonly string[];
  /** The whole environment. */
  readonly env: Readonly<Record<string, string>>;
}

/** One request under way. */
export interface Exchange {
  readonly client: HttpClient;
  readonly launch: ModelLaunch;
  /** Aborted when the request was cancelled or the model leaves. */
  readonly signal: AbortSignal;
  /** In the contract's order. The times in `usage` may be 0: the core of the adapters knows them better. */
  readonly emit: (event: EngineEvent) => void;
  /** Prompt tokens that were computed. */
  readonly prefilled: (tokens: number) => void;
  /** Tokens that were generated and are not (yet) told by `emit`. */
  readonly decoded: (tokens: number) => void;
}

export interface HttpDialect {
  readonly name: string;
  readonly capabilities: EngineCapabilities;
  /** `socket`: on a unix socket, which nobody else can reach; left out: on a port of loopback. */
  readonly listensOn?: 'socket';
  /** Its work is done by several processes, and all of their memory is charged. */
  readonly isManyProcesses?: boolean;
  /** Rejects with a `BerthError` where the program or the model's file can't be used. */
  command(launch: ModelLaunch, place: ServerPlace): Promise<ServerCommand>;
  /** Answers 200 once the model is loaded. Only then is a token asked for. */
  readonly readyPath: string;
  /** One token, or whatever proves that the model computes. Rejects where it doesn't. */
  canary(exchange: Exchange): Promise<void>;
  /** Resolves when the request has had its last event. Rejects with a `BerthError`, or with what `explain` knows. */
  run(request: EngineRequest, exchange: Exchange): Promise<void>;
  /** What it said means that it can compute nothing any more, though its process has not ended yet. */
  isDead?(thrown: unknown): boolean;
  /** Those with `sleeps`: leaves the device; no request is under way. Its word is not taken for it: the memory is measured. */
  fallAsleep?(client: HttpClient, signal: AbortSignal): Promise<void>;
  wakeUp?(client: HttpClient, signal: AbortSignal): Promise<void>;
  /** What went wrong with a request. */
  explain(thrown: unknown): BerthError;
  /** Why it did not start, by what it printed; null: it says nothing known. */
  explainStart(lines: readonly string[], modelId: ModelId): BerthError | null;
  check: Engine['check'];
  estimate(launch: ModelLaunch): Promise<{ readonly loadedBytes: Bytes; readonly asleepBytes: Bytes }>;
}
