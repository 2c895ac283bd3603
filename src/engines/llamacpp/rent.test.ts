import { describe, expect, it } from 'vitest';
import { type KvEntryId, kvEntryId } from '../../core/ids.ts';
import type { Idle } from './prefixes.ts';
import { moveNanos } from './rent.ts';
import { noCalls, withPrompt } from './sequence-stories.ts';
import { SequenceTable } from './sequences.ts';

const TOKENS = 100;
const CELL_ROW_NANOS = 500;
/** Rows until an idle sequence has cost as much as its way out and back. */
const ROWS = Math.ceil(moveNanos(TOKENS) / (TOKENS * CELL_ROW_NANOS));

describe('an idle sequence', () => {
  /** A table with so many idle ones; `mayLeave` says which of them may be saved. */
  const idleTable = (count: number, mayLeave: (idle: Idle) => boolean = () => true) => {
    const left: KvEntryId[] = [];
    const limits = { cells: 4096, parallel: 8, seats: 8, stepTokens: 512, shares: true };
    const table = new SequenceTable(
      { ...limits, cellRowNanos: CELL_ROW_NANOS },
      {
        ...noCalls,
        grow: () => 4096,
        leaves(idle, isNeeded) {
          if (!isNeeded && !mayLeave(idle)) return false;
          left.push(idle.entryId);
          return true;
        },
      },
    );
    const parked = Array.from({ length: count }, (_, order) => {
      const sequence = withPrompt(order, [1000 + order, ...Array.from({ length: TOKENS }, () => 1)]);
      table.add(sequence);
      return sequence;
    });
    table.admit();
    for (const item of table.plan(4096)) table.computed(item);
    for (const [order, sequence] of parked.entries()) {
      sequence.cells = TOKENS;
      table.park(sequence, kvEntryId(`e${order}`));
    }
    return { table, left };
  };

  it('leaves when its stay has cost as much as its way out and back', () => {
    const { table, left } = idleTable(1);
    table.passed(ROWS - 1);
    expect(left).toEqual([]);
    table.passed(1);
    expect([left, table.idle]).toEqual([['e0'], []]);
  });

  it('costs more beside more rows', () => {
    const { table, left } = idleTable(1);
    for (let steps = 0; steps < Math.ceil(ROWS / 16); steps++) table.passed(16);
    expect(left).toEqual(['e0']);
  });

  it('leaves alone, the others at the next steps', () => {
    const { table, left } = idleTable(3);
    table.passed(ROWS);
    expect(left).toEqual(['e0']);
    table.passed(1);
    table.passed(1);
    expect(left).toEqual(['e0', 'e1', 'e2']);
  });

  it('stays if it can’t be saved, and keeps nobody else from leaving', () => {
    const { table, left } = idleTable(2, ({ entryId }) => entryId !== 'e0');
    table.passed(ROWS);
    expect([left, table.idle.map(({ entryId }) => entryId)]).toEqual([['e1'], ['e0']]);
  });

  it('makes way for a newcomer in company, unless somebody who waits goes on from it', () => {
    const { table, left } = idleTable(3);
    const newcomer = (order: number, first: number) =>
      table.add(withPrompt(order, [first, ...Array.from({ length: 40 }, () => 1)]));
    newcomer(7, 9_001);
    table.admit();
    expect(left).toEqual([]);
    newcomer(8, 9_002);
    newcomer(9, 1_001);
    table.admit();
    expect(left).toEqual(['e0', 'e2']);
  });

  it('that was of use to another stays as long again', () => {
    const { table, left } = idleTable(1);
    table.passed(ROWS - 1);
    table.add(withPrompt(9, [1000, ...Array.from({ length: 40 }, () => 1), 2, 3]));
    expect(table.admit()[0]?.reused).toBe(41);
    table.passed(ROWS - 1);
    expect(left).toEqual([]);
    table.passed(1);
    expect(left).toEqual(['e0']);
  });
});
