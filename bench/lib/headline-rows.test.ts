import { expect, it } from 'vitest';
import type { LoadRecord } from '../../src/load/driver.ts';
import { table } from '../harness.ts';
import type { Level, Played } from './headline-rows.ts';
import { rowsOf, tokensWithin } from './headline-rows.ts';
import { plot } from './plot.ts';

const SECOND = 1_000_000;
const overhead = { lagP99Micros: 0, lagMostMicros: 0, loopDelayP99Micros: 0, loopDelayMostMicros: 0, cpuShare: 0 };
/** Its first token after so many seconds, then one every 50 ms; null: it was cut off after 60 s without one. */
const record = (seconds: number | null, model = 'm01'): LoadRecord => ({
  conversation: 0,
  turn: 0,
  model,
  tenant: 'default',
  priority: 'interactive',
  intendedAt: 0,
  sentAt: 0,
  piecesAt: seconds === null ? [] : [0, 1, 2].map((index) => seconds * SECOND + index * 50_000),
  endedAt: seconds === null ? 60 * SECOND : seconds * SECOND + 100_000,
  outcome: seconds === null ? 'cut_off' : 'done',
  promptTokens: 120,
  cachedTokens: 0,
  outputTokens: seconds === null ? 0 : 3,
});
const played = (records: readonly LoadRecord[], switches: number | null = 3): Played => ({
  records,
  unsent: 0,
  elapsedMicros: 20 * SECOND,
  overhead,
  switches,
});
const level = (percent: number, all: Readonly<Record<string, readonly LoadRecord[]>>): Level => ({
  percent,
  loadMicros: 10 * SECOND,
  played: new Map(Object.entries(all).map(([name, records]) => [name, played(records)])),
});
const LEVELS = [60, 90].map((percent) =>
  level(percent, {
    berth: [record(0.5), record(1), record(1, 'm24'), record(3, 'm24')],
    'router -t 1': [record(1), record(12), record(12, 'm24'), record(null, 'm24')],
    'router -t 2': [record(9), record(9), record(9, 'm24'), record(9, 'm24')],
  }),
);
const find = (rows: ReturnType<typeof rowsOf>, percent: number, metric: string) =>
  rows.find((row) => row.case === `${percent} % of capacity` && row.metric === metric);

it('has its bars at the higher load, against whoever of the peers is better at each', () => {
  const rows = rowsOf(LEVELS, new Set(['m24']));
  expect(rows.filter(({ bar }) => bar !== undefined)).toEqual([
    expect.objectContaining({
      case: '90 % of capacity',
      metric: 'TTFT p99, better of the peers',
      berth: 3_000,
      peer: 9_000,
      pass: true,
    }),
    expect.objectContaining({ metric: 'good requests, better of the peers', berth: 0.3, peer: 0.1, pass: true }),
  ]);
});

it('counts what was cut off as missed, and as having waited so long', () => {
  const rows = rowsOf(LEVELS, new Set(['m24']));
  const router = (metric: string) => find(rows, 60, `${metric}, peer router -t 1`)?.peer;
  expect(router('TTFT p99')).toBe(60_000);
  expect(router('TTFT p50 of the rarest half')).toBe(12_000);
  expect(router('good requests')).toBe(0.1);
  expect(router('good requests, of those sent')).toBe(25);
  expect(router('output')).toBe(9 / 20);
  expect(router('requests cut off a minute after the load')).toBe(1);
  expect(router('requests refused or failed')).toBe(0);
});

it('misses a bar if nothing was good, and has none without a peer', () => {
  const nothing = [level(90, { berth: [record(9)], 'router -t 1': [record(9)] })];
  expect(rowsOf(nothing, new Set()).filter(({ pass }) => pass === false)).toHaveLength(2);
  const alone = rowsOf([level(90, { berth: [record(1)] })], new Set());
  expect(alone.some(({ bar, peer }) => bar !== undefined || peer !== undefined)).toBe(false);
  expect(find(alone, 90, 'TTFT p50')?.berth).toBe(1_000);
});

it('counts tokens by when they came, half an answer by half', () => {
  const whole = { ...record(1), outputTokens: 6 };
  expect(tokensWithin([whole, record(null)], 0, 2 * SECOND)).toBe(6);
  expect(tokensWithin([whole, whole], 1.02 * SECOND, 1.1 * SECOND)).toBe(4);
  expect(tokensWithin([whole], 0, SECOND)).toBe(0);
});

it('is drawn: a curve for each program and load', async () => {
  const result = {
    name: 'headline',
    machine: '2 × Some CPU',
    commit: 'abc1234',
    builds: { capacityRequestsPerSecond: 2.5 },
    rows: rowsOf(LEVELS, new Set(['m24'])),
  };
  expect(table(result)).toContain('kept');
  const svg = (await plot(result)) ?? '';
  // Three programs, two loads, seven percentiles.
  expect(svg.split('aria-roledescription="point"')).toHaveLength(1 + 3 * 2 * 7);
  for (const name of ['Berth', 'llama-server -t 1', 'llama-server -t 2', '90 % of capacity', '2.50 requests/s'])
    expect(svg).toContain(name);
});

it('tells the good ones by the longest gap, and by the mean of them', () => {
  const halting = { ...record(1), piecesAt: [1, 1.3, 1.31].map((at) => at * SECOND), endedAt: 1.31 * SECOND };
  const rows = rowsOf([level(90, { berth: [record(1), halting] })], new Set());
  expect(find(rows, 90, 'good requests')?.berth).toBe(0.1);
  expect(find(rows, 90, 'good requests, gaps on average')?.berth).toBe(0.2);
});
