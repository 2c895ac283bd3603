/** The rows of uploaded files and of batches. Their contents are files; what they say of a prompt is in no row. */
import type { SQLOutputValue } from 'node:sqlite';
import type { TenantId } from '../core/ids.ts';
import { tenantId } from '../core/ids.ts';
import type { Database } from './database.ts';

export interface FileRow {
  readonly id: string;
  readonly tenantId: TenantId;
  readonly purpose: string;
  readonly filename: string;
  readonly bytes: number;
  /** Unix milliseconds. */
  readonly createdAt: number;
}

export interface BatchRow {
  readonly id: string;
  readonly tenantId: TenantId;
  /** Whoever made it; null: no key. */
  readonly keyId: string | null;
  readonly state: string;
  readonly createdAt: number;
  /** The rest is its owner's to read: a JSON object. */
  readonly body: Readonly<Record<string, unknown>>;
}

export interface Page {
  readonly limit: number;
  /** Goes on after this id. */
  readonly after: string | null;
  readonly newestFirst: boolean;
}

export interface FileStore {
  add(row: FileRow): void;
  get(id: string, tenant: TenantId): FileRow | null;
  list(tenant: TenantId, purpose: string | null, page: Page): FileRow[];
  /** @returns false: there was none. */
  remove(id: string, tenant: TenantId): boolean;
  /** Bytes of all files of a tenant. */
  bytesOf(tenant: TenantId): number;
  ids(): Set<string>;
}

export interface BatchStore {
  /** New, or in place of the one with its id; `files` become rows in the same step. On the disk when it returns. */
  put(row: BatchRow, files?: readonly FileRow[]): void;
  get(id: string, tenant: TenantId): BatchRow | null;
  list(tenant: TenantId, page: Page): BatchRow[];
  /** Of all tenants, the oldest first. */
  inStates(states: readonly string[]): BatchRow[];
}

type Row = Record<string, SQLOutputValue>;

const fileOf = (row: Row): FileRow => ({
  id: String(row['id']),
  tenantId: tenantId(String(row['tenant'])),
  purpose: String(row['purpose']),
  filename: String(row['filename']),
  bytes: Number(row['bytes']),
  createdAt: Number(row['created_at']),
});

const batchOf = (row: Row): BatchRow => ({
  id: String(row['id']),
  tenantId: tenantId(String(row['tenant'])),
  keyId: row['key_id'] === '' ? null : String(row['key_id']),
  state: String(row['state']),
  createdAt: Number(row['created_at']),
  body: JSON.parse(String(row['body'])) as BatchRow['body'],
});

/** By time and then id, going on after the row of `after`; both tables have the same columns for it. */
function pageSql(table: 'files' | 'batches', newestFirst: boolean): string {
  const [order, beyond] = newestFirst ? ['DESC', '<'] : ['ASC', '>'];
  return `SELECT * FROM ${table} WHERE tenant = :tenant AND (:purpose IS NULL OR ${table === 'files' ? 'purpose' : 'NULL'} = :purpose)
    AND (:after IS NULL OR (created_at, id) ${beyond} (SELECT created_at, id FROM ${table} WHERE id = :after AND tenant = :tenant))
    ORDER BY created_at ${order}, id ${order} LIMIT :limit`;
}

function paging(database: Database, table: 'files' | 'batches') {
  const newest = database.prepare(pageSql(table, true));
  const oldest = database.prepare(pageSql(table, false));
  return (tenant: TenantId, purpose: string | null, { limit, after, newestFirst }: Page): Row[] =>
    (newestFirst ? newest : oldest).all({ tenant, purpose, after, limit });
}

const INSERT_FILE = 'INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)';
const valuesOf = (row: FileRow) => [row.id, row.tenantId, row.purpose, row.filename, row.bytes, row.createdAt] as const;

export function createFileStore(database: Database): FileStore {
  const insert = database.prepare(INSERT_FILE);
  const select = database.prepare('SELECT * FROM files WHERE id = ? AND tenant = ?');
  const remove = database.prepare('DELETE FROM files WHERE id = ? AND tenant = ?');
  const sum = database.prepare('SELECT sum(bytes) AS bytes FROM files WHERE tenant = ?');
  const ids = database.prepare('SELECT id FROM files');
  const page = paging(database, 'files');
  return {
    add: (row) => database.transaction(() => void insert.run(...valuesOf(row)), { durable: true }),
    get(id, tenant) {
      const row = select.get(id, tenant);
      return row === undefined ? null : fileOf(row);
    },
    list: (tenant, purpose, wanted) => page(tenant, purpose, wanted).map(fileOf),
    remove: (id, tenant) => remove.run(id, tenant).changes > 0,
    bytesOf: (tenant) => Number(sum.get(tenant)?.['bytes'] ?? 0),
    ids: () => new Set(ids.all().map((row) => String(row['id']))),
  };
}

export function createBatchStore(database: Database): BatchStore {
  const upsert = database.prepare('INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?, ?, ?)');
  const insertFile = database.prepare(INSERT_FILE.replace('INSERT', 'INSERT OR REPLACE'));
  const select = database.prepare('SELECT * FROM batches WHERE id = ? AND tenant = ?');
  const page = paging(database, 'batches');
  return {
    put: (row, files = []) =>
      database.transaction(
        () => {
          for (const file of files) insertFile.run(...valuesOf(file));
          upsert.run(row.id, row.tenantId, row.keyId ?? '', row.state, row.createdAt, JSON.stringify(row.body));
        },
        { durable: true },
      ),
    get(id, tenant) {
      const row = select.get(id, tenant);
      return row === undefined ? null : batchOf(row);
    },
    list: (tenant, wanted) => page(tenant, null, wanted).map(batchOf),
    inStates: (states) =>
      database
        .prepare(`SELECT * FROM batches WHERE state IN (${states.map(() => '?').join(', ')}) ORDER BY created_at, id`)
        .all(...states)
        .map(batchOf),
  };
}
