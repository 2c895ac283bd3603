/**
 * One SQLite file, by `node:sqlite`. WAL: what a transaction wrote is in the log file when it returns, so a killed process loses
 * nothing of it; `durable` ones also wait for the disk, so a power cut doesn't either. https://sqlite.org/wal.html
 */
import { chmodSync, closeSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { StatementSync } from 'node:sqlite';
import { BerthError } from '../errors.ts';
import { MIGRATIONS } from './migrations.ts';

/** Another process that writes is waited for so long. */
const BUSY_MILLIS = 5_000;
/** Pages until the log is folded into the database (of 4 KiB: 4 MiB). */
const CHECKPOINT_PAGES = 1_000;

/** A prepared statement whose failures are coded errors. */
export type Statement = Pick<StatementSync, 'run' | 'get' | 'all'>;

export interface Database {
  prepare(sql: string): Statement;
  /** All or nothing. `durable`: on the disk when it returns, not only safe from the end of the process. */
  transaction<Result>(run: () => Result, options?: { readonly durable?: boolean }): Result;
  close(): void;
}

/**
 * Opens or makes the file (0600, its folder too) and brings it to this version.
 * @throws BerthError store_unusable: it can't be read or written, is damaged, or was written by a newer Berth.
 */
export function openDatabase(path: string, migrations: readonly string[] = MIGRATIONS): Database {
  let database: DatabaseSync | null = null;
  try {
    makePrivate(path);
    database = new DatabaseSync(path, { timeout: BUSY_MILLIS });
    database.exec(
      `PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA secure_delete = ON; PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES}`,
    );
    migrate(database, path, migrations);
    return wrap(database, path);
  } catch (error) {
    database?.close();
    throw asStoreError(error, path);
  }
}

/** The log files get the rights of the database file. */
function makePrivate(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  closeSync(openSync(path, 'a', 0o600));
  chmodSync(path, 0o600);
}

function migrate(database: DatabaseSync, path: string, migrations: readonly string[]): void {
  const versionOf = (): number => Number(database.prepare('PRAGMA user_version').get()?.['user_version']);
  if (versionOf() === migrations.length) return;
  // Two nodes may start at once: the second one waits here, and finds the work done.
  database.exec('BEGIN IMMEDIATE');
  try {
    const version = versionOf();
    if (version > migrations.length) {
      throw new BerthError(
        'store_unusable',
        `${path} was written by a newer Berth (its version is ${version}, this one knows ${migrations.length})`,
      );
    }
    for (const step of migrations.slice(version)) database.exec(step);
    database.exec(`PRAGMA user_version = ${migrations.length}; COMMIT`);
  } catch (error) {
    database.exec('ROLLBACK');
    throw error;
  }
}

function wrap(database: DatabaseSync, path: string): Database {
  const guarded = <Args extends unknown[], Result>(run: (...args: Args) => Result) => {
    return (...args: Args): Result => {
      try {
        return run(...args);
      } catch (error) {
        throw asStoreError(error, path);
      }
    };
  };
  const prepare = (sql: string): Statement => {
    const statement = guarded(() => database.prepare(sql))();
    // The casts give back the overloads, which `guarded` loses.
    return {
      run: guarded(statement.run.bind(statement)) as StatementSync['run'],
      get: guarded(statement.get.bind(statement)) as StatementSync['get'],
      all: guarded(statement.all.bind(statement)) as StatementSync['all'],
    };
  };
  const begin = prepare('BEGIN IMMEDIATE');
  const commit = prepare('COMMIT');
  const rollback = database.prepare('ROLLBACK');
  return {
    prepare,
    transaction(run, { durable = false } = {}) {
      if (durable) database.exec('PRAGMA synchronous = FULL');
      try {
        begin.run();
        try {
          const result = run();
          commit.run();
          return result;
        } catch (error) {
          if (database.isTransaction) rollback.run();
          throw error;
        }
      } finally {
        if (durable) database.exec('PRAGMA synchronous = NORMAL');
      }
    },
    close: () => {
      if (database.isOpen) database.close();
    },
  };
}

/** SQLite's result codes: https://sqlite.org/rescode.html */
const SQLITE_BUSY = 5;
const SQLITE_FULL = 13;
const REASONS: Readonly<Record<number, string>> = {
  [SQLITE_BUSY]: 'another process keeps writing to it',
  8: 'it can’t be written',
  10: 'reading or writing it failed',
  11: 'it is damaged',
  [SQLITE_FULL]: 'the disk is full',
  14: 'it can’t be opened',
  26: 'it is no SQLite database',
};

/** Anything that went wrong with the file, as one coded error that names it. */
export function asStoreError(error: unknown, path: string): BerthError {
  if (error instanceof BerthError) return error;
  const { errcode, message, code } = error as { errcode?: number; message?: string; code?: string };
  const reason = REASONS[(errcode ?? -1) & 0xff] ?? `it can’t be used: ${message ?? code ?? 'unknown reason'}`;
  return new BerthError('store_unusable', `${path}: ${reason}`, { cause: error });
}
