import { describe, expect, it } from 'vitest';
import { MILLI, SECOND } from '../core/ids.ts';
import type { LoadRecord } from './driver.ts';
import type { Slo } from './report.ts';
import { figuresOf, report, ttftByPercent } from './report.ts';

const SLO: Slo = { ttftMicros: 2 * SECOND, tpotMicros: 200 * MILLI, gapMicros: null };
/** Meant for 0, sent at once, four pieces from 1 s on, 100 ms apart. */
const record = (rest: Partial<LoadRecord> = {}): LoadRecord => ({
  conversation: 0,
  turn: 0,
  model: 'm',
  tenant: 't',
  priority: 'interactive',
  intendedAt: 0,
  sentAt: 0,
  piecesAt: [1_000, 1_100, 1_200, 1_300].map((at) => at * MILLI),
  endedAt: 1_300 * MILLI,
  outcome: 'done',
  promptTokens: 10,
  cachedTokens: 0,
  outputTokens: 4,
  ...rest,
});
const overhead = { lagP99Micros: 0, lagMostMicros: 0, loopDelayP99Micros: 0, loopDelayMostMicros: 0, cpuShare: 0 };
const reportOf = (...records: LoadRecord[]) =>
  report({ records, elapsedMicros: 10 * SECOND, unsent: 0, overhead }, SLO);

describe('a report', () => {
  it('counts from when a request was meant to be sent, not from when it was', () => {
    const { all } = reportOf(record({ sentAt: 900 * MILLI }));
    expect(all.ttft.p50).toBe(1_000 * MILLI);
    expect(all.endToEnd.p50).toBe(1_300 * MILLI);
    expect(all.interToken).toEqual({ mean: 100 * MILLI, p50: 100 * MILLI, p95: 100 * MILLI, p99: 100 * MILLI });
  });

  it('takes the nearest rank of many', () => {
    const many = Array.from({ length: 100 }, (_, index) => record({ piecesAt: [index + 1] }));
    expect(reportOf(...many).all.ttft).toEqual({ mean: 50.5, p50: 50, p95: 95, p99: 99 });
    expect(reportOf().all.ttft.mean).toBeNaN();
    expect(reportOf().all.ttft.p50).toBeNaN();
  });

  it('calls good what was answered whole and in time', () => {
    const late = record({ intendedAt: -2 * SECOND });
    const slow = record({ piecesAt: [0, 300 * MILLI, 600 * MILLI, 900 * MILLI] });
    const refused = record({ outcome: 'queue_full', piecesAt: [], endedAt: 1 });
    const left = record({ outcome: 'cancelled' });
    const { all } = reportOf(record(), late, slow, refused, left);
    // One of the four that nobody hung up on.
    expect([all.goodShare, all.goodPerSecond]).toEqual([0.25, 0.1]);
    expect([all.requests, all.done, all.cancelled, all.errors]).toEqual([5, 3, 1, { queue_full: 1 }]);
  });

  it('can look at the longest gap instead of the mean', () => {
    const halting = record({ piecesAt: [0, 10, 20, 500 * MILLI] });
    const good = (slo: Partial<Slo>): number => figuresOf([halting], SECOND, { ...SLO, ...slo }).goodShare;
    expect(good({})).toBe(1);
    expect(good({ gapMicros: 200 * MILLI })).toBe(0);
  });

  it('lets those who waited in vain count, and those who were refused not make it quicker', () => {
    const cut = record({ outcome: 'cut_off', piecesAt: [], endedAt: 60 * SECOND });
    const midway = record({ outcome: 'timeout', piecesAt: [SECOND], endedAt: 30 * SECOND });
    const refused = record({ outcome: 'queue_full', piecesAt: [], endedAt: 1 });
    const { all } = reportOf(cut, midway, refused);
    expect(all.ttft).toEqual({ mean: 30.5 * SECOND, p50: SECOND, p95: 60 * SECOND, p99: 60 * SECOND });
    expect(all.interToken.p50).toBe(29 * SECOND);
    expect(all.endToEnd.p50).toBe(30 * SECOND);
    expect(all.errors).toEqual({ cut_off: 1, timeout: 1, queue_full: 1 });
  });

  it('tells models and tenants apart, and how far the tenants are', () => {
    const a = { tenant: 'a', model: 'x', promptTokens: 100, cachedTokens: 60, outputTokens: 30 };
    const b = { tenant: 'b', model: 'y', promptTokens: 20, outputTokens: 5 };
    const { models, tenants, fairnessGap, all } = reportOf(record(a), record(b), record(b), record(b));
    expect(models.map(({ name, requests }) => [name, requests])).toEqual([
      ['y', 3],
      ['x', 1],
    ]);
    expect(tenants.map(({ name }) => name)).toEqual(['b', 'a']);
    // (100 − 60 + 2 × 30) − 3 × (20 + 2 × 5)
    expect(fairnessGap).toBe(10);
    expect([all.promptTokens, all.cachedTokens, all.outputTokensPerSecond]).toEqual([160, 60, 4.5]);
    expect(reportOf(record()).fairnessGap).toBeNull();
  });

  it('tells those who wait from those who do not mind', () => {
    const later = record({ priority: 'batch', piecesAt: [5 * SECOND], endedAt: 6 * SECOND });
    const { priorities } = reportOf(record(), later, record());
    expect(priorities.map(({ name, requests, ttft, goodShare }) => [name, requests, ttft.p50, goodShare])).toEqual([
      ['interactive', 2, SECOND, 1],
      ['batch', 1, 5 * SECOND, 0],
    ]);
    expect(reportOf(later).priorities.map(({ name }) => name)).toEqual(['batch']);
  });

  it('counts no tokens of those who got nothing', () => {
    const { all } = reportOf(record(), record({ outcome: 'http_500', piecesAt: [], outputTokens: 0 }));
    expect([all.promptTokens, all.outputTokens]).toEqual([10, 4]);
  });
});

it('draws a curve on which those who were refused never come', () => {
  const refused = record({ outcome: 'queue_full', piecesAt: [] });
  const curve = ttftByPercent([record(), record(), refused, refused]);
  expect(curve).toHaveLength(101);
  expect([curve[0], curve[50], curve[51], curve[100]]).toEqual([SECOND, SECOND, Infinity, Infinity]);
});
