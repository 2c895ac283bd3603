/**
 * Something that one process of a machine may do at a time. The claim is a lock of the operating system on a small SQLite file, so
 * it ends with its process, however that ends.
 */
import { DatabaseSync } from 'node:sqlite';
import { asStoreError } from './database.ts';

const SQLITE_BUSY = 5;

/**
 * @returns what gives it back; null: another process has it.
 * @throws BerthError store_unusable
 */
export function claim(path: string): (() => void) | null {
  let database: DatabaseSync | null = null;
  try {
    database = new DatabaseSync(path, { timeout: 0 });
    // An open transaction keeps the lock, and nothing is ever written.
    database.exec('BEGIN EXCLUSIVE');
    const held = database;
    return () => held.close();
  } catch (error) {
    database?.close();
    if (((error as { errcode?: number }).errcode ?? -1) % 256 === SQLITE_BUSY) return null;
    throw asStoreError(error, path);
  }
}
