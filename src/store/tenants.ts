/** The rows of tenants. */
import type { SQLOutputValue } from 'node:sqlite';
import type { TenantId } from '../core/ids.ts';
import { tenantId } from '../core/ids.ts';
import type { Database } from './database.ts';

/** Limits are whoever enforces them to read: here they are a JSON object. */
export type StoredLimits = Readonly<Record<string, unknown>>;

export interface TenantRow {
  readonly id: TenantId;
  readonly name: string;
  readonly weight: number;
  readonly limits: StoredLimits;
  /** Patterns of the models that it may use; null: all that are not private to others. */
  readonly models: readonly string[] | null;
  readonly isolation: 'strict' | 'shared';
  readonly disabled: boolean;
  /** Unix milliseconds. */
  readonly createdAt: number;
  /** null: it exists. */
  readonly removedAt: number | null;
}

export interface TenantStore {
  /** Removed ones too. */
  all(): TenantRow[];
  /** New, or in place of the one with its id. On the disk when it returns. */
  put(row: TenantRow): void;
}

type Row = Record<string, SQLOutputValue>;

export const listOf = (value: SQLOutputValue | undefined): readonly string[] | null =>
  typeof value === 'string' ? (JSON.parse(value) as string[]) : null;
export const numberOrNull = (value: SQLOutputValue | undefined): number | null =>
  value === null || value === undefined ? null : Number(value);
export const limitsOf = (value: SQLOutputValue | undefined): StoredLimits => JSON.parse(String(value)) as StoredLimits;

const fromRow = (row: Row): TenantRow => ({
  id: tenantId(String(row['id'])),
  name: String(row['name']),
  weight: Number(row['weight']),
  limits: limitsOf(row['limits']),
  models: listOf(row['models']),
  isolation: row['isolation'] === 'shared' ? 'shared' : 'strict',
  disabled: row['disabled'] === 1,
  createdAt: Number(row['created_at']),
  removedAt: numberOrNull(row['removed_at']),
});

export function createTenantStore(database: Database, changed: () => void): TenantStore {
  const select = database.prepare('SELECT * FROM tenants ORDER BY id');
  const upsert = database.prepare('INSERT OR REPLACE INTO tenants VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)');
  return {
    all: () => select.all().map(fromRow),
    put: (row) =>
      database.transaction(
        () => {
          upsert.run(
            row.id,
            row.name,
            row.weight,
            JSON.stringify(row.limits),
            row.models === null ? null : JSON.stringify(row.models),
            row.isolation,
            row.disabled ? 1 : 0,
            row.createdAt,
            row.removedAt,
          );
          changed();
        },
        { durable: true },
      ),
  };
}
