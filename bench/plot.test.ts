import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { PLOTTED, plot } from './lib/plot.ts';
import type { Published } from './lib/results.ts';
import { readResults } from './lib/results.ts';

const published = (name: string, rows: Published['rows']): Published => ({
  name,
  machine: '2 × Some CPU, 24 GiB, linux-x64',
  commit: 'abc1234',
  builds: {},
  rows,
});

const row = (what: string, metric: string, berth: number | null, peer?: number): Published['rows'][number] => ({
  case: what,
  metric,
  unit: '',
  berth,
  ...(peer === undefined ? {} : { peer, ratio: 1 }),
});

/** How many points or bars it shows: each says what it is for those who can't see it. */
const marks = (svg: string, kind: 'point' | 'bar'): number => svg.split(`aria-roledescription="${kind}"`).length - 1;

const hot = published('hot-models', [
  row('1 busy model', 'in all, peer router -t 1', 160, 80),
  row('1 busy model', 'in all, peer router -t 2', 160, 140),
  row('1 busy model', 'in all, better of the two', 160, 140),
  row('4 busy models', 'in all, peer router -t 1', 197, 166),
  row('4 busy models', 'in all, peer router -t 2', 197, 27),
  row('4 busy models', 'device idle while work waits', 1.2),
]);

describe('the plots', () => {
  it('show each contender once per number of busy models', async () => {
    const svg = (await plot(hot)) ?? '';
    expect(svg).toMatch(/^<svg .*<\/svg>\n$/s);
    expect(marks(svg, 'point')).toBe(6);
    for (const name of ['Berth', 'llama-server -t 1', 'llama-server -t 2', 'Some CPU']) expect(svg).toContain(name);
  });

  it('show a panel for each model', async () => {
    const svg = await plot(
      published('concurrency', [
        row('smollm2, 1 in flight', 'in all', 160, 150),
        row('smollm2, 4 in flight', 'in all', 250, 230),
        row('smollm2, 4 in flight', 'added by slicing: against the ungated runner', 250, 251),
        row('gemma, 1 in flight', 'in all', 100, 99),
      ]),
    );
    expect(marks(svg ?? '', 'point')).toBe(6);
    expect((svg ?? '').indexOf('>smollm2<')).toBeLessThan((svg ?? '').indexOf('>gemma<'));
  });

  it('show p50 and p99 of what a person notices, and what could not be measured not at all', async () => {
    const svg = await plot(
      published('neighbours', [
        row('three', 'TTFT p50, peer router -t 1', 200, 300),
        row('three', 'TTFT p95, peer router -t 1', 300, 400),
        row('three', 'inter-token p99, peer router -t 1', 100, 120),
        row('three', '/health p99, peer router -t 1', 2, 200),
        row('one', 'inter-token p99, peer router -t 1', null, 90),
      ]),
    );
    expect(marks(svg ?? '', 'bar')).toBe(5);
  });

  it('show rate and latency by window', async () => {
    const rows = [0, 3].flatMap((window) => [
      row(`64 in flight, window ${window} ms`, 'embeddings', 70 + window),
      row(`64 in flight, window ${window} ms`, 'latency p50', 900 - window),
    ]);
    const svg = await plot(published('embeddings', [row('64 in flight', 'embeddings', 73, 70), ...rows]));
    expect(marks(svg ?? '', 'point')).toBe(4);
  });

  it('show a next turn by where its KV was, and computed again once', async () => {
    const rows = ['256', '1,024'].flatMap((tokens) =>
      ['on the device', 'on disk'].map((where) =>
        row(`SmolLM2, ${tokens} tokens`, `TTFT, KV ${where}; peer: computed again`, 90, 3_000),
      ),
    );
    const svg =
      (await plot(published('kv-return', [...rows, row('SmolLM2, 256 tokens', 'restore, KV on disk', 4)]))) ?? '';
    expect(marks(svg, 'point')).toBe(6);
    for (const name of ['on the device', 'on disk', 'computed again']) expect(svg).toContain(name);
  });

  it('show first tokens and prefill of conversations by contender', async () => {
    const rows = ['Berth without KV tiers', 'router -t 1'].flatMap((peer) => [
      row('200', `TTFT p50, peer ${peer}`, 200, 400),
      row('200', `TTFT p95, peer ${peer}`, 900, 2_000),
      row('200', `turns, peer ${peer}`, 6, 3),
      row('200', `prefill computed, of the prompts, peer ${peer}`, 20, 60),
    ]);
    const least = row('200', 'prefill that could be saved, of the prompts', 85);
    const svg = (await plot(published('conversations', [...rows, least]))) ?? '';
    expect(marks(svg, 'bar')).toBe(9);
    for (const name of ['Berth without KV tiers', 'llama-server -t 1']) expect(svg).toContain(name);
  });

  it('show the gap of service by scenario and number of tenants, and its bound', async () => {
    const rows = ['overload, 2 tenants', 'on/off, 2 tenants', 'overload, 8 tenants'].map((what) => ({
      ...row(what, 'service gap, peer FCFS', 300, 2_100),
      bar: '≤ 1536',
    }));
    const svg = (await plot(published('fairness', [...rows, row('a neighbour', 'interactive TTFT p50', 1, 2)]))) ?? '';
    expect(marks(svg, 'bar')).toBe(6);
    for (const name of ['first come, first served', '2 tenants', '8 tenants', 'on/off']) expect(svg).toContain(name);
  });

  it('are drawn for some benchmarks only, the same each time', async () => {
    expect(await plot(published('core', []))).toBeNull();
    expect(await plot(hot)).toBe(await plot(hot));
  });

  it('are what the published files say (else: node_modules/.bin/node scripts/plots.mjs)', async () => {
    for (const result of readResults(join(import.meta.dirname, 'results'))) {
      const picture = await plot(result);
      if (picture === null) continue;
      const file = join(import.meta.dirname, '..', 'docs', 'img', `${result.name}.svg`);
      expect(existsSync(file) && readFileSync(file, 'utf8') === picture, `docs/img/${result.name}.svg`).toBe(true);
    }
    expect(PLOTTED).toContain('hot-models');
  });
});
