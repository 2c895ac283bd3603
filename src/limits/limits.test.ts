/** Limits as stories, and what holds whatever happens. Times are Unix micros. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MINUTE, modelId, SECOND } from '../core/ids.ts';
import { Bucket } from './bucket.ts';
import { OutputForecast } from './forecast.ts';
import type { Cost, LimitRefusal } from './meter.ts';
import { Meter } from './meter.ts';
import { Reservation, reserve } from './reservation.ts';
import type { LimitSpec } from './spec.ts';
import { NO_LIMITS } from './spec.ts';
import { windowAt } from './window.ts';

const at = (text: string): number => Date.parse(`${text}Z`) * 1_000;
const NOW = at('2026-03-15T12:00:00');
const meter = (spec: Partial<LimitSpec>, spent = 0, scope = 'tenant') =>
  new Meter(scope, { ...NO_LIMITS, ...spec }, NOW, () => spent);
const cost = (promptTokens: number, outputTokens = 0): Cost => ({ promptTokens, outputTokens });

function admitted(meters: readonly Meter[], of: Cost, now = NOW): Reservation {
  const got = reserve(meters, of, now);
  if (!(got instanceof Reservation)) throw new Error(`refused: ${JSON.stringify(got)}`);
  return got;
}
function refused(meters: readonly Meter[], of: Cost, now = NOW): LimitRefusal {
  const got = reserve(meters, of, now);
  if (got instanceof Reservation) throw new Error('not refused');
  return got;
}

describe('rates', () => {
  test('a minute’s worth at once, then as it flows in', () => {
    const limited = meter({ requestsPerMinute: 2 });
    admitted([limited], cost(1));
    admitted([limited], cost(1));
    expect(refused([limited], cost(1))).toEqual({
      limit: 'requests',
      scope: 'tenant',
      most: 2,
      retryAfterMicros: 30 * SECOND,
    });
    expect(limited.view(NOW).requests).toEqual({ limit: 2, remaining: 0, resetMicros: MINUTE });
    admitted([limited], cost(1), NOW + 30 * SECOND);
  });

  test('tokens are reserved as expected, and settled as used', () => {
    const limited = meter({ tokensPerMinute: 100 });
    const request = admitted([limited], cost(20, 60));
    expect(limited.view(NOW).tokens?.remaining).toBe(20);
    request.start();
    request.settle(30, NOW);
    expect(limited.view(NOW).tokens?.remaining).toBe(70);
    admitted([limited], cost(10)).settle(90, NOW);
    expect(refused([limited], cost(1)).retryAfterMicros).toBe((21 * MINUTE) / 100);
  });

  test('a request larger than a minute’s worth passes a full bucket, and leaves a debt', () => {
    const limited = meter({ tokensPerMinute: 100 });
    admitted([limited], cost(150));
    expect(limited.view(NOW).tokens).toMatchObject({ remaining: 0, resetMicros: 1.5 * MINUTE });
    expect(refused([limited], cost(150)).retryAfterMicros).toBe(1.5 * MINUTE);
  });

  test('a request that the node refused takes nothing', () => {
    const limited = meter({ requestsPerMinute: 1, tokensPerMinute: 10, budget: { tokens: 10, window: 'total' } });
    const before = limited.view(NOW);
    admitted([limited], cost(5, 5)).undo(NOW);
    expect(limited.view(NOW)).toEqual(before);
  });

  test('one meter’s refusal leaves the others as they were', () => {
    const free = meter({ requestsPerMinute: 9 });
    const tight = meter({ requestsPerMinute: 1 }, 0, 'key');
    admitted([free, tight], cost(1));
    expect(refused([free, tight], cost(1)).scope).toBe('key');
    expect(free.view(NOW).requests?.remaining).toBe(8);
  });
});

describe('concurrency', () => {
  test('beyond it requests wait, beyond the queue they are refused', () => {
    const limited = meter({ concurrency: 1, queue: 1 });
    const first = admitted([limited], cost(1));
    expect(first.canStart()).toBe(true);
    first.start();
    const second = admitted([limited], cost(1));
    expect(second.canStart()).toBe(false);
    expect(refused([limited], cost(1))).toMatchObject({ limit: 'queue', retryAfterMicros: null });
    expect(limited.view(NOW).concurrency).toEqual({ limit: 1, running: 1, waiting: 1 });
    first.settle(1, NOW);
    expect(second.canStart()).toBe(true);
    second.start();
    second.settle(1, NOW);
    second.settle(1, NOW);
    expect(limited.view(NOW).concurrency).toEqual({ limit: 1, running: 0, waiting: 0 });
  });
});

describe('budgets', () => {
  test('what was spent before counts; the last tokens are cut off in mid-stream', () => {
    const limited = meter({ budget: { tokens: 100, window: 'day' } }, 70);
    const request = admitted([limited], cost(10, 500));
    request.start();
    expect(limited.view(NOW).budget).toMatchObject({ spent: 70, held: 30 });
    expect(request.progress(10, NOW)).toBe(false);
    expect(request.progress(19, NOW)).toBe(false);
    expect(request.progress(1, NOW)).toBe(true);
    request.settle(30, NOW);
    expect(refused([limited], cost(0))).toMatchObject({
      limit: 'budget',
      most: 100,
      retryAfterMicros: 12 * 60 * MINUTE,
    });
    admitted([limited], cost(10), NOW + 12 * 60 * MINUTE);
  });

  test('two requests can’t be promised the same tokens', () => {
    const limited = meter({ budget: { tokens: 100, window: 'total' } });
    const first = admitted([limited], cost(10, 70));
    expect(refused([limited], cost(20))).toMatchObject({ limit: 'budget', retryAfterMicros: null });
    admitted([limited], cost(19));
    first.settle(0, NOW);
    admitted([limited], cost(50));
  });

  test('windows begin at midnight and on the first, UTC', () => {
    expect(windowAt('day', NOW).endsAt).toBe(at('2026-03-16T00:00:00'));
    expect(windowAt('month', at('2026-12-31T23:59:59'))).toEqual({
      sinceDay: at('2026-12-01T00:00:00') / 86_400e6,
      endsAt: at('2027-01-01T00:00:00'),
    });
    expect(windowAt('total', NOW)).toEqual({ sinceDay: 0, endsAt: null });
  });

  test('what is not done when the window ends is paid in the next one', () => {
    const limited = meter({ budget: { tokens: 100, window: 'day' } }, 99);
    const later = NOW + 12 * 60 * MINUTE;
    expect(limited.view(later).budget).toMatchObject({ spent: 0, limit: 100 });
    const request = admitted([limited], cost(10, 10), later);
    request.start();
    request.settle(40, later + 24 * 60 * MINUTE);
    expect(limited.view(later + 24 * 60 * MINUTE).budget).toMatchObject({ spent: 40, held: 0 });
  });
});

test('new limits hold at once, and what runs goes on counting', () => {
  const limited = meter({ requestsPerMinute: 1, concurrency: 2 });
  const request = admitted([limited], cost(5, 5));
  request.start();
  limited.reconfigure({ ...NO_LIMITS, concurrency: 1, budget: { tokens: 20, window: 'total' } }, NOW, () => 5);
  expect(limited.view(NOW)).toMatchObject({
    requests: null,
    budget: { spent: 5, held: 10 },
    concurrency: { running: 1 },
  });
  expect(admitted([limited], cost(1)).canStart()).toBe(false);
  request.settle(8, NOW);
  expect(limited.view(NOW).budget).toMatchObject({ spent: 13 });
});

test('answers are expected to be as long as the model’s usually are, and no longer than asked for', () => {
  const forecast = new OutputForecast();
  const model = modelId('m');
  expect(forecast.expect(model, 40)).toBe(40);
  for (let n = 0; n < 100; n++) forecast.learn(model, n % 2 === 0 ? 90 : 110);
  expect(forecast.expect(model, null)).toBeGreaterThan(90);
  expect(forecast.expect(model, null)).toBeLessThan(110);
});

describe('whatever happens', () => {
  const MOST_A_STEP = 300;
  const limits = fc.record({
    requestsPerMinute: fc.option(fc.integer({ min: 1, max: 200 })),
    tokensPerMinute: fc.option(fc.integer({ min: 1, max: 5_000 })),
    concurrency: fc.option(fc.integer({ min: 1, max: 4 })),
    queue: fc.option(fc.integer({ min: 0, max: 3 })),
    budget: fc.option(fc.record({ tokens: fc.integer({ min: 1, max: 3_000 }), window: fc.constant('total' as const) })),
  });
  const step = fc.record({
    wait: fc.integer({ min: 0, max: 20 * SECOND }),
    act: fc.constantFrom('ask', 'ask', 'ask', 'go on', 'end', 'leave', 'undo'),
    pick: fc.nat(),
    prompt: fc.integer({ min: 0, max: 300 }),
    output: fc.integer({ min: 1, max: MOST_A_STEP }),
  });

  test('a bucket never lets through more than it holds and what flows in', () => {
    const asks = fc.array(fc.tuple(fc.integer({ min: 0, max: MINUTE }), fc.integer({ min: 1, max: 40 })));
    fc.assert(
      fc.property(fc.integer({ min: 40, max: 1_000 }), asks, (limit, steps) => {
        const bucket = new Bucket(limit, 0);
        let now = 0;
        let passed = 0;
        for (const [wait, amount] of steps) {
          now += wait;
          const left = bucket.wait(amount, now);
          if (left === 0) {
            bucket.take(amount, now);
            passed += amount;
          } else {
            now += left;
            expect(bucket.wait(amount, now)).toBe(0);
          }
          expect(passed).toBeLessThanOrEqual(limit + (now * limit) / MINUTE);
        }
      }),
    );
  });

  test('counts add up, bounds hold, a retry at the told time passes, and a budget is not overrun by more than one step each', () => {
    fc.assert(
      fc.property(
        fc.array(limits, { minLength: 1, maxLength: 3 }),
        fc.array(step, { maxLength: 60 }),
        (specs, steps) => {
          const meters = specs.map((spec, index) => new Meter(String(index), spec, 0, () => 0));
          const open: { reservation: Reservation; used: number; running: boolean }[] = [];
          let now = 0;
          let used = 0;
          let mostOpen = 0;
          const end = (index: number, how: 'settle' | 'undo'): void => {
            const [request] = open.splice(index, 1);
            if (request === undefined) return;
            if (how === 'undo' && !request.running) request.reservation.undo(now);
            else {
              request.reservation.settle(request.used, now);
              used += request.used;
            }
          };
          for (const { wait, act, pick, prompt, output } of steps) {
            now += wait;
            const index = open.length === 0 ? -1 : pick % open.length;
            const request = open[index];
            if (act === 'ask') {
              const got = reserve(meters, cost(prompt, output), now);
              if (got instanceof Reservation) open.push({ reservation: got, used: 0, running: false });
              else if (got.retryAfterMicros !== null && meters.length === 1) {
                const later = meters[0]?.refuses(cost(prompt, output), now + got.retryAfterMicros) ?? null;
                expect(later === null || later.limit !== got.limit).toBe(true);
                now += got.retryAfterMicros;
              }
            } else if (request !== undefined && act === 'go on') {
              if (request.reservation.canStart()) {
                request.reservation.start();
                request.running = true;
              } else if (request.running) {
                request.used += output;
                if (request.reservation.progress(output, now)) end(index, 'settle');
              }
            } else if (request !== undefined) end(index, act === 'undo' ? 'undo' : 'settle');
            mostOpen = Math.max(mostOpen, open.length + 1);
            const running = open.filter((one) => one.running).length;
            for (const { spec, ...rest } of meters.map((one) => ({ spec: one.spec, ...one.view(now) }))) {
              expect(rest.concurrency.running).toBe(running);
              expect(rest.concurrency.waiting).toBe(open.length - running);
              expect(running).toBeLessThanOrEqual(spec.concurrency ?? Infinity);
              if (rest.budget === null) continue;
              expect(rest.budget.spent).toBe(used);
              expect(rest.budget.held).toBeGreaterThanOrEqual(open.reduce((sum, one) => sum + one.used, 0));
              expect(used).toBeLessThanOrEqual(rest.budget.limit + MOST_A_STEP * mostOpen);
            }
          }
          while (open.length > 0) end(0, 'settle');
          for (const { budget, concurrency } of meters.map((one) => one.view(now))) {
            expect(budget?.held ?? 0).toBe(0);
            expect(concurrency).toMatchObject({ running: 0, waiting: 0 });
          }
        },
      ),
    );
  });
});
