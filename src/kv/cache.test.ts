import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { modelId, requestId, tenantId } from '../core/ids.ts';
import type { ModelId } from '../core/ids.ts';
import type { ChatMessage, KvGrant, KvPlan } from '../engines/engine.ts';
import { writeKvFile } from '../engines/kv-file.ts';
import { createKvCache } from './cache.ts';
import type { KvCache } from './cache.ts';

const M = modelId('m');
const A = tenantId('tenant a');
const COSTS = { prefillMicrosPerKiloToken: 3_000_000 };
const STATE_BYTES = 300_000;
const FILE_BYTES = STATE_BYTES + 24 * 1024;

let root = '';
let warnings: string[] = [];
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'berth-kv-'));
  warnings = [];
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

/** A node with one model whose engine saves what it is allowed to, when it is told. */
class Node {
  readonly cache: KvCache;
  readonly grants = new Map<string, KvGrant>();
  now = 1_000_000;
  private count = 0;

  constructor(budgets: { host?: number; disk?: number } = { host: 1e7, disk: 1e7 }) {
    this.cache = createKvCache({
      host: budgets.host === undefined ? null : { folder: join(root, 'host'), budgetBytes: budgets.host },
      disk: budgets.disk === undefined ? null : { folder: join(root, 'disk'), budgetBytes: budgets.disk },
      minimumTokens: 64,
      now: () => (this.now += 10),
      warn: (_, message) => void warnings.push(message),
      onGrant: (_, grant) => void this.grants.set(grant.entryId, grant),
    });
  }

  arrive(
    messages: readonly ChatMessage[],
    rest: { tenant?: string; fingerprint?: string; hint?: string; model?: ModelId } = {},
  ) {
    const id = requestId(`r${this.count++}`);
    this.cache.arrived({
      requestId: id,
      tenantId: rest.tenant === undefined ? A : tenantId(rest.tenant),
      modelId: rest.model ?? M,
      fingerprint: rest.fingerprint ?? 'f',
      input: { type: 'chat', messages, tools: [], toolChoice: 'auto' },
      hint: rest.hint ?? null,
    });
    return id;
  }
  plan(...asked: Parameters<Node['arrive']>): { id: ReturnType<Node['arrive']>; plan: KvPlan } {
    const id = this.arrive(...asked);
    const plan = this.cache.planOf(id);
    if (plan === null) throw new Error('no plan');
    return { id, plan };
  }
  keep({ entryId }: KvPlan, model = M): void {
    this.cache.heard(model, { type: 'kept', entryId, tokens: 1000, bytes: FILE_BYTES }, COSTS);
  }
  save({ entryId }: KvPlan, model = M): string {
    const grant = this.grants.get(entryId);
    if (grant === undefined) throw new Error('no grant');
    const bytes = write(grant);
    this.cache.heard(model, { type: 'saved', entryId, bytes, micros: 10 }, COSTS);
    return grant.path;
  }
  /** One turn, kept and saved. */
  turn(...asked: Parameters<Node['arrive']>): KvPlan {
    const { id, plan } = this.plan(...asked);
    this.cache.outcome(id, { cachedTokens: 0 });
    this.keep(plan);
    this.cache.ended(id);
    this.save(plan);
    return plan;
  }
  close(): Promise<void> {
    return this.cache.close(this.now + 10_000_000);
  }
}

/** As the engine writes it. */
function write({ path, entryId, tenantId: owner, fingerprint, label }: KvGrant): number {
  const head = { entryId, tenantId: owner, fingerprint, engine: 'e', label };
  return writeKvFile(path, head, new Int32Array(1000), new Uint8Array(STATE_BYTES));
}
const talk = (...contents: readonly string[]): ChatMessage[] =>
  contents.map((content, index) => ({ role: index % 2 === 0 ? 'user' : 'assistant', content }));
/** A word that could be looked for in files and names. */
const SECRET_WORD = 'xyzzy';
const first = talk(`${SECRET_WORD} one`);
const second = talk(`${SECRET_WORD} one`, 'answer', 'two');
const filesIn = (folder: string): string[] =>
  existsSync(folder)
    ? readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.kv'))
    : [];

test('the next turn is told the file of the turn before, and its tier is named', async () => {
  const node = new Node();
  await node.cache.ready;
  const kept = node.turn(first);
  const { id, plan } = node.plan(second);
  expect(plan.restore).toMatchObject({ tenantId: A, fingerprint: 'f', path: node.grants.get(kept.entryId)?.path });
  expect(plan.entryId).not.toBe(kept.entryId);
  expect(node.cache.outcome(id, { cachedTokens: 990, restored: 'yes', restoreMicros: 2500 })).toBe('host');
  expect(node.cache.stats()).toMatchObject({ lookups: 2, hits: { host: 1 }, saves: 1, restores: 1 });
  expect(node.cache.entries()).toMatchObject([{ entryId: kept.entryId, tier: 'host', tokens: 1000, uses: 2 }]);
  await node.close();
});

test('on the device it is found without a file; a dead model takes it away', async () => {
  const node = new Node();
  await node.cache.ready;
  const { id, plan } = node.plan(first);
  node.keep(plan);
  node.cache.ended(id);
  const next = node.plan(second);
  expect(next.plan.restore).toBeNull();
  expect(node.cache.outcome(next.id, { cachedTokens: 990 })).toBe('device');
  node.cache.died(M);
  expect(node.cache.entries()).toEqual([]);
  await node.close();
});

test('no other tenant, fingerprint or earlier word finds it', async () => {
  const node = new Node();
  await node.cache.ready;
  node.turn(first);
  expect(node.plan(second, { tenant: 'tenant b' }).plan.restore).toBeNull();
  expect(node.plan(second, { fingerprint: 'g' }).plan.restore).toBeNull();
  expect(node.plan(talk('another', 'answer', 'two')).plan.restore).toBeNull();
  expect(node.plan(second, { model: modelId('twin') }).plan.restore).not.toBeNull();
  await node.close();
});

test('neither names nor heads of files say anything of tenant, text or hint', async () => {
  const node = new Node();
  await node.cache.ready;
  const path = node.save(
    (() => {
      const { plan } = node.plan(first, { hint: `${SECRET_WORD}-thread` });
      node.keep(plan);
      return plan;
    })(),
  );
  expect(path).not.toContain('tenant a');
  expect(JSON.stringify(node.grants.values().next().value?.label)).not.toContain(SECRET_WORD);
  await node.close();
});

test('a refused file is deleted and never proposed again', async () => {
  const node = new Node();
  await node.cache.ready;
  const kept = node.turn(first);
  const { id } = node.plan(second);
  expect(node.cache.outcome(id, { cachedTokens: 0, restored: 'refused' })).toBeNull();
  expect(node.plan(second).plan.restore).toBeNull();
  await node.close();
  expect(filesIn(join(root, 'disk'))).toEqual([]);
  expect(existsSync(node.grants.get(kept.entryId)?.path ?? '')).toBe(false);
});

test('a restart finds what went to the disk, under the same names, and the host folder is gone', async () => {
  const node = new Node();
  await node.cache.ready;
  node.turn(first, { hint: 'h' });
  await node.close();
  expect(existsSync(join(root, 'host'))).toBe(false);
  expect(filesIn(join(root, 'disk'))).toHaveLength(1);
  const again = new Node();
  await again.cache.ready;
  const { id, plan } = again.plan(second);
  expect(plan.restore?.path.startsWith(join(root, 'disk'))).toBe(true);
  expect(again.cache.outcome(id, { cachedTokens: 990, restored: 'yes', restoreMicros: 5000 })).toBe('disk');
  await again.close();
  expect(warnings).toEqual([]);
});

test('after a crash the host’s files are found too; broken, foreign and half-written ones are removed', async () => {
  const node = new Node();
  await node.cache.ready;
  const good = node.turn(first);
  const broken = node.turn(talk('broken'));
  const pathOf = (plan: KvPlan): string => node.grants.get(plan.entryId)?.path ?? '';
  truncateSync(pathOf(broken), 100);
  writeFileSync(`${pathOf(good)}.part`, 'half');
  const other = new Node({ host: 1e7 });
  // The folder is still locked: as if another node had it. It works without.
  expect(warnings).toHaveLength(1);
  await other.cache.ready;
  expect(other.cache.stats().tiers.host.budgetBytes).toBe(0);
  await other.close();
  // A crash gives no lock back: it names a process that is gone.
  await crash(node);
  const again = new Node();
  await again.cache.ready;
  expect(again.plan(second).plan.restore?.path).toBe(pathOf(good));
  expect(again.plan(talk('broken', 'a', 'b')).plan.restore).toBeNull();
  expect(readdirSync(dirname(pathOf(good)))).toHaveLength(1);
  expect(again.cache.stats().tiers.host.bytes).toBe(statSync(pathOf(good)).size);
  await again.close();
});

/** What a crash leaves: this process can't lose its locks otherwise, so the files are laid aside meanwhile. */
async function crash(node: Node): Promise<void> {
  const { cpSync } = await import('node:fs');
  cpSync(root, `${root}-aside`, { recursive: true, preserveTimestamps: true });
  await node.close();
  rmSync(root, { recursive: true });
  cpSync(`${root}-aside`, root, { recursive: true, preserveTimestamps: true });
  rmSync(`${root}-aside`, { recursive: true });
  for (const tier of ['host', 'disk']) writeFileSync(join(root, tier, 'lock'), '2147483000 5\n');
}

test('a full host sends the older to the disk; both are found, and the budgets hold', async () => {
  const node = new Node({ host: Math.floor(FILE_BYTES * 1.5), disk: 1e7 });
  await node.cache.ready;
  node.turn(first);
  const { plan } = node.plan(talk('other'));
  node.keep(plan);
  await expect.poll(() => node.grants.has(plan.entryId)).toBe(true);
  node.save(plan);
  expect(node.plan(second).plan.restore?.path).toContain(join(root, 'disk'));
  expect(node.plan(talk('other', 'a', 'b')).plan.restore?.path).toContain(join(root, 'host'));
  const { host, disk } = node.cache.stats().tiers;
  expect(host.bytes + host.reservedBytes).toBeLessThanOrEqual(host.budgetBytes);
  expect(disk.entries).toBe(1);
  expect(node.cache.stats().bytesMoved.toDisk).toBe(disk.bytes);
  await node.close();
});

test('a preempted request goes on from its own state', async () => {
  const node = new Node();
  await node.cache.ready;
  const { id, plan } = node.plan(first);
  expect(node.cache.preempting(id, 10, FILE_BYTES)).toBeNull();
  const grant = node.cache.preempting(id, 1000, FILE_BYTES);
  expect(grant).toMatchObject({ entryId: plan.entryId, bytes: FILE_BYTES });
  if (grant !== null) node.grants.set(plan.entryId, grant);
  node.keep(plan);
  node.save(plan);
  expect(node.cache.planOf(id)?.restore?.path).toBe(grant?.path);
  await node.close();
});

test('what ends after its request has ended is kept all the same', async () => {
  const node = new Node();
  await node.cache.ready;
  const { id, plan } = node.plan(first);
  node.cache.ended(id);
  node.keep(plan);
  expect(node.grants.has(plan.entryId)).toBe(true);
  await node.close();
});

test('a forgotten tenant: nothing on disk, nothing found, and what lies on devices is named', async () => {
  const node = new Node();
  await node.cache.ready;
  const saved = node.turn(first);
  const { plan } = node.plan(talk('live'));
  node.keep(plan);
  node.turn(talk('stays'), { tenant: 'tenant b' });
  expect(node.cache.forgetTenant(A)).toEqual([{ modelId: M, entryId: plan.entryId }]);
  const folder = dirname(node.grants.get(saved.entryId)?.path ?? '');
  await expect.poll(() => existsSync(folder)).toBe(false);
  expect(node.plan(second).plan.restore).toBeNull();
  expect(node.plan(talk('stays', 'a', 'b'), { tenant: 'tenant b' }).plan.restore).not.toBeNull();
  await node.close();
});

test('without tiers it plans, grants nothing, and knows what lies on the device', async () => {
  const node = new Node({});
  await node.cache.ready;
  const { plan } = node.plan(first);
  node.keep(plan);
  expect(node.grants.size).toBe(0);
  expect(node.cache.stats().tiers.device.entries).toBe(1);
  await node.close();
});

test('a folder that can’t be made turns its tier off, with a word', async () => {
  writeFileSync(join(root, 'host'), 'a file');
  const node = new Node({ host: 1e7 });
  await node.cache.ready;
  expect(warnings).toHaveLength(1);
  node.keep(node.plan(first).plan);
  expect(node.grants.size).toBe(0);
  await node.close();
});

test('after closing nothing is planned or granted, and late word is harmless', async () => {
  const node = new Node();
  const { id, plan } = node.plan(first);
  await node.close();
  await node.close();
  node.keep(plan);
  expect(node.grants.size).toBe(0);
  expect(node.cache.planOf(id)).toBeNull();
  expect(node.cache.preempting(id, 1000, 10)).toBeNull();
  node.cache.died(M);
});

test('out of time, what lies in memory is deleted rather than waited for', async () => {
  const node = new Node();
  await node.cache.ready;
  node.turn(first);
  await node.cache.close(node.now - 1);
  expect(existsSync(join(root, 'host'))).toBe(false);
});
