/** The rows of keys. A secret is never here, only its SHA-256. */
import type { SQLOutputValue } from 'node:sqlite';
import type { TenantId } from '../core/ids.ts';
import { tenantId } from '../core/ids.ts';
import type { Database } from './database.ts';
import type { StoredLimits } from './tenants.ts';
import { limitsOf, listOf, numberOrNull } from './tenants.ts';

export interface KeyRow {
  readonly id: string;
  readonly tenantId: TenantId;
  readonly name: string;
  /** SHA-256 of the secret: 32 bytes. */
  readonly hash: Uint8Array;
  /** The secret's first characters, for lists. */
  readonly prefix: string;
  readonly limits: StoredLimits;
  /** Patterns of models; null: all of its tenant's. */
  readonly models: readonly string[] | null;
  /** Unix milliseconds; null: never. */
  readonly expiresAt: number | null;
  readonly createdAt: number;
  readonly lastUsedAt: number | null;
  /** null: it is not revoked. */
  readonly revokedAt: number | null;
}

export interface KeyStore {
  all(): KeyRow[];
  /** On the disk when it returns. @throws of SQLite, when the id or the hash is taken. */
  add(row: KeyRow): void;
  /** On the disk when it returns. */
  revoke(id: string, at: number): void;
  /** `add` and `revoke` as one step. */
  rotate(fresh: KeyRow, oldId: string, at: number): void;
  /** Revokes all of a tenant. */
  revokeAllOf(tenant: TenantId, at: number): void;
  /** When keys were last used. Not worth waiting for the disk. */
  touch(used: Iterable<readonly [id: string, at: number]>): void;
}

const fromRow = (row: Record<string, SQLOutputValue>): KeyRow => ({
  id: String(row['id']),
  tenantId: tenantId(String(row['tenant'])),
  name: String(row['name']),
  hash: row['hash'] as Uint8Array,
  prefix: String(row['prefix']),
  limits: limitsOf(row['limits']),
  models: listOf(row['models']),
  expiresAt: numberOrNull(row['expires_at']),
  createdAt: Number(row['created_at']),
  lastUsedAt: numberOrNull(row['last_used_at']),
  revokedAt: numberOrNull(row['revoked_at']),
});

export function createKeyStore(database: Database, changed: () => void): KeyStore {
  const select = database.prepare('SELECT * FROM keys ORDER BY created_at, id');
  const insert = database.prepare('INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)');
  const revoke = database.prepare('UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL');
  const revokeAll = database.prepare('UPDATE keys SET revoked_at = ? WHERE tenant = ? AND revoked_at IS NULL');
  const touch = database.prepare('UPDATE keys SET last_used_at = ? WHERE id = ?');
  const add = (row: KeyRow): void => {
    insert.run(
      row.id,
      row.tenantId,
      row.name,
      row.hash,
      row.prefix,
      JSON.stringify(row.limits),
      row.models === null ? null : JSON.stringify(row.models),
      row.expiresAt,
      row.createdAt,
      row.lastUsedAt,
      row.revokedAt,
    );
  };
  const change = (run: () => void): void =>
    database.transaction(
      () => {
        run();
        changed();
      },
      { durable: true },
    );
  return {
    all: () => select.all().map(fromRow),
    add: (row) => change(() => add(row)),
    revoke: (id, at) => change(() => void revoke.run(at, id)),
    rotate: (fresh, oldId, at) =>
      change(() => {
        add(fresh);
        revoke.run(at, oldId);
      }),
    revokeAllOf: (tenant, at) => change(() => void revokeAll.run(at, tenant)),
    touch: (used) =>
      database.transaction(() => {
        for (const [id, at] of used) touch.run(at, id);
      }),
  };
}
