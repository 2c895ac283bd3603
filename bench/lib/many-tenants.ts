/** A berth.db with many tenants, written as it would be by as many commands, without waiting for the disk after each. */
import { DatabaseSync } from 'node:sqlite';
import { hashOf } from '../../src/gateway/tenants/secrets.ts';
import type { LimitSpec } from '../../src/limits/spec.ts';
import { openStore } from '../../src/store/store.ts';

/** Of every kind, and out of reach. */
const LIMITS: LimitSpec = {
  requestsPerMinute: 10_000_000,
  tokensPerMinute: 100_000_000,
  concurrency: 10_000,
  queue: 10_000,
  budget: { tokens: 1_000_000_000, window: 'month' },
};

/** So many tenants with limits, and a key with limits for each. Returns the keys' secrets. */
export function fillStore(folder: string, count: number): string[] {
  const store = openStore(folder);
  const { path } = store;
  // Makes the file and its tables.
  store.close();
  const database = new DatabaseSync(path);
  const limits = JSON.stringify(LIMITS);
  const tenant = database.prepare(
    `INSERT INTO tenants (id, name, weight, limits, models, isolation, disabled, created_at, removed_at)
     VALUES (?, '', 1, ?, NULL, 'strict', 0, 1, NULL)`,
  );
  const key = database.prepare(
    `INSERT INTO keys (id, tenant, name, hash, prefix, limits, models, expires_at, created_at, last_used_at, revoked_at)
     VALUES (?, ?, '', ?, 'bt-bench', ?, '["*"]', NULL, 1, NULL, NULL)`,
  );
  const secrets = Array.from({ length: count }, (_, index) => `bt-bench-${index}`);
  database.exec('BEGIN');
  for (const [index, secret] of secrets.entries()) {
    tenant.run(`t${index}`, limits);
    key.run(`key_${index}`, `t${index}`, Buffer.from(hashOf(secret), 'hex'), limits);
  }
  database.exec('UPDATE identity_version SET version = version + 1; COMMIT');
  database.close();
  return secrets;
}
