import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Served } from './service.ts';
import { backlogs, common, serviceGap, serviceIn } from './service.ts';

const request = (tenant: string, sentAt: number, chunksAt: readonly number[], endedAt: number): Served => ({
  tenant,
  sentAt,
  chunksAt,
  endedAt,
  promptTokens: 10,
  outputTokens: chunksAt.length,
});

describe('service', () => {
  it('is the prompt with the first chunk, and twice each token', () => {
    const one = [request('a', 0, [5, 6, 7], 7)];
    expect(serviceIn(one, { from: 0, to: 6 })).toBe(12);
    expect(serviceIn(one, { from: 6, to: 8 })).toBe(4);
  });

  it('is not had by a request that never began, which waits to its end', () => {
    const one = [request('a', 0, [], 9)];
    expect(serviceIn(one, { from: 0, to: 10 })).toBe(0);
    expect(backlogs(one)).toEqual([{ from: 0, to: 9 }]);
  });
});

describe('a backlog', () => {
  it('lasts as long as one request or another waits', () =>
    expect(backlogs([request('a', 0, [4], 9), request('a', 3, [6], 9), request('a', 7, [8], 9)])).toEqual([
      { from: 0, to: 6 },
      { from: 7, to: 8 },
    ]));

  it('is common while both have one', () =>
    expect(
      common(
        [{ from: 0, to: 6 }],
        [
          { from: 1, to: 2 },
          { from: 5, to: 9 },
        ],
      ),
    ).toEqual([
      { from: 1, to: 2 },
      { from: 5, to: 6 },
    ]));
});

describe('the gap', () => {
  const waiting = (tenant: string): Served => request(tenant, 0, [], 100);

  it('is what one got more than the other while both waited', () => {
    const served = [
      waiting('a'),
      waiting('b'),
      request('a', 0, [10], 10),
      request('a', 0, [20], 20),
      request('b', 0, [30], 30),
    ];
    expect(serviceGap(served)).toEqual({ tokens: 24, millis: 100 });
  });

  it('is none to a tenant that waits for nothing', () =>
    expect(serviceGap([waiting('a'), request('a', 0, [10], 10), request('b', 50, [50], 60)]).tokens).toBe(0));

  it('is never less than the difference over the whole of a common backlog, nor more than all service', () => {
    const some = fc.array(fc.record({ isA: fc.boolean(), at: fc.integer({ min: 1, max: 99 }) }), { maxLength: 12 });
    fc.assert(
      fc.property(some, (events) => {
        const served = events.map(({ isA, at }) => request(isA ? 'a' : 'b', at, [at], at));
        const of = (tenant: string): number =>
          serviceIn(
            served.filter((one) => one.tenant === tenant),
            { from: 0, to: 100 },
          );
        const { tokens } = serviceGap([waiting('a'), waiting('b'), ...served]);
        expect(tokens).toBeGreaterThanOrEqual(Math.abs(of('a') - of('b')));
        expect(tokens).toBeLessThanOrEqual(of('a') + of('b'));
      }),
    );
  });
});
