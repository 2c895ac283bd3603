import { expect, test } from 'vitest';
import { tenantId } from '../core/ids.ts';
import { createUsageWriter } from './usage-writer.ts';
import type { UsageRow } from './usage.ts';

const row = (at: number): UsageRow => ({
  at,
  kind: 'request',
  tenantId: tenantId('t'),
  keyId: null,
  modelId: null,
  requestId: null,
  outcome: 'stop',
  inputTokens: 0,
  cachedTokens: 0,
  outputTokens: 0,
  queueMicros: 0,
  loadMicros: 0,
  restoreMicros: 0,
  prefillMicros: 0,
  decodeMicros: 0,
  laneMicros: 0,
  costNanos: 0,
});

function writer(options: { fails?: () => boolean; rowsPerFlush?: number; mostRows?: number } = {}) {
  const written: number[][] = [];
  const errors: string[] = [];
  const timers: { millis: number; run: () => void }[] = [];
  const soon: (() => void)[] = [];
  const made = createUsageWriter({
    rowsPerFlush: options.rowsPerFlush ?? 10,
    mostRows: options.mostRows ?? 10,
    write: (rows) => {
      if (options.fails?.() === true) throw new Error('the disk is full');
      written.push(rows.map(({ at }) => at));
    },
    onError: (message) => errors.push(message),
    after: (millis, run) => {
      const timer = { millis, run };
      timers.push(timer);
      return () => void timers.splice(timers.indexOf(timer), 1);
    },
    soon: (run) => soon.push(run),
  });
  return { made, written, errors, timers, tick: () => timers.shift()?.run(), next: () => soon.shift()?.() };
}

test('rows wait for each other, and are written within a second', () => {
  const { made, written, timers, tick } = writer();
  made.add(row(1));
  made.add(row(2));
  expect(written).toEqual([]);
  expect(timers).toHaveLength(1);
  expect(timers[0]?.millis).toBeLessThan(1_000);
  tick();
  expect(written).toEqual([[1, 2]]);
  expect(timers).toEqual([]);
});

test('rows of requests that end together are written at once, with what waits, before anybody is told', () => {
  const { made, written, timers, next } = writer();
  const told: string[] = [];
  made.add(row(1));
  for (const at of [2, 3]) made.commit(row(at), () => told.push(`${at} after ${written.length}`));
  expect([written, told]).toEqual([[], []]);
  next();
  expect([written, told, timers]).toEqual([[[1, 2, 3]], ['2 after 1', '3 after 1'], []]);
  made.commit(row(4), () => told.push('4'));
  next();
  expect(written[1]).toEqual([4]);
});

test('while the store refuses, rows of requests wait, their clients are told, and the store is left alone', () => {
  let broken = true;
  const { made, written, errors, timers, tick, next } = writer({ fails: () => broken });
  const told: number[] = [];
  const commit = (at: number): void => {
    made.commit(row(at), () => told.push(at));
    next();
  };
  commit(3);
  broken = false;
  commit(4);
  expect([written.length, errors.length, timers.length, told]).toEqual([0, 1, 1, [3, 4]]);
  tick();
  expect(written).toEqual([[3, 4]]);
});

test('one client that can’t be told keeps nobody from being told', () => {
  const { made, next } = writer();
  const told: number[] = [];
  made.commit(row(1), () => {
    throw new Error('its socket is odd');
  });
  made.commit(row(2), () => told.push(2));
  next();
  expect(told).toEqual([2]);
  expect(next).toThrow('its socket is odd');
});

test('many rows are written over several turns', () => {
  const { made, written, tick } = writer({ rowsPerFlush: 2 });
  for (let n = 0; n < 5; n++) made.add(row(n));
  tick();
  tick();
  expect(written).toEqual([
    [0, 1],
    [2, 3],
  ]);
  expect(made.flush()).toBe(true);
  expect(written).toHaveLength(3);
  expect(made.counts).toEqual({ waiting: 0, written: 5, lost: 0 });
});

test('a store that refuses is told of once; the rows wait, and beyond the bound they are counted', () => {
  let broken = true;
  const { made, written, errors, tick } = writer({ fails: () => broken, mostRows: 2 });
  made.add(row(1));
  tick();
  tick();
  made.add(row(2));
  made.add(row(3));
  expect(made.flush()).toBe(false);
  expect(errors).toEqual(['the disk is full']);
  expect(made.counts).toEqual({ waiting: 2, written: 0, lost: 1 });
  broken = false;
  tick();
  expect(written).toEqual([[1, 2]]);
});
