/** `berth tenants`, `keys` and `usage` against the real gateway, directory and database, with a stub node behind them. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { loadConfig } from '../../config.ts';
import type { Listening } from '../../gateway/listen.ts';
import { createLog } from '../../runtime/log.ts';
import { cli, listen, stubModel, StubNode } from '../stub-node.ts';
import type { Tenancy } from '../tenancy.ts';
import { openTenancy } from '../tenancy.ts';

const root = mkdtempSync(join(tmpdir(), 'berth-tenants-'));
let tenancy: Tenancy;
let at: Listening;
let changes = 0;
beforeAll(async () => {
  const { config } = loadConfig({ path: null, env: { BERTH_HOME: root } });
  const priced = { ...config, models: [] };
  const node = new StubNode([stubModel('smol'), stubModel('big')]);
  tenancy = openTenancy(priced, node, createLog('silent'), () => changes++);
  at = await listen(node, {
    gateway: { auth: tenancy.auth, keyed: tenancy.keyed(), gate: tenancy.gate },
    admin: { tenancy: tenancy.admin, metrics: tenancy.metrics },
  });
});
afterAll(async () => {
  await at.close();
  tenancy.close();
  rmSync(root, { recursive: true });
});
beforeEach(() => {
  changes = 0;
});

const run = async (...line: string[]) => {
  const { code, out, err } = await cli(at, line);
  expect([code, line, err.startsWith('error') ? err : '']).toEqual([0, line, '']);
  return { out, err };
};
const ask = (key: string, model = 'smol') => cli(at, ['run', model, 'hello', '--api-key', key]);

test('the first tenant says that keys are needed from now on, and is shown', async () => {
  expect((await run('tenants', 'ls')).err).toContain('No key is needed yet');
  const { out, err } = await run(
    'tenants',
    'add',
    'acme',
    '--weight',
    '3',
    '--models',
    'smol*',
    '--budget',
    '1M/month',
  );
  expect(out).toContain('berth keys create --tenant acme');
  expect(err).toContain('every request needs a key');
  expect(changes).toBe(1);
  expect((await run('tenants', 'ls')).out).toMatch(/acme +acme +3 +0 +1000000\/month tokens +smol\* +berth\.db/);
  expect((await run('tenants', 'show', 'acme')).out).toMatch(
    /Budget +0 of 1000000 tokens spent, 0 promised, anew in \d+ days?/,
  );
  expect((await ask('x')).code).toBe(4);
});

test('a key works, sees its tenant’s models, is used and billed, is rotated, is revoked', async () => {
  const secret = (await run('keys', 'create', '--tenant', 'acme', '--name', 'ci', '--expires', '30d')).out.trim();
  expect(secret).toMatch(/^bt-/);
  expect((await ask(secret)).out).toContain('Hello there.');
  expect((await ask(secret, 'big')).code).toBe(5);
  const listed = (await run('keys', 'ls')).out;
  expect(listed).toMatch(/key_[0-9a-f]{16} +acme +ci +bt-\S{5}… +valid for 30 days +just now +- +all/);
  expect(listed).not.toContain(secret);
  const id = (await run('keys', 'ls', '-q', '--tenant', 'acme')).out.trim();

  const used = (await run('usage', '--by', 'tenant,key,model')).out;
  expect(used).toMatch(/TENANT +KEY +MODEL +REQUESTS/);
  expect(used).toMatch(new RegExp(`acme +${id} +smol +1 +9 +0 +11 `));
  expect((await run('usage', '--by', 'day', '--csv', '--since', '1d')).out).toMatch(
    /^day,requests,input_tokens,[^\n]*cost\r\n\d{4}-\d\d-\d\d,1,9,0,11,/,
  );
  expect(JSON.parse((await run('usage', '--json', '--tenant', 'nobody')).out)).toEqual([]);

  const fresh = (await run('keys', 'rotate', id)).out.trim();
  expect([(await ask(secret)).code, (await ask(fresh)).code]).toEqual([4, 0]);
  const freshId = (await run('keys', 'ls', '-q', '--tenant', 'acme')).out.trim();
  await run('keys', 'revoke', freshId);
  expect((await ask(fresh)).code).toBe(4);
  expect((await run('keys', 'ls')).out.trim().split('\n')).toHaveLength(1);
  expect((await run('keys', 'ls', '--all')).out).toMatch(/revoked/);
});

test('limits are set and taken back, and hold at once', async () => {
  const secret = (await run('keys', 'create', '--tenant', 'acme')).out.trim();
  await run('tenants', 'set', 'acme', '--requests-per-minute', '1');
  expect((await run('tenants', 'show', 'acme')).out).toContain('1 req/min, 1000000/month tokens');
  expect((await ask(secret)).code).toBe(0);
  const refused = await ask(secret);
  expect(refused).toMatchObject({ code: 6 });
  expect(refused.err).toContain('error: The tenant may use 1 requests a minute.');
  await run('tenants', 'set', 'acme', '--requests-per-minute', 'none', '--budget', '0/day');
  expect((await ask(secret)).err).toContain('has spent its budget of 0 tokens');
  await run('tenants', 'set', 'acme', '--budget', 'none', '--disable');
  expect((await ask(secret)).err).toContain('disabled');
  expect(tenancy.metrics()).toContain('berth_limit_refusals_total{limit="requests"} 1');
});

test('a removed tenant is gone, its keys too, its usage stays', async () => {
  await run('tenants', 'rm', 'acme');
  expect((await run('tenants', 'ls', '-q')).out).toBe('default\n');
  expect((await run('usage', '--by', 'tenant')).out).toContain('acme');
  expect((await cli(at, ['tenants', 'show', 'acme'])).code).toBe(5);
});

test.each([
  [['tenants', 'add', 'No Good'], /must be a short name/],
  [['tenants', 'add', 'default'], /is there already/],
  [['tenants', 'add', 'x', '--budget', '5/week'], /--budget: expected such as 5M\/month or none/],
  [['tenants', 'add', 'x', '--tokens-per-minute', 'many'], /--tokens-per-minute: expected a number/],
  [['tenants', 'add', 'x', '--weight', '0'], /`weight` must be at least 1/],
  [['keys', 'create', '--tenant', 'nobody'], /There is no tenant "nobody"/],
  [['keys', 'create', '--expires', 'soon'], /--expires: expected a duration/],
  [['keys', 'revoke', 'key_0'], /There is no key "key_0"/],
  [['usage', '--by', 'colour'], /`by` takes tenant, key, model, day, kind/],
  [['usage', '--since', 'yesterday-ish'], /--since: expected a day/],
])('%j is told', async (line, message) => {
  const { code, err } = await cli(at, line);
  expect(code).toBeGreaterThan(0);
  expect(err).toMatch(message);
});
