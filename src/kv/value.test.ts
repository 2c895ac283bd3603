import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createGreedyDual } from './value.ts';
import type { GreedyDual, Valued } from './value.ts';

const of = (costMicros: number, bytes: number, uses = 1): Valued => ({ uses, costMicros, bytes, superseded: false });

/** Everything out, in order. */
function drain(values: GreedyDual<string>): string[] {
  const left: string[] = [];
  for (let least = values.least(); least !== null; least = values.least()) {
    left.push(least.key);
    values.leave(least.key);
  }
  return left;
}

test('what is cheap for its size leaves first, and use keeps it', () => {
  const values = createGreedyDual<string>();
  values.set('small and dear', of(1000, 10));
  values.set('large and dear', of(1000, 100));
  values.set('large, dear and used', of(1000, 100, 5));
  values.set('large and cheap', of(10, 100));
  expect(drain(values)).toEqual(['large and cheap', 'large and dear', 'large, dear and used', 'small and dear']);
});

test('what is not used sinks: after another has left, something new and cheaper outlives it', () => {
  const values = createGreedyDual<string>();
  values.set('old', of(1000, 100));
  values.set('passing', of(500, 100));
  expect(values.least()?.key).toBe('passing');
  values.leave('passing');
  values.set('new', of(600, 100));
  expect(drain(values)).toEqual(['old', 'new']);
});

test('turning away ages the others as if it had come and left', () => {
  const values = createGreedyDual<string>();
  values.set('old', of(1000, 100));
  values.turnAway(values.worthOf(of(900, 100)));
  values.set('new', of(200, 100));
  expect(drain(values)).toEqual(['old', 'new']);
});

test('the superseded leave before all, and age nobody', () => {
  const values = createGreedyDual<string>();
  values.set('superseded', { ...of(1e9, 1), superseded: true });
  values.set('worthless', of(0, 100));
  expect(values.least()?.key).toBe('superseded');
  values.leave('superseded');
  expect(values.age).toBe(0);
});

test('the held are passed over, and keep their worth', () => {
  const values = createGreedyDual<string>();
  values.set('a', of(1, 1));
  values.set('b', of(2, 1));
  values.hold('a');
  expect(values.least()?.key).toBe('b');
  expect(values.dearest()).toEqual(['b', 'a']);
  values.unhold('a');
  expect(values.least()?.key).toBe('a');
});

const step = fc.oneof(
  fc.record({
    type: fc.constant('set' as const),
    key: fc.nat(15),
    cost: fc.nat(1e6),
    bytes: fc.integer({ min: 1, max: 1e6 }),
  }),
  fc.record({ type: fc.constantFrom('hold', 'unhold', 'delete'), key: fc.nat(15) }),
  fc.record({ type: fc.constant('leave' as const) }),
);

test('the least is what a look at all of them finds, whatever came before', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120, size: 'max' }), (steps) => {
      const values = createGreedyDual<number>();
      const all = new Map<number, { worth: number; turn: number; isHeld: boolean }>();
      for (const [turn, one] of steps.entries()) {
        if (one.type === 'set' && 'cost' in one) {
          const valued = of(one.cost, one.bytes);
          all.set(one.key, { worth: values.worthOf(valued), turn, isHeld: all.get(one.key)?.isHeld ?? false });
          values.set(one.key, valued);
        } else if ('key' in one) {
          const known = all.get(one.key);
          if (one.type === 'hold') {
            values.hold(one.key);
            if (known) known.isHeld = true;
          } else if (one.type === 'unhold') {
            values.unhold(one.key);
            if (known) known.isHeld = false;
          } else {
            values.delete(one.key);
            all.delete(one.key);
          }
        }
        const [first] = [...all]
          .filter(([, { isHeld }]) => !isHeld)
          .toSorted(([, a], [, b]) => a.worth - b.worth || a.turn - b.turn);
        expect(values.least()?.key).toBe(first?.[0]);
        if (one.type === 'leave' && first !== undefined) {
          values.leave(first[0]);
          all.delete(first[0]);
          expect(values.age).toBeGreaterThanOrEqual(first[1].worth);
        }
      }
    }),
  );
});
