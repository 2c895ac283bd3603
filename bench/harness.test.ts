import { describe, expect, it } from 'vitest';
import { findPeer, median, percentile, result, table } from './harness.ts';

describe('the harness', () => {
  it('takes the middle, and the nearest rank', () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 2, 3])).toBe(2.5);
    expect(median([])).toBeNaN();
    const hundred = Array.from({ length: 100 }, (_, index) => 100 - index);
    expect([50, 95, 99, 100].map((p) => percentile(hundred, p))).toEqual([50, 95, 99, 100]);
    expect(percentile([7], 1)).toBe(7);
  });

  it('says of each bar whether it was kept', () => {
    const measured = result('demo', [
      { case: 'a', metric: 'time', unit: 'ms', berth: 5, peer: 10, ratio: 0.5, bar: '≤ 0.6 × the peer', pass: true },
      { case: 'b', metric: 'time', unit: 'ms', berth: 12.345, bar: '≤ 10', pass: false },
    ]);
    expect(Object.keys(measured)).toEqual(['name', 'machine', 'commit', 'builds', 'rows']);
    const [, head, a, b] = table(measured).split('\n');
    expect(head).toMatch(/^case +metric +unit +berth +peer +ratio +bar$/);
    expect(a).toMatch(/^a +time +ms +5 +10 +0\.500 +≤ 0\.6 × the peer +kept$/);
    expect(b).toMatch(/^b +time +ms +12\.3 +≤ 10 +MISSED$/);
  });

  it('finds a peer where it is told to look, or says that there is none', () => {
    expect(findPeer({ quick: true, peers: { node: process.execPath } }, 'node')).toBe(process.execPath);
    expect(findPeer({ quick: true, peers: {} }, 'no-such-program-anywhere')).toBeNull();
    expect(() => findPeer({ quick: true, peers: { x: '/no/such/file' } }, 'x')).toThrow(/ENOENT/);
  });
});
