import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { kvEntryId, tenantId } from '../../core/ids.ts';
import { usableTokens } from './prefixes.ts';
import type { Sequence } from './sequence.ts';
import { tokenAt } from './sequence.ts';
import { StoryCache, withPrompt } from './sequence-stories.ts';
import { SequenceTable } from './sequences.ts';

const LIMITS = { parallel: 4, seats: 8, stepTokens: 512, shares: true, cellRowNanos: 0 };
const count = (from: number, length: number): number[] => Array.from({ length }, (_, index) => from + index);

function story(
  cells = 4096,
  seats = LIMITS.seats,
  saved: ConstructorParameters<typeof StoryCache>[1] = () => null,
  windowTokens = 0,
) {
  const cache = new StoryCache(cells, saved, windowTokens);
  const table = new SequenceTable({ ...LIMITS, seats, cells }, cache);
  const step = (prefillTokens = 512): void => {
    table.admit();
    for (const item of table.plan(prefillTokens)) {
      cache.compute(item);
      table.computed(item);
      if (item.samples) item.sequence.generated.push(7);
    }
  };
  /** Prompt and one token; then it is over and stays as `name`. */
  const turn = (order: number, tokens: readonly number[], name: string): Sequence => {
    const one = withPrompt(order, tokens);
    table.add(one);
    while (one.generated.length === 0) step();
    table.park(one, kvEntryId(name));
    return one;
  };
  return { cache, table, step, turn };
}

describe('a conversation', () => {
  it('goes on from what its last turn left, in its place, and computes only what is new', () => {
    const { cache, table, step, turn } = story();
    turn(0, count(0, 100), 'first');
    const next = withPrompt(1, [...count(0, 100), 7, ...count(500, 9)]);
    table.add(next);
    step();
    expect(cache.taken).toEqual(['first']);
    expect(cache.computedTokens).toBe(100 + 10);
    expect([next.reused, table.idle.length]).toEqual([100, 0]);
  });

  it('that is the same as an earlier one computes its last token only', () => {
    const { cache, turn } = story();
    turn(0, count(0, 100), 'first');
    turn(1, count(0, 100), 'again');
    expect(cache.computedTokens).toBe(101);
  });

  it('of another tenant begins with nothing', () => {
    const { cache, table, step, turn } = story();
    turn(0, count(0, 100), 'first');
    table.add(withPrompt(1, count(0, 100), { tenantId: tenantId('other') }));
    step();
    expect(cache.computedTokens).toBe(200);
  });

  it('that branches off early leaves the other branch where it is', () => {
    const { cache, table, step, turn } = story();
    turn(0, count(0, 400), 'long');
    table.add(withPrompt(1, [...count(0, 100), ...count(900, 50)]));
    step();
    expect(cache.computedTokens).toBe(400 + 50);
    expect(table.idle.map(({ entryId }) => entryId)).toEqual(['long']);
    expect(table.usedCells).toBe(450);
  });
});

describe('a common beginning', () => {
  it('is computed once by those who come together, chunk by chunk', () => {
    const { cache, table, step } = story();
    const all = [0, 1, 2, 3].map((order) => withPrompt(order, [...count(0, 200), 1_000 + order]));
    for (const one of all) table.add(one);
    for (let steps = 0; all.some((one) => one.generated.length === 0); steps += 1) {
      expect(steps).toBeLessThan(20);
      step(64);
    }
    expect(cache.computedTokens).toBeLessThan(200 + 4 + 8);
    expect(table.usedCells).toBeLessThan(210 + 4);
  });

  it('is computed by the next one when the first leaves', () => {
    const { table, step } = story();
    const [first, second] = [0, 1].map((order) => withPrompt(order, [...count(0, 200), 1_000 + order])) as [
      Sequence,
      Sequence,
    ];
    table.add(first);
    table.add(second);
    step(64);
    table.remove(first);
    for (let steps = 0; second.generated.length === 0; steps += 1) {
      expect(steps).toBeLessThan(10);
      step(64);
    }
    expect(table.usedCells).toBe(201);
  });
});

describe('room', () => {
  it('is made by the longest idle, each with its last chance to be saved', () => {
    const { cache, table, turn } = story(400);
    turn(0, count(0, 100), 'oldest');
    turn(1, count(1_000, 100), 'older');
    turn(2, count(2_000, 100), 'young');
    expect(cache.left).toEqual([]);
    turn(3, count(3_000, 100), 'new');
    expect(cache.left).toEqual(['oldest']);
    expect(table.usedCells).toBeLessThanOrEqual(400);
  });

  it('is not made by the one that is gone on from', () => {
    const { cache, table, step, turn } = story(400);
    turn(0, count(0, 100), 'wanted');
    turn(1, count(1_000, 200), 'other');
    table.add(withPrompt(2, [...count(0, 100), ...count(900, 100)]));
    step();
    expect([cache.left, cache.taken]).toEqual([['other'], ['wanted']]);
  });

  it('may be made by seats, too', () => {
    const { cache, turn } = story(4096, 4);
    for (let order = 0; order < 6; order += 1) turn(order, count(1_000 * order, 50), `k${order}`);
    expect(cache.left).toEqual(['k0', 'k1']);
  });
});

describe('a saved state', () => {
  const tokens = count(0, 150);
  const saved = { tokens: 150, common: 120 };

  it('is read where it spares more than what is on the device', () => {
    const { cache, table, step } = story(4096, 8, () => tokens);
    const one = withPrompt(0, [...count(0, 120), 900, 901], { saved });
    table.add(one);
    step();
    expect([cache.computedTokens, one.reused]).toEqual([2, 120]);
  });

  it('is left where it is if the device has as much', () => {
    const { cache, table, step, turn } = story(4096, 8, () => tokens);
    turn(0, count(0, 110), 'idle');
    table.add(withPrompt(1, [...count(0, 120), 900, 901], { saved }));
    step();
    expect(cache.computedTokens).toBe(110 + 12);
  });

  it('that turns out broken costs computing, and nothing else', () => {
    const { cache, table, step } = story();
    const one = withPrompt(0, [...count(0, 120), 900, 901], { saved });
    table.add(one);
    step();
    expect([cache.computedTokens, one.reused, one.generated.length]).toEqual([122, 0, 1]);
  });
});

describe('behind a sliding window', () => {
  const windowed = () => story(4096, 8, () => null, 64);

  it('a sequence is gone on from where the window before that point is still there', () => {
    const { cache, table, step, turn } = windowed();
    turn(0, count(0, 100), 'long');
    const { seat } = table.idle[0] as { seat: number };
    const branch = (order: number, at: number): number => {
      const before = cache.computedTokens;
      const one = withPrompt(order, [...count(0, at), ...count(900 + 10 * order, 5)]);
      table.add(one);
      step();
      table.remove(one);
      return cache.computedTokens - before;
    };
    expect(branch(1, 50)).toBe(5);
    // Given away: what the last of 90 tokens can't see.
    cache.first.set(seat, 90 - 64 + 1);
    expect([branch(2, 90), branch(3, 89)]).toEqual([5, 94]);
    expect(branch(4, 100)).toBe(5);
  });

  it('a saved state is gone on from at its end, or at its branch', () => {
    expect(usableTokens(150, 150, 64, null)).toBe(150);
    expect(usableTokens(149, 150, 64, null)).toBe(0);
    expect([usableTokens(149, 150, 64, 120), usableTokens(119, 150, 64, 120)]).toEqual([120, 0]);
    expect([usableTokens(40, 60, 64, null), usableTokens(120, 150, 0, null)]).toEqual([40, 120]);
  });

  it('those who read the same prompt together still read it once', () => {
    const { cache, table, step } = windowed();
    const all = [0, 1, 2].map((order) => withPrompt(order, [...count(0, 200), 1_000 + order]));
    for (const one of all) table.add(one);
    while (all.some((one) => one.generated.length === 0)) step(48);
    expect(cache.computedTokens).toBeLessThan(220);
  });
});

it('whatever comes, each sequence has its own tokens in its cells, the count of cells is right, and all end', () => {
  // Few tokens and few beginnings, so that everything has something in common.
  const job = fc.record({
    beginning: fc.nat(2),
    length: fc.integer({ min: 1, max: 120 }),
    tail: fc.array(fc.nat(1), { maxLength: 20 }),
    outputs: fc.integer({ min: 1, max: 20 }),
    tenant: fc.nat(1),
    savedTokens: fc.option(fc.integer({ min: 1, max: 150 })),
    savedWorks: fc.boolean(),
    fate: fc.constantFrom('park', 'park', 'remove'),
    after: fc.nat(4),
  });
  fc.assert(
    fc.property(fc.array(job, { minLength: 1, maxLength: 14 }), fc.integer({ min: 200, max: 700 }), (jobs, cells) => {
      const text = (beginning: number, length: number): number[] => count(1_000 * beginning, length);
      const byOrder = (order: number): (typeof jobs)[number] => jobs[order] as (typeof jobs)[number];
      const { cache, table } = story(cells, 6, ({ order }) => {
        const { beginning, savedTokens, savedWorks } = byOrder(order);
        return savedTokens === null || !savedWorks ? null : text(beginning, savedTokens);
      });
      let next = 0;
      for (let steps = 0; next < jobs.length || table.size > 0; steps += 1) {
        if (steps > 4_000) return false;
        while (next < jobs.length && byOrder(next).after <= steps % 5) {
          const { beginning, length, tail, tenant, savedTokens } = byOrder(next);
          const common = Math.min(savedTokens ?? 0, length, length + tail.length - 1);
          const saved = savedTokens === null ? null : { tokens: savedTokens, common };
          const tokens = [...text(beginning, length), ...tail];
          table.add(withPrompt(next, tokens, { tenantId: tenantId(`t${tenant}`), saved }));
          next += 1;
        }
        table.admit();
        for (const item of table.plan(64)) {
          cache.compute(item);
          table.computed(item);
          if (item.samples) item.sequence.generated.push(item.sequence.order % 3);
        }
        if (table.usedCells > cells) return false;
        for (const one of table.seated) {
          const held = cache.seats.get(one.seat as number) ?? [];
          if (held.length !== one.cells || held.some((token, index) => token !== tokenAt(one, index))) return false;
          const { outputs, fate } = byOrder(one.order);
          if (one.generated.length < outputs) continue;
          if (fate === 'park') table.park(one, kvEntryId(`k${one.order}`));
          else table.remove(one);
        }
        for (const { seat, tokens } of table.idle) {
          const held = cache.seats.get(seat) ?? [];
          if (held.length !== tokens.length || held.some((token, index) => token !== tokens[index])) return false;
        }
        const seats = [...table.seated, ...table.idle].map(({ seat }) => seat);
        if (new Set(seats).size !== seats.length) return false;
      }
      table.clearOut();
      return table.usedCells === 0;
    }),
    { numRuns: 400 },
  );
});
