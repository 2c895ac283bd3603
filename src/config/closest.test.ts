import fc from 'fast-check';
import { expect, test } from 'vitest';
import { closest, editDistance } from './closest.ts';

test('a slip of the hand is recognised, a different word is not', () => {
  expect(closest('contxt', ['context', 'parallel'])).toBe('context');
  expect(closest('keep_alive', ['keepAlive', 'pin'])).toBe('keepAlive');
  expect(closest('quque', ['queue'])).toBe('queue');
  expect(closest('temperature', ['context', 'parallel'])).toBeNull();
});

test('the distance is a distance: zero for equal, symmetric, at most the longer length', () => {
  fc.assert(
    fc.property(fc.string({ maxLength: 12 }), fc.string({ maxLength: 12 }), (a, b) => {
      expect(editDistance(a, a)).toBe(0);
      expect(editDistance(a, b)).toBe(editDistance(b, a));
      expect(editDistance(a, b)).toBeLessThanOrEqual(Math.max(a.length, b.length));
    }),
  );
});
