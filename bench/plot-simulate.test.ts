import { expect, test } from 'vitest';
import { plot } from './lib/plot.ts';
import type { Published } from './lib/results.ts';
import { resultsBlock } from './lib/results.ts';

const row = (what: string, metric: string, berth: number, peer?: number): Published['rows'][number] => ({
  case: what,
  metric,
  unit: '%',
  berth,
  ...(peer === undefined ? {} : { peer }),
});
const published = (name: string, rows: Published['rows']): Published => ({
  name,
  machine: 'm',
  commit: 'c',
  builds: {},
  rows,
});
const marks = (svg: string | null, kind: 'point' | 'bar'): number =>
  (svg ?? '').split(`aria-roledescription="${kind}"`).length - 1;

test('simulated results have pictures', async () => {
  const aegaeon = published('simulate-aegaeon', [
    row('40-0.4, targets × 1', 'requests all in time (bound: 4 GPUs)', 100, 98),
    row('40-0.4, targets × 0.3', 'requests all in time (bound: 8 GPUs)', 81, 9),
    row('40-0.4, targets × 1', 'TTFT p50', 1, 3),
  ]);
  expect(marks(await plot(aegaeon), 'bar')).toBe(4);
  const honest = published('simulate-honest', [
    row('80-0.1, honest', 'requests all in time', 100),
    row('80-0.1, honest', 'requests all in time, peer static', 100, 40),
    row('80-0.1, honest', 'goodput, peer static', 100, 40),
  ]);
  expect(marks(await plot(honest), 'bar')).toBe(2);
  const prefixes = published('simulate-prefixes', [row('room for 500 blocks of 512 tokens', 'blocks at hand', 4, 5)]);
  expect(marks(await plot(prefixes), 'point')).toBe(2);
  const speed = published('simulate-speed', [
    row('10000 requests', 'CPU time', 1),
    row('30000 requests', 'CPU time', 3),
  ]);
  expect(marks(await plot(speed), 'point')).toBe(2);
});

test('of the simulated results both metrics are published, with and without a bar', () => {
  const metrics = ['requests all in time', 'time-QoS', 'goodput', 'fairness gap'].map(
    (what) => `${what}, peer aegaeon-2s`,
  );
  const honest = published('simulate-honest', [
    ...metrics.map((metric) => row('Azure, 200 models, resident', metric, 99, 97)),
    row('Azure, 200 models, resident', 'goodput, peer fcfs', 99, 60),
    row('80-0.5, resident', 'goodput, peer aegaeon-2s', 99, 60),
  ]);
  const shown = resultsBlock([honest])
    .split('\n')
    .filter((line) => line.startsWith('| `simulate-honest`'));
  expect(shown.map((line) => line.split(' | ')[1])).toEqual(
    metrics.map((metric) => `Azure, 200 models, resident: ${metric}`),
  );
  const aegaeon = published('simulate-aegaeon', [
    row('80-0.1, targets × 1', 'time-QoS', 100, 97),
    row('80-0.1, targets × 1, no spill: each model at home only', 'requests all in time, peer: with spill', 99, 100),
    row('80-0.1, targets × 1', 'TTFT p50', 1, 3),
  ]);
  const block = resultsBlock([aegaeon]);
  expect(block).toContain('80-0.1, targets × 1: time-QoS | 100 % | 97 %');
  expect(block).toContain('no spill: each model at home only: requests all in time, peer: with spill | 99 % | 100 %');
  expect(block).not.toContain('TTFT p50');
});
