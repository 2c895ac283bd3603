import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createRoom } from './room.ts';

test('reserve, commit the real bytes, release: the rest is free again at each step', () => {
  const room = createRoom(100);
  expect(room.reserve('early', 1)).toBe(false);
  room.open(0);
  expect(room.reserve('a', 80)).toBe(true);
  expect(room.reserve('a', 1)).toBe(false);
  expect(room.reserve('b', 30)).toBe(false);
  expect(room.commit('a', 81)).toBe(false);
  expect(room.commit('a', 60)).toBe(true);
  expect(room.free()).toBe(40);
  room.setLeaving('a', true);
  expect([room.free(), room.coming()]).toEqual([40, 60]);
  room.release('a');
  expect([room.free(), room.coming(), room.fileBytes(), room.reservedBytes()]).toEqual([100, 0, 0, 0]);
});

test('what was found there counts until it is adopted or gone', () => {
  const room = createRoom(100);
  room.open(90);
  expect(room.reserve('a', 20)).toBe(false);
  room.adopt('old', 50);
  room.shed(40);
  expect(room.fileBytes()).toBe(50);
  expect(room.reserve('a', 50)).toBe(true);
});

const step = fc.record({
  type: fc.constantFrom('reserve', 'commit', 'leave', 'stay', 'release'),
  handle: fc.constantFrom('a', 'b', 'c', 'd'),
  bytes: fc.nat(80),
});
test('in any order: never more than the budget, and everything comes back', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80, size: 'max' }), (steps) => {
      const room = createRoom(100);
      room.open(0);
      for (const { type, handle, bytes } of steps) {
        if (type === 'reserve') room.reserve(handle, bytes);
        else if (type === 'commit') room.commit(handle, bytes);
        else if (type === 'release') room.release(handle);
        else room.setLeaving(handle, type === 'leave');
        expect(room.fileBytes() + room.reservedBytes() + room.free()).toBe(100);
        expect(room.coming()).toBeLessThanOrEqual(room.fileBytes() + room.reservedBytes());
      }
      for (const handle of ['a', 'b', 'c', 'd']) room.release(handle);
      expect([room.free(), room.coming()]).toEqual([100, 0]);
    }),
  );
});
