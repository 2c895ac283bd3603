import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CellBook } from './cells.ts';

describe('CellBook', () => {
  it('counts what two sequences have in common once, until the last of them lets go', () => {
    const book = new CellBook();
    book.append(0, 100);
    book.share(0, 1, 60);
    book.append(1, 10);
    expect([book.used, book.lengthOf(0), book.lengthOf(1)]).toEqual([110, 100, 70]);
    book.truncate(0, 0);
    expect([book.used, book.lengthOf(0), book.lengthOf(1)]).toEqual([70, 0, 70]);
    book.truncate(1, 30);
    expect([book.used, book.lengthOf(1)]).toEqual([30, 30]);
  });

  it('agrees with a cache that knows each cell’s holders', () => {
    const seat = fc.nat(4);
    const step = fc.oneof(
      fc.record({ type: fc.constant('append' as const), seat, cells: fc.nat(9) }),
      fc.record({ type: fc.constant('share' as const), seat, from: seat, end: fc.nat(40) }),
      fc.record({ type: fc.constant('truncate' as const), seat, cells: fc.nat(40) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const book = new CellBook();
        const cells: number[][] = [[], [], [], [], []];
        let next = 0;
        for (const one of steps) {
          const own = cells[one.seat] as number[];
          if (one.type === 'append') {
            book.append(one.seat, one.cells);
            for (let i = 0; i < one.cells; i += 1) own.push(next++);
          } else if (one.type === 'truncate') {
            book.truncate(one.seat, Math.min(one.cells, own.length));
            own.length = Math.min(one.cells, own.length);
          } else {
            const other = cells[one.from] as number[];
            const end = Math.min(one.end, other.length);
            if (one.from === one.seat || end <= own.length) continue;
            book.share(one.from, one.seat, end);
            own.push(...other.slice(own.length, end));
          }
        }
        expect(book.used).toBe(new Set(cells.flat()).size);
        expect(cells.map((_, index) => book.lengthOf(index))).toEqual(cells.map((own) => own.length));
      }),
      { numRuns: 500 },
    );
  });
});
