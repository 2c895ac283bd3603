/** What `berth serve` hands to `startNode` (`cli/start.ts`), and what it gets back. */
import type { BerthConfig, ConfigFlags, EngineName, LogLevel } from '../config.ts';
import type { NodeApi } from './api.ts';

export interface StartOptions {
  readonly config: BerthConfig;
  /** The file to watch (`watchConfig`); null: there is none. */
  readonly configPath: string | null;
  /** Flags of the command line: they hold after a reload of the file too. */
  readonly flags: ConfigFlags;
  readonly host: string;
  /** 0: a free one. */
  readonly port: number;
  readonly adminHost: string;
  readonly adminPort: number;
  /** Listen beyond loopback without keys: the user insists (`--insecure-no-auth`). */
  readonly allowUnauthenticated: boolean;
  /** Overrides the engine of models that name none; null: llamacpp. */
  readonly engine: EngineName | null;
  /** Where the journal of events is written; null: nowhere. */
  readonly journalPath: string | null;
  readonly logLevel: LogLevel;
}

export interface RunningNode {
  /** Base address of the public API, such as `http://127.0.0.1:8420`. */
  readonly address: string;
  readonly adminAddress: string;
  readonly node: NodeApi;
  /** Does the public API ask for a key? Tenants and keys of the database count too. */
  readonly keyed: boolean;
  /** Stops listening, lets running requests end within a deadline, reaps every child. Idempotent. */
  stop(): Promise<void>;
}

export type StartNode = (options: StartOptions) => Promise<RunningNode>;
