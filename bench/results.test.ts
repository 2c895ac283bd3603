import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readResults, resultsBlock, summaryBlock, withBlock } from './lib/results.ts';

const folder = join(import.meta.dirname, 'results');
const page = (name: string): string => readFileSync(join(import.meta.dirname, '..', name), 'utf8');

const coldstart = {
  name: 'coldstart',
  machine: '2 × Some CPU, 24 GiB, linux-x64',
  commit: 'abc1234',
  builds: { node: 'v24.0.0', peer: 'llama-server 9999' },
  rows: [
    {
      case: 'small',
      metric: 'first token',
      unit: 'ms',
      berth: 151.2,
      peer: 351,
      ratio: 0.4308,
      bar: '≤ 0.5',
      pass: true,
    },
    {
      case: 'large',
      metric: 'first token',
      unit: 'ms',
      berth: 900,
      peer: 973,
      ratio: 0.925,
      bar: '≤ 0.6',
      pass: false,
    },
    { case: 'small, loaded', metric: 'first token', unit: 'ms', berth: 30 },
  ],
};

test('the pages’ results are what the files say (else: node_modules/.bin/node scripts/results.mjs)', () => {
  const results = readResults(folder);
  expect(withBlock(page('README.md'), summaryBlock(results))).toBe(page('README.md'));
  expect(withBlock(page('docs/results.md'), resultsBlock(results))).toBe(page('docs/results.md'));
});

test('the README has a line for each benchmark, with the bars that were kept', () => {
  expect(summaryBlock([coldstart])).toBe(`| | for example | Berth | peer | ratio | bars kept |
|---|---|--:|--:|--:|--:|
| \`coldstart\` | small: first token | 151 ms | 351 ms | 0.431 | 1 of 2 |`);
});

test('published files name no path of the machine', () => {
  expect(JSON.stringify(readResults(folder))).not.toMatch(/"[^"]*\/(?:home|root|work|tmp|Users|usr|opt|var|mnt)\//);
});

test('kept and missed bars stand side by side, rows without a bar are left out, and what is missing is named', () => {
  const [table, origin, missing] = resultsBlock([coldstart]).split('\n\n');
  expect(table).toBe(`| | what | Berth | peer | ratio | bar | |
|---|---|--:|--:|--:|---|---|
| \`coldstart\` | small: first token | 151 ms | 351 ms | 0.431 | ≤ 0.5 | kept |
| \`coldstart\` | large: first token | 900 ms | 973 ms | 0.925 | ≤ 0.6 | **missed** |`);
  expect(origin).toBe(
    'Measured on 2 × Some CPU, 24 GiB, linux-x64, at commit abc1234. The peer is llama-server 9999, measured in the same run.',
  );
  expect(missing).toMatch(/^Not measured yet: `headline`, .*`hot-models`, .*`core` \(`npm run bench -- NAME`\)\.$/);
  expect(missing).not.toContain('coldstart');
  expect(resultsBlock([])).toMatch(/^Not measured yet: `headline`, `overcommit`, /);
});

test('results of another machine or commit are told apart', () => {
  const other = { ...coldstart, name: 'core', commit: 'def5678', builds: { node: 'v24.0.0' } };
  expect(resultsBlock([coldstart, other])).toContain(
    'Measured on 2 × Some CPU, 24 GiB, linux-x64: `coldstart` (abc1234), `core` (def5678).',
  );
});

test('a file that is no measurement is refused, by name', () => {
  const odd = mkdtempSync(join(tmpdir(), 'berth-results-'));
  const put = (content: unknown): void => writeFileSync(join(odd, 'coldstart.json'), JSON.stringify(content));
  try {
    expect(readResults(odd)).toEqual([]);
    put(coldstart);
    expect(readResults(odd)).toEqual([coldstart]);
    const later = { ...coldstart, name: 'brand-new' };
    writeFileSync(join(odd, 'brand-new.json'), JSON.stringify(later));
    expect(readResults(odd)).toEqual([coldstart, later]);
    put({ ...coldstart, builds: { quick: 'yes' } });
    expect(() => readResults(odd)).toThrow(/coldstart\.json was measured with --quick/);
    put({ ...coldstart, name: 'core' });
    expect(() => readResults(odd)).toThrow(/coldstart\.json holds the results of core/);
    put([coldstart]);
    expect(() => readResults(odd)).toThrow(/coldstart\.json: /);
  } finally {
    rmSync(odd, { recursive: true, force: true });
  }
});

test('a README without the markers is told', () => expect(() => withBlock('# Berth', '')).toThrow(/markers/));
