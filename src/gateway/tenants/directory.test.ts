/** Who is calling: keys and tenants of the store and of the file, from the first open door to the last revoked key. */
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { DEFAULT_TENANT, modelId, tenantId } from '../../core/ids.ts';
import { NO_LIMITS } from '../../limits/spec.ts';
import type { Store } from '../../store/store.ts';
import { openStore } from '../../store/store.ts';
import { TenantDirectory } from './directory.ts';
import { matcherOf } from './patterns.ts';
import { hashOf } from './secrets.ts';
import type { Declared, DeclaredTenant } from './types.ts';
import { NOTHING_DECLARED } from './types.ts';

const root = mkdtempSync(join(tmpdir(), 'berth-directory-'));
afterAll(() => rmSync(root, { recursive: true }));
let folder = '';
let count = 0;
beforeEach(() => {
  folder = join(root, String(count++));
});

const ACME = tenantId('acme');
const declared = (id: string, rest: Partial<DeclaredTenant> = {}): DeclaredTenant => ({
  id: tenantId(id),
  name: id,
  weight: 1,
  limits: NO_LIMITS,
  models: null,
  isolation: 'strict',
  disabled: false,
  ...rest,
});
const keyFor = (tenant: string, rest = {}) => ({
  tenantId: tenantId(tenant),
  name: 'ci',
  models: null,
  limits: NO_LIMITS,
  expiresAt: null,
  ...rest,
});

function open(say: Partial<Declared> = {}, clock = { now: 1_000_000 }) {
  const store: Store = openStore(folder);
  onTestFinished(() => store.close());
  const directory = new TenantDirectory(store, { ...NOTHING_DECLARED, ...say }, () => clock.now);
  return {
    store,
    directory,
    clock,
    again: () => new TenantDirectory(store, { ...NOTHING_DECLARED, ...say }, () => clock.now),
  };
}

describe('the door', () => {
  test('is open as long as there is nothing but the default tenant, whatever key an SDK sends', () => {
    const { directory } = open();
    expect(directory.isOpen).toBe(true);
    expect(directory.authenticate(null)).toMatchObject({ tenantId: DEFAULT_TENANT, keyId: null });
    expect(directory.authenticate('sk-anything')).toMatchObject({ tenantId: DEFAULT_TENANT, keyId: null });
  });

  test('is closed by the first tenant, and by the first key of the default one', () => {
    const first = open().directory;
    first.addTenant(declared('acme'));
    expect(first.authenticate(null)).toBeNull();
    folder = `${folder}-2`;
    const second = open().directory;
    const { secret } = second.createKey(keyFor('default'));
    expect(second.authenticate('sk-anything')).toBeNull();
    expect(second.authenticate(secret)).toMatchObject({ tenantId: DEFAULT_TENANT });
  });

  test('is not opened by the end of the last key, nor of the last tenant', () => {
    const { directory, again } = open();
    directory.addTenant(declared('acme'));
    directory.revokeKey(directory.createKey(keyFor('acme')).key.id);
    directory.removeTenant('acme');
    expect(directory.authenticate(null)).toBeNull();
    expect(again().authenticate(null)).toBeNull();
  });

  test('of a file with keys is closed, and its keys are the default tenant’s', () => {
    const { directory } = open({ apiKeys: ['first', 'second'] });
    expect(directory.authenticate('second')).toMatchObject({ tenantId: DEFAULT_TENANT, keyId: 'key-2' });
    expect(directory.authenticate('third')).toBeNull();
    directory.declare(NOTHING_DECLARED);
    expect(directory.authenticate('second')).toBeNull();
  });
});

describe('a key', () => {
  test('works at once and after a restart; its secret is nowhere in the folder', () => {
    const { directory, again } = open();
    directory.addTenant(declared('acme'));
    const { key, secret } = directory.createKey(keyFor('acme'));
    expect(secret).toMatch(/^bt-[\w-]{43}$/);
    expect(key).toMatchObject({ tenantId: ACME, prefix: secret.slice(0, 8), revokedAt: null, source: 'store' });
    expect(directory.authenticate(secret)).toMatchObject({ tenantId: ACME, keyId: key.id });
    expect(again().authenticate(secret)).toMatchObject({ tenantId: ACME, keyId: key.id });
    const bytes = readdirSync(folder).map((name) => readFileSync(join(folder, name)).toString('latin1'));
    expect(bytes.some((text) => text.includes(secret.slice(8)))).toBe(false);
    expect(bytes.some((text) => text.includes(Buffer.from(hashOf(secret), 'hex').toString('latin1')))).toBe(true);
  });

  test('that is revoked, rotated, expired or of a removed tenant is unknown at once', () => {
    const { directory, clock } = open();
    directory.addTenant(declared('acme'));
    const keys = [0, 1, 2, 3].map(() => directory.createKey(keyFor('acme', { expiresAt: 2_000_000 })));
    const knows = () => keys.map(({ secret }) => directory.authenticate(secret) !== null);
    directory.revokeKey(keys[0]?.key.id ?? '');
    expect(knows()).toEqual([false, true, true, true]);
    const fresh = directory.rotateKey(keys[1]?.key.id ?? '');
    expect(knows()).toEqual([false, false, true, true]);
    expect(directory.authenticate(fresh.secret)).toMatchObject({ keyId: fresh.key.id });
    expect(fresh.key).toMatchObject({ name: 'ci', expiresAt: 2_000_000 });
    clock.now = 2_000_000;
    expect(() => directory.authenticate(keys[2]?.secret ?? '')).toThrow(/expired/);
    directory.removeTenant('acme');
    expect(directory.authenticate(keys[2]?.secret ?? '')).toBeNull();
  });

  test('of a disabled tenant says so, until it is enabled again', () => {
    const { directory } = open();
    directory.addTenant(declared('acme'));
    const { secret } = directory.createKey(keyFor('acme'));
    expect(directory.authenticate(secret)).not.toBeNull();
    directory.changeTenant('acme', { disabled: true });
    expect(() => directory.authenticate(secret)).toThrow(expect.objectContaining({ code: 'forbidden' }));
    directory.changeTenant('acme', { disabled: false });
    expect(directory.authenticate(secret)).not.toBeNull();
  });

  test('remembers when it was used, to the minute, in one write a minute', () => {
    const { directory, store, clock } = open();
    const { secret } = directory.createKey(keyFor('default'));
    const written = () => store.keys.all()[0]?.lastUsedAt;
    directory.authenticate(secret);
    expect(written()).toBeNull();
    directory.upkeep();
    expect(written()).toBe(1_000_000);
    clock.now += 59_999;
    directory.authenticate(secret);
    directory.upkeep();
    expect(written()).toBe(1_000_000);
    clock.now += 1;
    directory.authenticate(secret);
    directory.upkeep();
    expect(written()).toBe(1_060_000);
  });

  test('that has left work with the node may do of it what it may now', () => {
    const { directory, clock } = open();
    directory.addTenant(declared('acme'));
    const { key } = directory.createKey(keyFor('acme', { models: ['smol'], expiresAt: 2_000_000 }));
    const may = () => directory.principalOf(ACME, key.id);
    expect(may()).toMatchObject({ tenantId: ACME, keyId: key.id });
    expect(may()?.access?.allows({ id: modelId('big'), aliases: [] })).toBe(false);
    directory.changeTenant('acme', { disabled: true });
    expect(may()).toBeNull();
    directory.changeTenant('acme', { disabled: false });
    clock.now = 2_000_000;
    expect(may()).toBeNull();
    clock.now = 1_000_000;
    directory.revokeKey(key.id);
    expect(may()).toBeNull();
    expect(directory.principalOf(tenantId('nobody'), null)).toBeNull();
  });

  test('that another process revokes is noticed', () => {
    const { directory, again } = open();
    const { key, secret } = directory.createKey(keyFor('default'));
    again().revokeKey(key.id);
    expect(directory.authenticate(secret)).not.toBeNull();
    directory.upkeep();
    expect(directory.authenticate(secret)).toBeNull();
  });
});

describe('a tenant', () => {
  test('of the file wins over the stored one, and is changed there only; its keys are stored', () => {
    const { directory } = open({ tenants: [declared('acme', { weight: 7 })] });
    expect(directory.tenant('acme')).toMatchObject({ weight: 7, source: 'file' });
    for (const change of [() => directory.changeTenant('acme', { weight: 1 }), () => directory.removeTenant('acme')]) {
      expect(change).toThrow(/declared in berth\.yaml/);
    }
    expect(directory.authenticate(directory.createKey(keyFor('acme')).secret)).toMatchObject({ tenantId: ACME });
  });

  test('that is there, or isn’t, is told by name', () => {
    const { directory } = open();
    expect(() => directory.addTenant(declared('default'))).toThrow(/is there already/);
    expect(() => directory.createKey(keyFor('nobody'))).toThrow(expect.objectContaining({ code: 'not_found' }));
    expect(() => directory.revokeKey('key_x')).toThrow(expect.objectContaining({ code: 'not_found' }));
    expect(() => directory.removeTenant('default')).toThrow(/disabled, not removed/);
  });
});

test('models are a caller’s when the model, its tenant and its key say so', () => {
  const model = (id: string, ...aliases: string[]) => ({ id: modelId(id), aliases });
  const policy = { limits: NO_LIMITS, price: null };
  const { directory } = open({
    models: [{ ...policy, id: modelId('secret'), tenants: [ACME] }],
    tenants: [declared('acme'), declared('other'), declared('narrow', { models: ['smol*', 'Tiny'] })],
  });
  const may = (tenant: string, models: readonly string[] | null = null) => {
    const { secret } = directory.createKey(keyFor(tenant, { models }));
    const access = directory.authenticate(secret)?.access;
    return ['secret', 'smol-1', 'big'].filter((id) => access?.allows(model(id, ...(id === 'big' ? ['tiny'] : []))));
  };
  expect(may('acme')).toEqual(['secret', 'smol-1', 'big']);
  expect(may('other')).toEqual(['smol-1', 'big']);
  expect(may('narrow')).toEqual(['smol-1', 'big']);
  expect(may('narrow', ['smol-1'])).toEqual(['smol-1']);
  expect(may('acme', ['s*'])).toEqual(['secret', 'smol-1']);
});

test.each([
  ['a*c', 'abbc', true],
  ['a*c', 'ac', true],
  ['ab*bc', 'abc', false],
  ['*b*', 'abc', true],
  ['*', 'anything', true],
  ['A', 'a', true],
  ['a', 'ab', false],
  ['a**b', 'axb', true],
])('the pattern %s and %s: %s', (pattern, name, fits) => {
  expect(matcherOf([pattern])?.({ id: modelId(name), aliases: [] })).toBe(fits);
});

test('ten thousand tenants with a key each are there in well under two seconds, and a lookup stays one', () => {
  const { store, directory } = open();
  const hashes = Array.from({ length: 10_000 }, (_, n) => hashOf(`secret ${n}`));
  // Straight into the file: through the store each of them would wait for the disk.
  const raw = new DatabaseSync(store.path);
  const tenant = raw.prepare(`INSERT INTO tenants VALUES (?, '', 1, '{}', NULL, 'strict', 0, 1, NULL)`);
  const key = raw.prepare(`INSERT INTO keys VALUES (?, ?, '', ?, 'bt-', '{}', '["smol*"]', NULL, 1, NULL, NULL)`);
  raw.exec('BEGIN');
  for (const [n, hash] of hashes.entries()) {
    tenant.run(`t${n}`);
    key.run(`key_${n}`, `t${n}`, Buffer.from(hash, 'hex'));
  }
  raw.exec('UPDATE identity_version SET version = version + 1; COMMIT');
  raw.close();
  const begun = performance.now();
  directory.upkeep();
  const millis = performance.now() - begun;
  expect(directory.tenants()).toHaveLength(10_001);
  expect(directory.authenticate('secret 9999')).toMatchObject({ tenantId: 't9999' });
  expect(millis).toBeLessThan(2_000);
});
