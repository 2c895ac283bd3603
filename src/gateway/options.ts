import type { IncomingHttpHeaders } from 'node:http';
import type { TenantId } from '../core/ids.ts';
import type { StaticKey, Authenticator } from './auth.ts';
import type { BatchPrincipal } from './batches/line.ts';
import type { BatchDesk } from './batches/routes.ts';
import type { Gate } from './tenants/gate.ts';
import type { Access } from './tenants/types.ts';

/** Where log lines go; pino's shape. Lines hold ids, routes, codes and times, never a body or a query. */
export interface GatewayLog {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** One answered HTTP request, for metrics. `route` is the pattern, never the address that the client sent. */
export interface HttpSample {
  readonly route: string;
  readonly method: string;
  readonly status: number;
  readonly micros: number;
}

/** Every limit of the HTTP side, by name. Milliseconds and bytes. */
export interface HttpLimits {
  /** Largest request body. */
  readonly bodyBytes: number;
  /** A stream that is silent for so long gets a comment. */
  readonly keepAliveMillis: number;
  /** What a client that doesn't read may leave unsent before it is cut off. */
  readonly unsentBytes: number;
  /** From the first byte of a request to its last (a slow sender is cut off). */
  readonly requestMillis: number;
  /** From the first byte of a request to the end of its headers. */
  readonly headersMillis: number;
  /** An idle connection is kept for so long. */
  readonly idleConnectionMillis: number;
  readonly connections: number;
  /** Last resort: no request lives longer. The node's own deadlines are shorter. */
  readonly responseMillis: number;
  /** How long the rest of a refused upload is read and thrown away, so that its sender sees the answer. */
  readonly lingerMillis: number;
}

export const DEFAULT_LIMITS: HttpLimits = {
  bodyBytes: 16 * 1024 * 1024,
  keepAliveMillis: 10_000,
  unsentBytes: 4 * 1024 * 1024,
  requestMillis: 60_000,
  headersMillis: 15_000,
  idleConnectionMillis: 72_000,
  connections: 4_096,
  responseMillis: 3_600_000,
  lingerMillis: 5_000,
};

/** Who may speak to a listener from a browser. See `guard.ts`. */
export interface GuardOptions {
  /** Host names accepted besides loopback names and addresses; `*`: any. */
  readonly allowedHosts?: readonly string[];
  /** Origins accepted (and answered with CORS headers); exact, `*`, or with `*` for the port, as in OLLAMA_ORIGINS. */
  readonly allowedOrigins?: readonly string[];
}

export interface HttpOptions extends GuardOptions {
  readonly limits?: Partial<HttpLimits>;
  readonly log?: GatewayLog;
  readonly onResponse?: (sample: HttpSample) => void;
}

export interface GatewayOptions extends HttpOptions {
  /** Keys held in memory; none: every caller is the default tenant. */
  readonly apiKeys?: readonly (string | StaticKey)[];
  /** A key store; wins over `apiKeys`. */
  readonly auth?: Authenticator;
  /** Does `auth` refuse callers without a key? Else the API stays on loopback. Default: yes. */
  readonly keyed?: boolean;
  /** Files and batches; absent: their paths are not there. */
  readonly batches?: BatchDesk & { readonly principalOf: BatchPrincipal };
  /** Limits, private models and the ledger; absent: none. */
  readonly gate?: Gate;
}

/** Who a request is: set on each request that passed `auth`. */
export interface Principal {
  readonly tenantId: TenantId;
  /** Names the key in logs and bills; null without keys. Never the key. */
  readonly keyId: string | null;
  /** What it may use and spend; absent where there are neither tenants nor limits. */
  readonly access?: Access;
}

export type Headers = IncomingHttpHeaders;
