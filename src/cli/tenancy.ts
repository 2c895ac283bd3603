/** Joins tenants, keys, limits and the ledger to a node: berth.db, the directory of who there is, and the gate around `submit`. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { BerthConfig } from '../config.ts';
import type { TenantSpec } from '../core/events.ts';
import type { TenantId } from '../core/ids.ts';
import { tenantId } from '../core/ids.ts';
import { asBerthError } from '../errors.ts';
import type { Authenticator } from '../gateway/auth.ts';
import { BatchRunner } from '../gateway/batches/runner.ts';
import { FileVault } from '../gateway/batches/vault.ts';
import type { GatewayOptions } from '../gateway/options.ts';
import type { TenantAdmin } from '../gateway/tenants/admin.ts';
import { TenantDirectory } from '../gateway/tenants/directory.ts';
import { Gate } from '../gateway/tenants/gate.ts';
import type { Declared } from '../gateway/tenants/types.ts';
import type { NodeApi } from '../runtime/api.ts';
import type { DeviceTimeRow } from '../runtime/device-time.ts';
import type { Log } from '../runtime/log.ts';
import type { Store } from '../store/store.ts';
import { claim } from '../store/claim.ts';
import { openStore, STORE_FILE } from '../store/store.ts';
import type { UsageAmounts } from '../store/usage.ts';
import { createUsageWriter } from '../store/usage-writer.ts';

export interface Tenancy {
  readonly store: Store;
  readonly directory: TenantDirectory;
  readonly gate: Gate;
  readonly auth: Authenticator;
  readonly admin: TenantAdmin;
  readonly batches: NonNullable<GatewayOptions['batches']>;
  /** Does the API ask for a key? */
  keyed(): boolean;
  /** What berth.yaml says now. */
  declare(config: BerthConfig): void;
  /** Shares of the device, for the core: of all that have another weight than the usual one. */
  specs(): TenantSpec[];
  /** Prometheus text. */
  readonly metrics: () => string;
  /** Writes what waits, and closes the database. */
  close(): void;
}

/** Tells where its lanes' time went since it was last asked. */
export type MeteredNode = NodeApi & {
  takeDeviceTime(): DeviceTimeRow[];
  /** Removes the KV of its conversations. */
  forgetTenant(id: TenantId): void;
};

const UPKEEP_MILLIS = 1_000;
/** The device's time is written down so often: each time a row for every tenant and model that computed. */
const DEVICE_TIME_MILLIS = 60_000;
/** Whose the time is that is nobody's; no tenant can be called so. */
const NOBODY = tenantId('-');

const NOTHING: UsageAmounts = {
  inputTokens: 0,
  cachedTokens: 0,
  outputTokens: 0,
  queueMicros: 0,
  loadMicros: 0,
  restoreMicros: 0,
  prefillMicros: 0,
  decodeMicros: 0,
  laneMicros: 0,
  costNanos: 0,
};

const declaredBy = (config: BerthConfig): Declared => ({
  tenants: config.tenants,
  models: config.models,
  apiKeys: config.http.apiKeys,
});

/**
 * @param changed tenants' weights may have changed.
 * @throws BerthError store_unusable
 */
export function openTenancy(config: BerthConfig, node: MeteredNode, log: Log, changed: () => void): Tenancy {
  const store = openStore(config.home);
  try {
    return tenancyOn(store, config, node, log, changed);
  } catch (error) {
    store.close();
    throw error;
  }
}

function tenancyOn(store: Store, config: BerthConfig, node: MeteredNode, log: Log, changed: () => void): Tenancy {
  const directory = new TenantDirectory(store, declaredBy(config));
  const writer = createUsageWriter({
    write: (rows) => store.usage.append(rows),
    onError: (reason) => log.error({ reason }, 'usage can’t be written; it waits'),
    after: (millis, run) => {
      const timer = setTimeout(run, millis).unref();
      return () => clearTimeout(timer);
    },
    soon: (run) => process.nextTick(run),
  });
  const gate = new Gate(node, {
    policy: (model) => directory.policy(model),
    record: (row, then) => writer.commit(row, then),
    spentTokens: (query) => {
      writer.flush();
      return store.usage.spentTokens(query);
    },
    holdMillis: config.limits.queueTimeoutMicros / 1_000,
  });
  const noteDeviceTime = (): void => {
    const at = Date.now();
    for (const { kind, payer, modelId, laneMicros } of node.takeDeviceTime()) {
      const { tenantId: whose, keyId } = payer ?? { tenantId: NOBODY, keyId: null };
      const row = { at, kind, tenantId: whose, keyId, modelId, requestId: null, outcome: '' };
      writer.add({ ...row, ...NOTHING, laneMicros });
    }
  };
  const deviceTime = setInterval(noteDeviceTime, DEVICE_TIME_MILLIS).unref();
  let failing = false;
  const upkeep = setInterval(() => {
    try {
      directory.upkeep();
      failing = false;
    } catch (error) {
      if (!failing) log.error({ reason: asBerthError(error).message }, 'tenants and keys can’t be looked after');
      failing = true;
    }
  }, UPKEEP_MILLIS).unref();
  return {
    store,
    directory,
    gate,
    auth: (credential) => directory.authenticate(credential),
    admin: {
      directory,
      gate,
      usage: (query) => {
        noteDeviceTime();
        writer.flush();
        return store.usage.sums(query);
      },
      changed,
      removed: (id) => node.forgetTenant(id),
    },
    batches: batchDesk(config.home, store, directory, log),
    keyed: () => !directory.isOpen,
    declare: (next) => directory.declare(declaredBy(next)),
    specs: () =>
      directory
        .tenants()
        .filter(({ weight }) => weight !== 1)
        .map(({ id, weight }) => ({ tenantId: id, weight })),
    metrics: () => metricsText(writer.counts, gate.refusals),
    close: () => {
      clearInterval(upkeep);
      clearInterval(deviceTime);
      noteDeviceTime();
      if (!writer.flush()) log.error({ rows: writer.counts.waiting }, 'usage is lost: the database can’t be written');
      try {
        directory.upkeep();
      } catch (error) {
        log.error({ reason: asBerthError(error).message }, 'when keys were used is lost');
      }
      store.close();
    },
  };
}

function batchDesk(home: string, store: Store, directory: TenantDirectory, log: Log): Tenancy['batches'] {
  const vault = new FileVault(join(home, 'files'), store.files);
  const runner = new BatchRunner({
    store: store.batches,
    vault,
    folder: join(home, 'batches'),
    claim: () => claim(join(home, 'batches.lock')),
    log,
  });
  return { vault, store: store.batches, runner, principalOf: (tenant, keyId) => directory.principalOf(tenant, keyId) };
}

function metricsText(
  rows: { readonly waiting: number; readonly written: number; readonly lost: number },
  refusals: ReadonlyMap<string, number>,
): string {
  const lines = [
    '# HELP berth_usage_rows_total Rows of the usage ledger, by what became of them.',
    '# TYPE berth_usage_rows_total counter',
    `berth_usage_rows_total{result="written"} ${rows.written}`,
    `berth_usage_rows_total{result="lost"} ${rows.lost}`,
    '# HELP berth_usage_rows_waiting Rows of the usage ledger that are not written yet.',
    '# TYPE berth_usage_rows_waiting gauge',
    `berth_usage_rows_waiting ${rows.waiting}`,
    '# HELP berth_limit_refusals_total Requests that a limit of a tenant, key or model refused.',
    '# TYPE berth_limit_refusals_total counter',
    ...[...refusals].map(([limit, count]) => `berth_limit_refusals_total{limit="${limit}"} ${count}`),
  ];
  return `${lines.join('\n')}\n`;
}

/** Is there a key that works, in berth.yaml or in the database? For a check before anything else is opened. */
export function hasKeys(config: BerthConfig): boolean {
  if (config.http.apiKeys.length > 0) return true;
  if (!existsSync(join(config.home, STORE_FILE))) return false;
  const store = openStore(config.home);
  try {
    const now = Date.now();
    return store.keys
      .all()
      .some(({ revokedAt, expiresAt }) => revokedAt === null && (expiresAt === null || expiresAt > now));
  } finally {
    store.close();
  }
}
