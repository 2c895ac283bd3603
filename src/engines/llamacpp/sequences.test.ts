import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { tenantId } from '../../core/ids.ts';
import { fairShares, isDecoding, type Sequence, sharesByTenant, tokensLeft } from './sequence.ts';
import { noCalls, withPrompt } from './sequence-stories.ts';
import { SequenceTable } from './sequences.ts';

function sequence(order: number, promptTokens: number): Sequence {
  // Nobody has a beginning in common with anybody.
  return withPrompt(order, [1_000 + order, ...Array.from({ length: promptTokens - 1 }, () => 0)]);
}

/** Computes a step as the generator does; returns the tokens planned for each order. */
function step(table: SequenceTable, prefillTokens = 1_000): Map<number, number> {
  table.admit();
  const planned = table.plan(prefillTokens);
  for (const item of planned) {
    table.computed(item);
    if (item.samples) item.sequence.generated.push(7);
  }
  return new Map(planned.map(({ sequence: one, count }) => [one.order, count]));
}

describe('fairShares', () => {
  it('spends the budget, gives nobody more than it needs, and nobody less than an equal share', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 600 }), { minLength: 1, maxLength: 12 }),
        fc.nat(800),
        (needs, budget) => {
          const shares = fairShares(needs, budget);
          const needed = needs.reduce((sum, need) => sum + need, 0);
          const equal = Math.floor(budget / needs.length);
          return (
            shares.reduce((sum, share) => sum + share, 0) === Math.min(budget, needed) &&
            shares.every(
              (share, index) => share <= (needs[index] as number) && share >= Math.min(needs[index] as number, equal),
            )
          );
        },
      ),
    );
  });
});

describe('sharesByTenant', () => {
  it('gives a tenant with one prompt as much as one with three, and what it leaves to the others', () => {
    const own = (order: number, promptTokens: number): Sequence => ({
      ...sequence(order, promptTokens),
      tenantId: tenantId('own'),
    });
    const many = [sequence(0, 90), sequence(1, 90), sequence(2, 6)];
    expect(sharesByTenant([...many, own(3, 30)], 60)).toEqual([12, 12, 6, 30]);
    expect(sharesByTenant([...many, own(3, 10)], 60)).toEqual([22, 22, 6, 10]);
    expect(sharesByTenant([own(3, 30)], 20)).toEqual([20]);
    expect(sharesByTenant([], 20)).toEqual([]);
  });
});

describe('SequenceTable', () => {
  const make = (cells: number, seats: number, stepTokens = 64): { table: SequenceTable; released: number[] } => {
    const released: number[] = [];
    const limits = { cells, parallel: seats, seats, stepTokens, shares: true, cellRowNanos: 0 };
    const truncate = (seat: number, kept: number): void => void (kept === 0 && released.push(seat));
    return { table: new SequenceTable(limits, { ...noCalls, truncate, grow: () => cells }), released };
  };

  it('decodes first, then shares the rest of the step among prompts', () => {
    const { table } = make(4096, 4);
    table.add(sequence(0, 10));
    expect(step(table)).toEqual(new Map([[0, 10]]));
    table.add(sequence(1, 100));
    table.add(sequence(2, 100));
    const planned = step(table);
    expect(planned.get(0)).toBe(1);
    expect((planned.get(1) ?? 0) + (planned.get(2) ?? 0)).toBe(63);
    expect(Math.abs((planned.get(1) ?? 0) - (planned.get(2) ?? 0))).toBeLessThanOrEqual(1);
    expect(table.seated.filter(isDecoding).map((one) => one.order)).toEqual([0]);
  });

  it('bounds the prefill of a step, not its decoding', () => {
    const { table } = make(4096, 4);
    table.add(sequence(0, 10));
    step(table);
    table.add(sequence(1, 100));
    expect(step(table, 5)).toEqual(
      new Map([
        [0, 1],
        [1, 5],
      ]),
    );
  });

  it('seats in order of arrival and frees the seat and the cells at the end', () => {
    const { table, released } = make(4096, 1);
    const first = sequence(0, 10);
    table.add(first);
    table.add(sequence(1, 10));
    step(table);
    expect(table.waiting.map((one) => one.order)).toEqual([1]);
    table.remove(first);
    expect(released).toEqual([0]);
    expect(table.usedCells).toBe(0);
    expect(table.admit().map((one) => one.order)).toEqual([1]);
  });

  it('lets nobody in whom the cache can’t hold', () => {
    const { table } = make(200, 4);
    table.add(sequence(0, 90));
    table.add(sequence(1, 90));
    expect(table.admit().map((one) => one.order)).toEqual([0]);
  });

  it('asks for cells before anybody waits or gives way, and goes on as before where there are no more', () => {
    const asked: number[] = [];
    let cells = 100;
    const table = new SequenceTable(
      { cells, parallel: 4, seats: 4, stepTokens: 64, shares: true, cellRowNanos: 0 },
      {
        ...noCalls,
        grow: (wanted) => {
          if (wanted > 200 && cells === 200) return cells;
          asked.push(wanted);
          cells = Math.min(200, Math.max(cells, wanted));
          return cells;
        },
      },
    );
    table.add({ ...sequence(0, 20), expectedTokens: 60 });
    step(table);
    expect(asked).toEqual([]);
    table.add({ ...sequence(1, 40), expectedTokens: 60 });
    step(table);
    expect(asked).toEqual([80 + 100]);
    table.add(sequence(2, 80));
    step(table);
    expect(asked).toHaveLength(2);
    expect(table.seated.map((one) => one.order)).toEqual([0, 1]);
    let most = 0;
    for (; table.seated.length > 1; step(table)) most = table.usedCells;
    expect(most).toBeGreaterThan(190);
    expect(cells).toBe(200);
  });

  it('when cells run out the youngest gives up, is computed again from its start, and everybody ends', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 60 })), {
          minLength: 1,
          maxLength: 6,
        }),
        fc.integer({ min: 120, max: 400 }),
        (jobs, cells) => {
          const { table } = make(cells, 3, 32);
          const wanted = new Map<Sequence, number>();
          for (const [order, [prompt, output]] of jobs.entries()) {
            const one = sequence(order, prompt);
            wanted.set(one, output);
            table.add(one);
          }
          for (let count = 0; table.size > 0; count += 1) {
            if (count > 3_000) return false;
            step(table);
            if (table.usedCells > cells) return false;
            for (const one of table.seated) {
              if (one.seat === null || one.cells > one.prompt.length + one.generated.length) return false;
              if (one.generated.length >= (wanted.get(one) as number)) table.remove(one);
            }
            if (new Set(table.seated.map((one) => one.seat)).size !== table.seated.length) return false;
          }
          return [...wanted].every(([one, output]) => one.generated.length === output && one.seat === null);
        },
      ),
    );
  });

  it('keeps the oldest going when the cache is full', () => {
    const { table, released } = make(100, 2);
    const [old, young] = [sequence(0, 10), sequence(1, 10)];
    table.add(old);
    table.add(young);
    for (let count = 0; young.seat !== null || count === 0; count += 1) step(table);
    expect(released).toHaveLength(1);
    expect(old.seat).not.toBeNull();
    expect(tokensLeft(young)).toBe(10 + young.generated.length);
  });
});
