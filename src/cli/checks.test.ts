import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { loadConfig } from '../config.ts';
import type { BerthConfig } from '../config.ts';
import { configCheck, engineCheck, folderChecks, machineChecks, nodeCheck, portChecks } from './checks.ts';
import { render } from './commands/doctor.ts';
import { listen, StubNode } from './stub-node.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'berth-doctor-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const machine = {
  totalMemoryBytes: 8 * 2 ** 30,
  usableMemoryBytes: 4 * 2 ** 30,
  cores: 2,
  home: '/h',
  packageDir: '/p',
};
const configOf = (flags: Record<string, string> = {}): BerthConfig =>
  loadConfig({ path: null, env: {}, cwd: folder, machine, flags }).config;
const statuses = (checks: readonly { status: string }[]): string[] => checks.map(({ status }) => status);

test('Node is new enough, or it says how to get the right one', () => {
  expect(nodeCheck('24.21.0').status).toBe('ok');
  expect(nodeCheck('22.18.0').status).toBe('warn');
  expect(nodeCheck('20.19.0')).toMatchObject({
    status: 'fail',
    code: 'engine_mismatch',
    advice: expect.stringContaining('npm start') as string,
  });
});

test('a library that doesn’t load, or ends its process, is a failed check', async () => {
  const binding = (text: string): string => {
    const path = join(folder, 'binding.mjs');
    writeFileSync(path, text);
    return pathToFileURL(path).href;
  };
  expect(await engineCheck(binding('export const openLlama = () => ({ version: "1.2" })'))).toMatchObject({
    status: 'ok',
    message: 'llama.cpp 1.2 loads and fits',
  });
  expect((await engineCheck(binding('throw new Error("no such library")'))).message).toContain('no such library');
  expect(
    (await engineCheck(binding('process.kill(process.pid, "SIGSEGV"); await new Promise(() => {})'))).message,
  ).toContain('SIGSEGV');
});

test('a configuration that can’t be used fails with all of its errors', () => {
  const path = join(folder, 'berth.yaml');
  writeFileSync(path, 'device: {memory: 0, lanes: 0}\n');
  const { check, loaded } = configCheck(() => loadConfig({ path, env: {}, cwd: folder, machine }));
  expect(loaded).toBeNull();
  expect(check).toMatchObject({
    status: 'fail',
    code: 'config_invalid',
    message: expect.stringMatching(/memory.*\n.*lanes/) as string,
  });
});

test('more memory or lanes than there are is a warning', () => {
  expect(statuses(machineChecks(configOf(), machine))).toEqual(['ok', 'ok']);
  expect(statuses(machineChecks(configOf({ 'device.memory': '5GiB', 'device.lanes': '3' }), machine))).toEqual([
    'warn',
    'warn',
  ]);
  expect(machineChecks(configOf(), machine)[0]?.message).toBe(
    '2.8 GiB for models, of 8 GiB, 4 GiB by the control group',
  );
});

test('the models folder: missing, empty, with a broken file', async () => {
  const modelsDir = join(folder, 'models');
  expect((await folderChecks(configOf({ modelsDir })))[0]).toMatchObject({
    status: 'warn',
    message: expect.stringContaining("doesn't exist") as string,
  });
  expect((await folderChecks(configOf({ modelsDir: folder })))[0]).toMatchObject({
    status: 'warn',
    message: expect.stringContaining('no model') as string,
  });
  writeFileSync(join(folder, 'bad.gguf'), 'GGUF');
  expect((await folderChecks(configOf({ modelsDir: folder })))[0]).toMatchObject({
    status: 'fail',
    code: 'model_file_invalid',
    message: expect.stringContaining('bad.gguf') as string,
  });
});

test('a port is free, a node’s, or another program’s', async () => {
  const node = await listen(new StubNode([]));
  const other = createServer((_, response) => response.writeHead(404).end()).listen(0, '127.0.0.1');
  await new Promise((resolve) => other.once('listening', resolve));
  const taken = (other.address() as AddressInfo).port;
  expect(
    statuses(await portChecks(configOf({ 'http.port': String(node.port), 'http.adminPort': String(taken) }))),
  ).toEqual(['ok', 'fail']);
  await node.close();
  expect(await portChecks(configOf({ 'http.port': String(node.port), 'http.adminPort': '0' }))).toMatchObject([
    { message: `127.0.0.1:${node.port} is free` },
    { message: 'a free one is taken' },
  ]);
  other.close();
});

test('what to do stands below what is wrong', () => {
  const shown = render(
    [
      { name: 'node', status: 'ok', message: 'Node 24', advice: null, code: 'internal' },
      { name: 'models', status: 'fail', message: 'broken', advice: 'Pull it again.', code: 'model_file_invalid' },
    ],
    false,
  );
  expect(shown).toBe('ok    node    Node 24\nfail  models  broken\n              → Pull it again.\n');
});
