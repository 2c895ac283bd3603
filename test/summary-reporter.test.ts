import { spawnSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { summaryLine } from './summary-reporter.ts';

const vitest = path.join(import.meta.dirname, '..', 'node_modules', 'vitest', 'vitest.mjs');
const reporter = path.join(import.meta.dirname, 'summary-reporter.ts');

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'berth-reporter-'));
});
afterAll(() => rm(folder, { recursive: true }));

test('the last line counts what a run of every kind of failure leaves', async () => {
  const files = {
    'good.test.js': `test('a', () => {}); test('b', () => {}); test.skip('c', () => {});`,
    'bad.test.js': `test('d', () => { throw new Error('no'); });`,
    'import.test.js': `import './nowhere.js'; test('never', () => {});`,
    'hook.test.js': `describe('e', () => { beforeAll(() => { throw new Error('hook'); }); test('never', () => {}); });`,
    'stray.test.js': `test('f', () => { setTimeout(() => { throw new Error('stray'); }); return new Promise((resolve) => setTimeout(resolve, 20)); });`,
  };
  for (const [name, text] of Object.entries(files)) await writeFile(path.join(folder, name), text);
  const args = [vitest, 'run', '--root', folder, '--globals', '--reporter=default', `--reporter=${reporter}`];
  const { stdout, status } = spawnSync(process.execPath, args, {
    encoding: 'utf8',
    env: { ...process.env, NO_COLOR: '1' },
  });
  const last = /^(\d+) passed, (\d+) failed, (\d+) skipped$/.exec(stdout.trimEnd().split('\n').at(-1) ?? '');
  const [passed, failed, skipped] = (last ?? []).slice(1).map(Number);
  // a, b and f passed; d, the import, the hook and the stray error each failed.
  expect({ passed, failed, status }).toEqual({ passed: 3, failed: 4, status: 1 });
  expect(skipped).toBeGreaterThanOrEqual(1);
});

test('a clean run has no word of skipped tests', () => {
  expect(summaryLine({ passed: 3, failed: 0, skipped: 0 })).toBe('3 passed, 0 failed');
});
