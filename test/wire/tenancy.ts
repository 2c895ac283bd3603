/** A gateway with a directory, a gate and a database of its own, for wire tests; all of it ends with the test. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { tenantId } from '../../src/core/ids.ts';
import type { Listening } from '../../src/gateway/listen.ts';
import { TenantDirectory } from '../../src/gateway/tenants/directory.ts';
import { Gate } from '../../src/gateway/tenants/gate.ts';
import type { Declared, DeclaredTenant } from '../../src/gateway/tenants/types.ts';
import { NOTHING_DECLARED } from '../../src/gateway/tenants/types.ts';
import type { LimitSpec } from '../../src/limits/spec.ts';
import { NO_LIMITS } from '../../src/limits/spec.ts';
import type { NodeApi } from '../../src/runtime/api.ts';
import { openStore } from '../../src/store/store.ts';
import type { Store } from '../../src/store/store.ts';
import type { UsageRow } from '../../src/store/usage.ts';
import { open } from './harness.ts';

export const tenant = (id: string, limits: Partial<LimitSpec> = {}): DeclaredTenant => ({
  id: tenantId(id),
  name: id,
  weight: 1,
  limits: { ...NO_LIMITS, ...limits },
  models: null,
  isolation: 'strict',
  disabled: false,
});

export interface Tenants {
  readonly listening: Listening;
  readonly directory: TenantDirectory;
  readonly store: Store;
  readonly rows: UsageRow[];
  readonly gate: Gate;
  /** A new key's secret. */
  readonly keyOf: (id: string, rest?: { readonly models?: readonly string[] }) => string;
}

export async function openTenants(node: NodeApi, declared: Partial<Declared> = {}): Promise<Tenants> {
  const folder = mkdtempSync(join(tmpdir(), 'berth-wire-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const store = openStore(folder);
  onTestFinished(() => store.close());
  const directory = new TenantDirectory(store, { ...NOTHING_DECLARED, ...declared });
  const rows: UsageRow[] = [];
  const gate = new Gate(node, {
    policy: (model) => directory.policy(model),
    record: (row, then) => {
      rows.push(row);
      then();
    },
  });
  const auth = (credential: string | null) => directory.authenticate(credential);
  const listening = await open(node, {
    gateway: { auth, gate },
    admin: {
      tenancy: {
        directory,
        gate,
        usage: (query) => store.usage.sums(query),
        changed: () => undefined,
        removed: () => undefined,
      },
    },
  });
  const keyOf = (id: string, { models = null }: { readonly models?: readonly string[] | null } = {}): string =>
    directory.createKey({ tenantId: tenantId(id), name: '', models, limits: NO_LIMITS, expiresAt: null }).secret;
  return { listening, directory, store, rows, gate, keyOf };
}
