/**
 * Every benchmark still runs: each for seconds with the fake engine, so that none rots between two publications. What they measure
 * here means nothing.
 */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { TINY_METADATA, tinyGguf } from '../test/tiny-gguf.ts';
import type { Bench } from './harness.ts';

const RUN = [
  'core',
  'gateway',
  'coldstart',
  'overcommit',
  'hot-models',
  'concurrency',
  'neighbours',
  'embeddings',
  'conversations',
  'headline',
  'cross-check',
  'fairness',
  'mixed',
  'simulate-predict',
];

/** Those that the fake engine can't serve, and why. */
const NOT_RUN: Readonly<Record<string, string>> = {
  'kv-exact': 'compares the texts of real runners, which it drives without a node',
  'kv-return': 'the fake engine keeps no KV, so that nothing could be read back',
  isolation: 'the fake engine keeps no KV, so that nothing could be found in a cache',
  survive: 'kills the process of a runner; the fake engine has none',
  ledger: 'kills the process of a runner; the fake engine has none',
  'simulate-aegaeon': 'needs public traces that are not in the repository; src/sim has tests of its own',
  'simulate-honest': 'needs public traces that are not in the repository',
  'simulate-prefixes': 'needs public traces that are not in the repository',
  'simulate-speed': 'needs the cluster of a public artifact that is not in the repository',
};

const folder = mkdtempSync(join(tmpdir(), 'berth-smoke-'));
beforeAll(() => {
  // Files with a header and next to no weights, under the names of the two models.
  const metadata = { ...TINY_METADATA, 'llama.context_length': 8192, 'tokenizer.chat_template': '{{ messages }}' };
  for (const name of ['smollm2-135m.gguf', 'gemma3-270m.gguf'])
    writeFileSync(join(folder, name), tinyGguf({ metadata }));
  vi.stubEnv('BERTH_TEST_MODELS', folder);
  vi.stubEnv('BERTH_BENCH_ENGINE', 'fake');
});
afterAll(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

test('each benchmark is run here, or it is said why not', () => {
  const files = readdirSync(import.meta.dirname).filter((file) => file.endsWith('.ts') && !file.includes('.test.'));
  const names = files.map((file) => file.slice(0, -'.ts'.length)).filter((name) => !['main', 'harness'].includes(name));
  expect([...RUN, ...Object.keys(NOT_RUN)].toSorted()).toEqual(names.toSorted());
});

test.each(RUN)('%s', async (name) => {
  const bench = (await import(pathToFileURL(join(import.meta.dirname, `${name}.ts`)).href)) as Bench;
  const { name: own, rows } = await bench.run({ quick: true, fake: true, peers: {} });
  expect(own).toBe(name);
  expect(rows.length).toBeGreaterThan(0);
  for (const row of rows) expect(typeof row.berth).toBe('number');
  expect(rows.some(({ berth }) => Number.isFinite(berth) && berth > 0)).toBe(true);
});
