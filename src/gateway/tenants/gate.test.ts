/** The gate around a node: places, rates, budgets, and the row that is left of a request. */
import { describe, expect, test, vi } from 'vitest';
import { DEFAULT_TENANT, modelId, requestId, SECOND, tenantId } from '../../core/ids.ts';
import { BerthError } from '../../errors.ts';
import type { LimitSpec } from '../../limits/spec.ts';
import { NO_LIMITS } from '../../limits/spec.ts';
import type { NodeApi, StreamEvent, Submission } from '../../runtime/api.ts';
import type { UsageRow } from '../../store/usage.ts';
import type { Principal } from '../options.ts';
import type { GateOptions } from './gate.ts';
import { Gate } from './gate.ts';
import { duration } from './rate-headers.ts';
import type { ModelPolicy } from './types.ts';

const ACME = tenantId('acme');
const caller = (limits: Partial<LimitSpec> = {}, tenant = ACME): Principal => ({
  tenantId: tenant,
  keyId: 'key_1',
  access: {
    tenant: {
      id: tenant,
      name: '',
      weight: 1,
      limits: { ...NO_LIMITS, ...limits },
      models: null,
      isolation: 'strict',
      disabled: false,
      createdAt: 0,
      source: 'store',
    },
    key: null,
    allows: ({ id }) => id !== modelId('secret'),
  },
});

interface Running {
  readonly submission: Submission;
  readonly sink: (event: StreamEvent) => void;
  cancelled: boolean;
}

function world(options: Partial<GateOptions> = {}) {
  const running: Running[] = [];
  const rows: UsageRow[] = [];
  const time = { now: 1_700_000_000 * SECOND };
  let refuse: BerthError | null = null;
  const node = {
    models: () => [],
    model: (name: string) => ({ id: modelId(name), aliases: [] }),
    submit(submission: Submission, sink: (event: StreamEvent) => void) {
      if (refuse !== null) throw refuse;
      const one: Running = { submission, sink, cancelled: false };
      running.push(one);
      return {
        requestId: submission.request.requestId,
        modelId: modelId(submission.model),
        cancel: () => {
          one.cancelled = true;
        },
      };
    },
  } as unknown as NodeApi;
  const gate = new Gate(node, {
    record: (row, then) => {
      rows.push(row);
      then();
    },
    now: () => time.now,
    ...options,
  });
  let headers: Readonly<Record<string, string>> = {};
  const ask = (who: Principal, { choices = 1, prompt = 'four letters a token', maxTokens = 10, model = 'm' } = {}) => {
    const submissions = Array.from(
      { length: choices },
      (_, index): Submission => ({
        model,
        tenantId: who.tenantId,
        keyId: who.keyId,
        priority: 'interactive',
        ttftGoalMicros: null,
        interTokenGoalMicros: null,
        keepAliveMicros: null,
        conversation: null,
        request: {
          kind: 'generate',
          requestId: requestId(`req-${index}`),
          tenantId: who.tenantId,
          input: { type: 'text', text: prompt },
          maxTokens,
        } as unknown as Submission['request'],
      }),
    ) as [Submission, ...Submission[]];
    headers = {};
    const ticket = gate.admit(who, submissions, choices, (told) => {
      headers = told;
    });
    const events: StreamEvent[] = [];
    const handles = submissions.map((submission) => ticket.submit(submission, (event) => events.push(event)));
    return { events, handles, types: () => events.map(({ type }) => type) };
  };
  return {
    gate,
    ask,
    running,
    rows,
    time,
    refuseWith: (error: BerthError | null) => {
      refuse = error;
    },
    headers: () => headers,
  };
}

const accepted: StreamEvent = { type: 'accepted', promptTokens: 7, cachedTokens: 3 };
const said = (count: number): StreamEvent => ({
  type: 'tokens',
  text: 'x',
  tokenIds: Array.from({ length: count }, () => 1),
});
const done = (outputTokens: number): StreamEvent => ({
  type: 'finished',
  reason: 'stop',
  usage: { promptTokens: 7, cachedTokens: 3, outputTokens, prefillMicros: 100, decodeMicros: 200 },
  timings: { queueMicros: 1, loadMicros: 2, ttftMicros: 3, totalMicros: 4, restoreMicros: 5, kvTier: null },
});

describe('the ledger', () => {
  test('has one row a request: prompts once, outputs together, device time summed, the price of the day', () => {
    const policy: ModelPolicy = {
      id: modelId('m'),
      tenants: null,
      limits: NO_LIMITS,
      price: { input: 1, cached: 0.5, output: 2 },
    };
    const { ask, running, rows } = world({ policy: () => policy });
    ask(caller(), { choices: 2 });
    for (const [index, { sink }] of running.entries()) {
      sink(accepted);
      sink(said(4));
      expect(rows).toEqual([]);
      sink(done(4 + index));
    }
    expect(rows).toEqual([
      expect.objectContaining({
        kind: 'request',
        tenantId: ACME,
        keyId: 'key_1',
        modelId: 'm',
        requestId: 'req-0',
        outcome: 'stop',
        inputTokens: 7,
        cachedTokens: 3,
        outputTokens: 9,
        queueMicros: 1,
        restoreMicros: 5,
        prefillMicros: 200,
        decodeMicros: 400,
        // 4 × 1 + 3 × 0.5 + 9 × 2 millionths.
        costNanos: 23_500,
      }),
    ]);
  });

  test('says what was used by a client that left, and by an answer that failed', () => {
    const { ask, running, rows } = world();
    const left = ask(caller());
    running[0]?.sink(accepted);
    running[0]?.sink(said(2));
    left.handles[0]?.cancel();
    left.handles[0]?.cancel();
    running[0]?.sink(done(9));
    expect(running[0]?.cancelled).toBe(true);
    ask(caller());
    running[1]?.sink({ type: 'failed', code: 'engine_died', message: 'gone' });
    expect(rows.map(({ outcome, inputTokens, outputTokens }) => [outcome, inputTokens, outputTokens])).toEqual([
      ['cancelled', 7, 2],
      ['engine_died', 0, 0],
    ]);
  });

  test('has none of what the node refused, and nothing of it counts', () => {
    const { ask, rows, refuseWith } = world();
    const who = caller({ requestsPerMinute: 1, concurrency: 1 });
    refuseWith(new BerthError('queue_full', 'full'));
    expect(() => ask(who)).toThrow('full');
    expect(rows).toEqual([]);
    refuseWith(null);
    expect(() => ask(who)).not.toThrow();
  });
});

describe('limits', () => {
  test('a rate refuses with the time until it doesn’t, and tells how much is left', () => {
    const { ask, headers, time } = world();
    const who = caller({ requestsPerMinute: 2, tokensPerMinute: 600 });
    ask(who);
    expect(headers()).toEqual({
      'x-ratelimit-limit-requests': '2',
      'x-ratelimit-remaining-requests': '1',
      'x-ratelimit-reset-requests': '30s',
      'x-ratelimit-limit-tokens': '600',
      'x-ratelimit-remaining-tokens': '585',
      'x-ratelimit-reset-tokens': '2s',
    });
    ask(who);
    expect(() => ask(who)).toThrow(expect.objectContaining({ code: 'rate_limited', retryAfterMicros: 30 * SECOND }));
    expect(headers()['x-ratelimit-remaining-requests']).toBe('0');
    expect(() => ask(caller({ requestsPerMinute: 2 }, tenantId('other')))).not.toThrow();
    time.now += 30 * SECOND;
    expect(() => ask(who)).not.toThrow();
  });

  test('beyond the concurrency requests wait their turn; who leaves makes no noise', () => {
    const { ask, running } = world();
    const who = caller({ concurrency: 1, queue: 2 });
    ask(who);
    const second = ask(who, { choices: 2 });
    const third = ask(who);
    expect(running).toHaveLength(1);
    expect(second.events).toEqual([{ type: 'queued', position: 1 }]);
    expect(third.events).toEqual([{ type: 'queued', position: 2 }]);
    expect(() => ask(who)).toThrow(expect.objectContaining({ code: 'rate_limited', retryAfterMicros: SECOND }));
    for (const handle of second.handles) handle.cancel();
    expect(running).toHaveLength(1);
    running[0]?.sink(done(1));
    expect(running).toHaveLength(2);
    running[1]?.sink(done(1));
    expect(third.types()).toEqual(['queued', 'finished']);
    ask(who);
    expect(running).toHaveLength(3);
  });

  test('a place that doesn’t come in time is told, and gives its request back', () => {
    vi.useFakeTimers();
    try {
      const { ask } = world({ holdMillis: 50 });
      const who = caller({ concurrency: 1, requestsPerMinute: 2 });
      ask(who);
      const late = ask(who);
      vi.advanceTimersByTime(50);
      expect(late.events.at(-1)).toMatchObject({ type: 'failed', code: 'queue_timeout' });
      expect(() => ask(who)).not.toThrow();
    } finally {
      vi.useRealTimers();
    }
  });

  test('what the node refuses when the place comes is told by an event', () => {
    const { ask, running, refuseWith } = world();
    const who = caller({ concurrency: 1 });
    ask(who);
    const second = ask(who);
    refuseWith(new BerthError('queue_full', 'full', { retryAfterMicros: 5 }));
    running[0]?.sink(done(1));
    expect(second.events.at(-1)).toEqual({ type: 'failed', code: 'queue_full', message: 'full', retryAfterMicros: 5 });
  });
});

describe('a budget', () => {
  test('cuts off in mid-stream, with the reason `length`, and refuses what comes later', () => {
    const { ask, running, rows } = world({ spentTokens: () => 80 });
    const who = caller({ budget: { tokens: 100, window: 'month' } });
    const { events } = ask(who, { maxTokens: 500 });
    const sink = running[0]?.sink;
    sink?.(accepted);
    sink?.(said(12));
    expect(events.at(-1)?.type).toBe('tokens');
    sink?.(said(1));
    expect(events.at(-1)).toMatchObject({
      type: 'finished',
      reason: 'length',
      cutOff: 'budget',
      usage: { promptTokens: 7, outputTokens: 13 },
    });
    expect(running[0]?.cancelled).toBe(true);
    sink?.(said(1));
    expect(events.at(-1)?.type).toBe('finished');
    expect(rows).toMatchObject([{ outcome: 'budget', inputTokens: 7, outputTokens: 13 }]);
    expect(() => ask(who)).toThrow(expect.objectContaining({ code: 'budget_exhausted' }));
  });

  test('of a key counts that key only; of a model, the tenant’s use of it', () => {
    const queries: unknown[] = [];
    const policy: ModelPolicy = {
      id: modelId('m'),
      tenants: null,
      price: null,
      limits: { ...NO_LIMITS, budget: { tokens: 50, window: 'total' } },
    };
    const { ask, running } = world({
      policy: (id) => (id === 'm' ? policy : undefined),
      spentTokens: (query) => {
        queries.push(query);
        return 30;
      },
    });
    ask(caller());
    expect(queries).toEqual([{ tenantId: ACME, keyId: null, modelId: 'm', sinceDay: 0 }]);
    running[0]?.sink(accepted);
    running[0]?.sink(said(13));
    expect(running[0]?.cancelled).toBe(true);
    expect(() => ask(caller(), { model: 'other' })).not.toThrow();
    expect(() => ask(caller())).toThrow(/of this model, has spent/);
  });
});

test('a model that isn’t the caller’s is not found, as one that isn’t there', () => {
  const { ask, running } = world();
  expect(() => ask(caller(), { model: 'secret' })).toThrow(
    expect.objectContaining({ code: 'model_not_found', message: 'there is no model called "secret"', param: 'model' }),
  );
  expect(running).toEqual([]);
});

test('a caller without tenants or limits goes straight through', () => {
  const { ask, running, headers } = world();
  ask({ tenantId: DEFAULT_TENANT, keyId: null });
  expect(running).toHaveLength(1);
  expect(headers()).toEqual({});
});

test.each([
  [1, '1ms'],
  [999_001, '1s'],
  [1_000_001, '2s'],
  [90_000_000, '1m30s'],
  [360_000_000, '6m0s'],
])('%i µs are %s', (micros, text) => {
  expect(duration(micros)).toBe(text);
});

describe('what is under way', () => {
  test('ends with its key, running or waiting for a place, and is in the ledger', () => {
    const { ask, gate, running, rows } = world();
    const revoked = caller({ concurrency: 1 });
    const one = ask(revoked);
    running[0]?.sink(accepted);
    running[0]?.sink(said(2));
    const waiting = ask(revoked);
    const other = ask({ ...caller(), keyId: 'key_2' });
    gate.end({ keyId: 'key_1' });
    expect([one.types().at(-1), waiting.types().at(-1), other.types()]).toEqual(['failed', 'failed', []]);
    expect(running.map(({ cancelled }) => cancelled)).toEqual([true, false]);
    expect(rows.map(({ outcome, outputTokens }) => [outcome, outputTokens])).toEqual([['invalid_api_key', 2]]);
  });

  test('ends with its tenant', () => {
    const { ask, gate } = world();
    const [gone, stays] = [ask(caller()), ask(caller({}, tenantId('else')))];
    gate.end({ tenantId: ACME });
    expect([gone.types(), stays.types()]).toEqual([['failed'], []]);
  });

  test('is in the ledger before its client is told the end', () => {
    const written: (() => void)[] = [];
    const { ask, running } = world({ record: (_row, then) => written.push(then) });
    const { types } = ask(caller());
    running[0]?.sink(done(2));
    expect([written.length, types()]).toEqual([1, []]);
    written[0]?.();
    expect(types()).toEqual(['finished']);
  });

  test('is told to its client though the ledger breaks', () => {
    const { ask, running } = world({
      record: () => {
        throw new Error('the ledger is broken');
      },
    });
    const { types } = ask(caller());
    expect(() => running[0]?.sink(done(2))).toThrow('the ledger is broken');
    expect(types()).toEqual(['finished']);
  });
});
