/** berth.db: what is written is there after a kill, and a file that can't be used says so. */
import { spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { tenantId } from '../core/ids.ts';
import type { KeyRow } from './keys.ts';
import type { Store } from './store.ts';
import { openStore, STORE_FILE } from './store.ts';
import type { TenantRow } from './tenants.ts';
import type { UsageRow } from './usage.ts';
import { DAY_MILLIS } from './usage.ts';

const root = mkdtempSync(join(tmpdir(), 'berth-store-'));
afterAll(() => rmSync(root, { recursive: true }));
let folder = '';
let count = 0;
beforeEach(() => {
  folder = join(root, String(count++));
});

function open(): Store {
  const store = openStore(folder);
  onTestFinished(() => store.close());
  return store;
}

const ACME = tenantId('acme');
const tenant = (id: string, rest: Partial<TenantRow> = {}): TenantRow => ({
  id: tenantId(id),
  name: id,
  weight: 1,
  limits: {},
  models: null,
  isolation: 'strict',
  disabled: false,
  createdAt: 1,
  removedAt: null,
  ...rest,
});
const key = (id: string, rest: Partial<KeyRow> = {}): KeyRow => ({
  id,
  tenantId: ACME,
  name: '',
  hash: new Uint8Array(32).fill(id.length),
  prefix: 'bt-xxxxx',
  limits: {},
  models: null,
  expiresAt: null,
  createdAt: 1,
  lastUsedAt: null,
  revokedAt: null,
  ...rest,
});
const usage = (rest: Partial<UsageRow> = {}): UsageRow => ({
  at: 5,
  kind: 'request',
  tenantId: ACME,
  keyId: 'key_1',
  modelId: 'm1',
  requestId: 'req-1',
  outcome: 'stop',
  inputTokens: 10,
  cachedTokens: 4,
  outputTokens: 5,
  queueMicros: 1,
  loadMicros: 2,
  restoreMicros: 3,
  prefillMicros: 4,
  decodeMicros: 5,
  laneMicros: 9,
  costNanos: 0,
  ...rest,
});

describe('rows', () => {
  test('come back as they were, also after the file is opened again', () => {
    const store = open();
    const acme = tenant('acme', {
      limits: { budget: { tokens: 5 } },
      models: ['smol*'],
      isolation: 'shared',
      weight: 3,
    });
    store.tenants.put(tenant('acme'));
    store.tenants.put(acme);
    store.keys.add(key('a', { models: ['x'], expiresAt: 99 }));
    store.keys.rotate(key('bb'), 'a', 7);
    store.keys.touch([['bb', 8]]);
    expect(store.identityVersion()).toBe(4);
    store.close();
    const again = open();
    expect(again.tenants.all()).toEqual([acme]);
    expect(again.keys.all()).toEqual([
      key('a', { models: ['x'], expiresAt: 99, revokedAt: 7 }),
      key('bb', { lastUsedAt: 8 }),
    ]);
    again.keys.revokeAllOf(ACME, 9);
    expect(again.keys.all().map(({ revokedAt }) => revokedAt)).toEqual([7, 9]);
  });

  test('usage is summed by whatever is asked for, by whole days and by parts of one', () => {
    const { usage: ledger } = open();
    ledger.append([
      usage(),
      usage({ at: DAY_MILLIS + 1, keyId: 'key_2' }),
      usage({ at: DAY_MILLIS + 2, modelId: 'm2' }),
      usage({ kind: 'idle', keyId: null, modelId: null, inputTokens: 0, outputTokens: 0 }),
      usage({ tenantId: tenantId('other') }),
    ]);
    const all = { by: [], since: null, until: null, tenantId: null } as const;
    expect(ledger.sums(all)).toMatchObject([{ requests: 4, inputTokens: 40, laneMicros: 45, tenant: null, day: null }]);
    expect(
      ledger.sums({ ...all, by: ['tenant', 'day'] }).map(({ tenant: t, day, requests }) => [t, day, requests]),
    ).toEqual([
      ['acme', '1970-01-01', 1],
      ['acme', '1970-01-02', 2],
      ['other', '1970-01-01', 1],
    ]);
    const since = (at: number) =>
      ledger.sums({ ...all, by: ['model'], since: at, tenantId: ACME }).map(({ model, requests }) => [model, requests]);
    expect(since(DAY_MILLIS)).toEqual([
      ['m1', 1],
      ['m2', 1],
    ]);
    expect(since(DAY_MILLIS + 2)).toEqual([['m2', 1]]);
    const spent = { tenantId: ACME, keyId: null, modelId: null, sinceDay: 0 };
    expect(ledger.spentTokens(spent)).toBe(45);
    expect(ledger.spentTokens({ ...spent, keyId: 'key_1' })).toBe(30);
    expect(ledger.spentTokens({ ...spent, keyId: 'key_1', modelId: 'm1' })).toBe(15);
    expect(ledger.spentTokens({ ...spent, sinceDay: 1 })).toBe(30);
  });

  test('the days’ sums follow the rows, also those of a process that died before, and each row is in them once', () => {
    const { usage: ledger } = open();
    for (let index = 0; index < 450; index++) ledger.append([usage({ at: index % 3 === 0 ? DAY_MILLIS + 5 : 5 })]);
    // Not closed: as if it had been killed.
    const { usage: again } = open();
    const all = { by: ['day'], since: null, until: null, tenantId: null } as const;
    const days = [
      ['1970-01-01', 300],
      ['1970-01-02', 150],
    ];
    for (const book of [again, ledger, again])
      expect(book.sums(all).map(({ day, requests }) => [day, requests])).toEqual(days);
    ledger.append([usage({ at: DAY_MILLIS + 6 })]);
    expect(again.sums({ ...all, by: [], since: DAY_MILLIS + 6 })).toMatchObject([{ requests: 1 }]);
    expect(again.sums({ ...all, by: [], since: DAY_MILLIS + 1 })).toMatchObject([{ requests: 151 }]);
  });

  test('files and batches belong to a tenant, and are listed in pages', () => {
    const { files, batches } = open();
    const row = (id: string, createdAt: number) => ({
      id,
      tenantId: ACME,
      purpose: 'batch',
      filename: `${id}.jsonl`,
      bytes: 3,
      createdAt,
    });
    for (const [at, id] of ['a', 'b', 'c'].entries()) files.add(row(id, Math.ceil(at / 2)));
    const other = tenantId('other');
    const page = { limit: 2, after: null, newestFirst: true };
    expect(files.list(ACME, null, page).map(({ id }) => id)).toEqual(['c', 'b']);
    expect(files.list(ACME, 'batch', { ...page, after: 'b' }).map(({ id }) => id)).toEqual(['a']);
    expect(files.list(ACME, 'other', page)).toEqual([]);
    expect(files.list(other, null, page)).toEqual([]);
    expect(files.get('a', other)).toBeNull();
    expect(files.remove('a', other)).toBe(false);
    expect(files.bytesOf(ACME)).toBe(9);
    expect(files.remove('a', ACME)).toBe(true);
    const batch = { id: 'x', tenantId: ACME, keyId: null, state: 'running', createdAt: 1, body: { total: 2 } };
    batches.put(batch);
    batches.put({ ...batch, state: 'done' }, [row('out', 9)]);
    expect(batches.get('x', ACME)).toEqual({ ...batch, state: 'done' });
    expect(batches.get('x', other)).toBeNull();
    expect(batches.inStates(['running'])).toEqual([]);
    expect(batches.inStates(['done', 'running']).map(({ id }) => id)).toEqual(['x']);
    expect(files.get('out', ACME)).not.toBeNull();
  });
});

describe('the file', () => {
  test('is nobody else’s to read, its log neither', () => {
    open().tenants.put(tenant('acme'));
    const modes = [STORE_FILE, `${STORE_FILE}-wal`, `${STORE_FILE}-shm`].map(
      (name) => statSync(join(folder, name)).mode & 0o777,
    );
    expect(modes).toEqual([0o600, 0o600, 0o600]);
    expect(statSync(folder).mode & 0o077).toBe(0);
  });

  test('of a newer Berth is left alone', () => {
    open().close();
    const raw = new DatabaseSync(join(folder, STORE_FILE));
    raw.exec('PRAGMA user_version = 999');
    raw.close();
    const before = readFileSync(join(folder, STORE_FILE));
    expect(() => openStore(folder)).toThrow(expect.objectContaining({ code: 'store_unusable' }));
    expect(() => openStore(folder)).toThrow(/newer Berth \(its version is 999/);
    expect(readFileSync(join(folder, STORE_FILE)).equals(before)).toBe(true);
  });

  test('that is no database, or half of one, is one error that names it', () => {
    open().close();
    const path = join(folder, STORE_FILE);
    const whole = readFileSync(path);
    const unusable = expect.objectContaining({ code: 'store_unusable', message: expect.stringContaining(path) });
    writeFileSync(path, 'what a mess, and longer than a header of SQLite has to be'.repeat(20));
    expect(() => openStore(folder)).toThrow(unusable);
    writeFileSync(path, Buffer.concat([whole.subarray(0, 4096), Buffer.alloc(whole.length - 4096, 7)]));
    expect(() => openStore(folder).keys.all()).toThrow(unusable);
    writeFileSync(path, whole);
    expect(open().keys.all()).toEqual([]);
  });

  test.skipIf(process.getuid?.() === 0)('that can’t be written is the same error', () => {
    open().close();
    chmodSync(folder, 0o500);
    onTestFinished(() => chmodSync(folder, 0o700));
    expect(() => openStore(folder).tenants.put(tenant('a'))).toThrow(
      expect.objectContaining({ code: 'store_unusable' }),
    );
  });
});

describe('a killed process', () => {
  /** Says each key's number after it was added, and never ends by itself. */
  const WRITER = `
    const { openStore } = await import(process.argv[1]);
    const store = openStore(process.argv[2]);
    for (let n = 0; ; n++) {
      const hash = new Uint8Array(32);
      new DataView(hash.buffer).setUint32(0, n);
      store.keys.add({ id: 'key_' + n, tenantId: 'acme', name: '', hash, prefix: 'bt-', limits: {}, models: null,
        expiresAt: null, createdAt: n, lastUsedAt: null, revokedAt: null });
      process.stdout.write(n + '\\n');
    }`;

  test('has lost no row that it had acknowledged', async () => {
    const module = join(import.meta.dirname, 'store.ts');
    const child = spawn(process.execPath, ['--input-type=module', '-e', WRITER, module, folder], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    onTestFinished(() => void child.kill('SIGKILL'));
    let said = '';
    for await (const part of child.stdout as AsyncIterable<Buffer>) {
      said += part.toString();
      if (said.split('\n').length > 40) child.kill('SIGKILL');
    }
    const acknowledged = said.split('\n').slice(0, -1).map(Number);
    const keys = open().keys.all();
    expect(acknowledged.length).toBeGreaterThan(39);
    expect(keys.slice(0, acknowledged.length).map(({ createdAt }) => createdAt)).toEqual(acknowledged);
    expect(keys.length - acknowledged.length).toBeLessThanOrEqual(1);
  });
});
