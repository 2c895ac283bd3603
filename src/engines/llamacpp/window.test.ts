import fc from 'fast-check';
import { expect, it } from 'vitest';
import { WindowHold } from './window.ts';

const SEATS = 4;
const WINDOW = 64;

/** A cell of the seat, at this position. */
type Cell = `${number}@${number}`;
const cellsOf = (seat: number, count: number): Set<Cell> =>
  new Set(Array.from({ length: count }, (_, at): Cell => `${seat}@${at}`));
const isBetween = (cell: Cell, start: number, end: number): boolean => {
  const at = Number(cell.slice(cell.indexOf('@') + 1));
  return at >= start && at < end;
};

/** Which cells belong to which sequence. */
function story(seats = SEATS, window = WINDOW) {
  const cells = new Map<number, Set<Cell>>();
  const of = (sequence: number): Set<Cell> => cells.get(sequence) ?? new Set();
  const hold = new WindowHold(seats, window, {
    share: (from, to, start, end) =>
      cells.set(to, new Set([...of(to), ...[...of(from)].filter((cell) => isBetween(cell, start, end))])),
    remove: (sequence, start, end) =>
      cells.set(sequence, new Set([...of(sequence)].filter((cell) => !isBetween(cell, start, end)))),
  });
  return { cells, of, hold };
}

it('whatever grows and is cut, what a seat’s window has left behind is held, and nothing that is not there', () => {
  const change = fc.record({ seat: fc.nat(SEATS - 1), by: fc.integer({ min: -200, max: 100 }) });
  fc.assert(
    fc.property(fc.array(change, { maxLength: 60 }), (changes) => {
      const { cells, of, hold } = story();
      for (const { seat, by } of changes) {
        const now = Math.max(0, of(seat).size + by);
        cells.set(seat, cellsOf(seat, now));
        if (by > 0) hold.grown(seat, now);
        else hold.cut(seat, now);
        const all = Array.from({ length: SEATS }, (_, one) => of(one));
        const left = all.flatMap(({ size }, one) => [...cellsOf(one, Math.max(0, size - WINDOW))]);
        if (left.some((cell) => !of(SEATS).has(cell))) return false;
        if ([...of(SEATS)].some((cell) => !all.some((one) => one.has(cell)))) return false;
      }
      return true;
    }),
  );
});

it('asks for more sequences only where a window slides', () => {
  expect([story().hold.sequences, story().hold.scratch]).toEqual([SEATS + 2, SEATS + 1]);
  expect([story(SEATS, 0).hold.sequences, story(SEATS, 0).hold.scratch]).toEqual([SEATS, null]);
});

it('holds nothing more of a cache that has lost everything', () => {
  const { cells, of, hold } = story();
  cells.set(0, cellsOf(0, 100));
  hold.grown(0, 100);
  cells.clear();
  hold.lost();
  hold.cut(0, 0);
  expect(of(SEATS).size).toBe(0);
});
