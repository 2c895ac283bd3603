/** Tenants, their keys, and what a caller may use: what the gateway knows of them while it runs. */
import type { Micros, ModelId, TenantId } from '../../core/ids.ts';
import type { LimitSpec } from '../../limits/spec.ts';

export interface Tenant {
  readonly id: TenantId;
  readonly name: string;
  /** Its share of the device against the others'. */
  readonly weight: number;
  readonly limits: LimitSpec;
  /** Patterns of the models that it may use; null: all that are not private to others. */
  readonly models: readonly string[] | null;
  /** May work that is the same for several tenants be shared between those that allow it? */
  readonly isolation: 'strict' | 'shared';
  readonly disabled: boolean;
  /** Unix milliseconds. */
  readonly createdAt: number;
  /** `file`: berth.yaml declares it, and it is changed there only. */
  readonly source: 'store' | 'file';
}

export interface Key {
  readonly id: string;
  readonly tenantId: TenantId;
  readonly name: string;
  /** The first characters of its secret. */
  readonly prefix: string;
  readonly limits: LimitSpec;
  /** null: all of its tenant's. */
  readonly models: readonly string[] | null;
  /** Unix milliseconds, all of them; null: never. */
  readonly expiresAt: number | null;
  readonly createdAt: number;
  readonly lastUsedAt: number | null;
  readonly revokedAt: number | null;
  readonly source: 'store' | 'file';
}

/** What berth.yaml says of a tenant. */
export type DeclaredTenant = Omit<Tenant, 'createdAt' | 'source'>;

/** What berth.yaml says of a model that concerns tenants. */
export interface ModelPolicy {
  readonly id: ModelId;
  /** Nobody else sees it; null: everybody may. */
  readonly tenants: readonly TenantId[] | null;
  /** Of each tenant's use of it. */
  readonly limits: LimitSpec;
  /** Per million tokens; null: it costs nothing. */
  readonly price: { readonly input: number; readonly cached: number; readonly output: number } | null;
  /** Who answers when it can't; null, absent: nobody. */
  readonly overflow?: Overflow | null;
}

export interface Overflow {
  /** The id of another model. */
  readonly to: string;
  /** So long after it came it answers a request that nobody has begun, too; null: only one that is refused. */
  readonly after: Micros | null;
}

/** All that berth.yaml says of tenants. */
export interface Declared {
  readonly tenants: readonly DeclaredTenant[];
  readonly models: readonly ModelPolicy[];
  /** Keys of the default tenant. */
  readonly apiKeys: readonly string[];
}

export const NOTHING_DECLARED: Declared = { tenants: [], models: [], apiKeys: [] };

/** As the caller asks for it. */
export interface NamedModel {
  readonly id: ModelId;
  readonly aliases: readonly string[];
}

/** What a caller is and may. */
export interface Access {
  readonly tenant: Tenant;
  /** null: a caller without a key, where none is needed. */
  readonly key: Key | null;
  allows(model: NamedModel): boolean;
}
