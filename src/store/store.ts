/** berth.db as a whole: what the node must remember of tenants, keys, usage, files and batches. */
import { join } from 'node:path';
import type { Database } from './database.ts';
import { asStoreError, openDatabase } from './database.ts';
import type { BatchStore, FileStore } from './files.ts';
import { createBatchStore, createFileStore } from './files.ts';
import type { KeyStore } from './keys.ts';
import { createKeyStore } from './keys.ts';
import type { TenantStore } from './tenants.ts';
import { createTenantStore } from './tenants.ts';
import type { UsageStore } from './usage.ts';
import { createUsageStore } from './usage.ts';

export interface Store {
  readonly path: string;
  readonly tenants: TenantStore;
  readonly keys: KeyStore;
  readonly usage: UsageStore;
  readonly files: FileStore;
  readonly batches: BatchStore;
  /** Grows with each change of tenants and keys, whichever process makes it. */
  identityVersion(): number;
  close(): void;
}

export const STORE_FILE = 'berth.db';

/**
 * Opens `berth.db` in `folder` (BERTH_HOME); makes both where they aren't there.
 * @throws BerthError store_unusable
 */
export function openStore(folder: string): Store {
  const path = join(folder, STORE_FILE);
  const database = openDatabase(path);
  try {
    return storeOn(database, path);
  } catch (error) {
    database.close();
    throw asStoreError(error, path);
  }
}

function storeOn(database: Database, path: string): Store {
  const bump = database.prepare('UPDATE identity_version SET version = version + 1');
  const version = database.prepare('SELECT version FROM identity_version');
  const changed = (): void => void bump.run();
  return {
    path,
    tenants: createTenantStore(database, changed),
    keys: createKeyStore(database, changed),
    usage: createUsageStore(database),
    files: createFileStore(database),
    batches: createBatchStore(database),
    identityVersion: () => Number(version.get()?.['version'] ?? 0),
    close: () => database.close(),
  };
}
