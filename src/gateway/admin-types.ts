/** What the admin API answers, for the console, the CLI and the tests. Types only. */
import type { PullProgress } from '../models/progress.ts';
import type { DecisionView, KvView, ModelView, NodeStatus } from '../runtime/api.ts';
import type { LimitSpec } from '../limits/spec.ts';
import type { MeterView } from '../limits/meter.ts';
import type { UsageGroup, UsageSum } from '../store/usage.ts';
import type { ErrorBody } from './openai/errors.ts';
import type { Key, Tenant } from './tenants/types.ts';

export type {
  DecisionView,
  ErrorBody,
  KvView,
  ModelView,
  NodeStatus,
  PullProgress,
  Tenant,
  Key,
  LimitSpec,
  MeterView,
  UsageGroup,
  UsageSum,
};

/** GET /api/admin/status */
export type StatusResponse = NodeStatus;

/** GET /api/admin/kv; null: the node keeps no KV. */
export interface KvResponse {
  readonly kv: KvView | null;
}

/** GET /api/admin/models */
export interface ModelsResponse {
  readonly models: readonly ModelView[];
}

/** GET /api/admin/models/{id} */
export type ModelResponse = ModelView;

/** POST /api/admin/models/{id}/load and …/stop: the model as it is afterwards. */
export interface ModelActionResponse {
  readonly success: true;
  readonly model: ModelView;
}

/** Body of POST /api/admin/models/{id}/stop; an absent body is `{}`. */
export interface StopRequest {
  /** Fail running requests instead of finishing them. */
  readonly force?: boolean;
}

/** DELETE /api/admin/models/{id} */
export interface RemoveResponse {
  readonly success: true;
  readonly id: string;
}

/** GET /api/admin/why/{model or request}: oldest first. */
export interface WhyResponse {
  readonly decisions: readonly DecisionView[];
}

/** Body of POST /api/admin/pull */
export interface PullRequest {
  readonly source: string;
  /** The model's id; absent: from the source. */
  readonly name?: string;
}

/** One line of the answer of POST /api/admin/pull (application/x-ndjson). The last one is `done` or `error`. */
export type PullLine =
  | ({ readonly type: 'progress' } & PullProgress)
  | { readonly type: 'done'; readonly id: string }
  | ({ readonly type: 'error' } & ErrorBody);

/** GET /api/admin/tenants */
export interface TenantsResponse {
  readonly tenants: readonly (Tenant & { readonly keys: number })[];
  /** Is a key needed? Not while there is nothing but the default tenant. */
  readonly keyed: boolean;
}

/** GET and POST /api/admin/tenants/{id}; POST /api/admin/tenants. */
export interface TenantResponse {
  readonly tenant: Tenant;
  readonly keys: readonly Key[];
  /** Its counters now; null: it has no limits. */
  readonly meter: MeterView | null;
}

/** Body of POST /api/admin/tenants; without the id, of POST /api/admin/tenants/{id}: what is absent stays as it is. */
export interface NewTenantRequest {
  readonly id: string;
  readonly name?: string;
  readonly weight?: number;
  readonly limits?: Partial<LimitSpec> | null;
  readonly models?: readonly string[] | null;
  readonly isolation?: 'strict' | 'shared';
  readonly disabled?: boolean;
}

/** GET /api/admin/keys */
export interface KeysResponse {
  readonly keys: readonly Key[];
}

/** Body of POST /api/admin/keys */
export interface NewKeyRequest {
  /** Absent: the default one. */
  readonly tenant?: string;
  readonly name?: string;
  readonly models?: readonly string[] | null;
  readonly limits?: Partial<LimitSpec> | null;
  readonly expiresInSeconds?: number | null;
}

/** POST /api/admin/keys and …/keys/{id}/rotate: the only time that the secret is shown. */
export interface NewKeyResponse {
  readonly key: Key;
  readonly secret: string;
}

/** POST /api/admin/keys/{id}/revoke, DELETE /api/admin/keys/{id} */
export interface KeyResponse {
  readonly key: Key;
}

/** GET /api/admin/usage?by=tenant,model&since=…&until=…&tenant=…; with `format=csv` the same as text/csv. */
export interface UsageResponse {
  readonly by: readonly UsageGroup[];
  readonly usage: readonly UsageSum[];
}
