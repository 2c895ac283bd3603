/** Tenants and keys as rows of berth.db and lines of berth.yaml become them. */
import { DEFAULT_TENANT } from '../../core/ids.ts';
import { BerthError } from '../../errors.ts';
import { NO_LIMITS } from '../../limits/spec.ts';
import type { KeyRow } from '../../store/keys.ts';
import type { TenantRow } from '../../store/tenants.ts';
import { limitSpecOf } from './schema.ts';
import type { Key, Tenant } from './types.ts';

/** There is always one. */
export const DEFAULT: Tenant = {
  id: DEFAULT_TENANT,
  name: 'Default',
  weight: 1,
  limits: NO_LIMITS,
  models: null,
  isolation: 'strict',
  disabled: false,
  createdAt: 0,
  source: 'store',
};

export const tenantOf = (row: TenantRow): Tenant => {
  const { removedAt: _, ...rest } = row;
  return { ...rest, limits: limitSpecOf(row.limits, `the tenant ${row.id}`), source: 'store' };
};

export const keyOf = (row: KeyRow): Key => {
  const { hash: _, ...rest } = row;
  return { ...rest, limits: limitSpecOf(row.limits, `the key ${row.id}`), source: 'store' };
};

/** The keys of berth.yaml are known by their place: `key-1`, `key-2`, … */
export const fileKey = (secret: string, index: number): Key => {
  if (secret.trim() === '') throw new BerthError('config_invalid', `API key ${index + 1} is empty.`);
  return {
    id: `key-${index + 1}`,
    tenantId: DEFAULT_TENANT,
    name: 'http.apiKeys',
    prefix: '',
    limits: NO_LIMITS,
    models: null,
    expiresAt: null,
    createdAt: 0,
    lastUsedAt: null,
    revokedAt: null,
    source: 'file',
  };
};
