import fc from 'fast-check';
import { expect, test } from 'vitest';
import { tenantId } from '../core/ids.ts';
import { createFinder } from './finder.ts';
import type { Findable } from './finder.ts';

interface Named extends Findable {
  readonly id: number;
}
const A = tenantId('a');
const entry = (id: number, steps: string, hint: string | null = null, tenant = A): Named => ({
  id,
  tenantId: tenant,
  fingerprint: 'm',
  steps: Array.from(steps, (_, index) => `${tenant}/${steps.slice(0, index + 1)}`),
  hint,
});
const newest = (a: Named, b: Named): number => b.id - a.id;
const any = (): boolean => true;

test('the longest common beginning wins; entries that left are not found', () => {
  const finder = createFinder<Named>();
  const [short, long, other] = [entry(1, 'ab'), entry(2, 'abcd'), entry(3, 'ax')];
  for (const one of [short, long, other]) finder.add(one);
  expect(finder.find(entry(9, 'abcz'), any, newest)).toEqual({ entry: long, depth: 3 });
  finder.remove(long);
  expect(finder.find(entry(9, 'abcz'), any, newest)).toEqual({ entry: short, depth: 2 });
  expect(finder.find(entry(9, 'abcz'), ({ id }) => id === 3, newest)).toEqual({ entry: other, depth: 1 });
  finder.remove(short);
  finder.remove(short);
  finder.remove(other);
  expect(finder.find(entry(9, 'abcz'), any, newest)).toBeNull();
  expect(finder.steps()).toBe(0);
});

test('of thousands under one step the recent ones are compared, and the one that the client names', () => {
  const finder = createFinder<Named>();
  const all = Array.from({ length: 5000 }, (_, id) => entry(id, `s${String.fromCodePoint(1000 + id)}`, `hint${id}`));
  for (const one of all) finder.add(one);
  expect(finder.find(entry(9, 'sz'), any, newest)?.entry.id).toBe(4999);
  const byHint = (a: Named, b: Named): number => Number(b.hint === 'hint7') - Number(a.hint === 'hint7');
  expect(finder.find(entry(9, 'sz', 'hint7'), any, byHint)?.entry.id).toBe(7);
  for (const one of all.slice(1000)) finder.remove(one);
  expect(finder.find(entry(9, 'sz'), any, newest)).not.toBeNull();
  expect(all[5] && finder.find(all[5], any, newest)?.entry.id).toBe(5);
});

test('what it continues is found: whole chains only, not its own', () => {
  const finder = createFinder<Named>();
  const [first, twin, next, branch] = [entry(1, 'ab'), entry(2, 'ab'), entry(3, 'abcd'), entry(4, 'abx')];
  for (const one of [first, twin, next, branch]) finder.add(one);
  expect(finder.beginnings(next)).toEqual([first, twin]);
  expect(finder.beginnings(twin)).toEqual([first]);
});

const word = fc.string({ unit: fc.constantFrom('a', 'b'), minLength: 1, maxLength: 5 });
test('it finds what a look at all of them finds: depth, tenant', () => {
  const one = fc.record({ steps: word, tenant: fc.constantFrom('a', 'b'), leaves: fc.boolean() });
  fc.assert(
    fc.property(fc.array(one, { maxLength: 60, size: 'max' }), word, (specs, asked) => {
      const finder = createFinder<Named>();
      // The same names for both tenants, as hashes never are: it must not depend on that.
      const made = specs.map(({ steps, tenant }, id) => ({ ...entry(id, steps), tenantId: tenantId(tenant) }));
      for (const each of made) finder.add(each);
      const left = made.filter((each) => {
        if (specs[each.id]?.leaves === true) finder.remove(each);
        return specs[each.id]?.leaves !== true;
      });
      const wanted = entry(-1, asked);
      const depths = left
        .filter((each) => each.tenantId === A)
        .map((each) => wanted.steps.filter((step, at) => each.steps[at] === step).length);
      const best = Math.max(0, ...depths);
      const found = finder.find(wanted, any, newest);
      // Only the recent ones of a step are compared: many strangers under the same names may hide a candidate, also after they have left.
      if (found !== null) expect(found.entry.tenantId).toBe(A);
      if (made.length <= 8) expect(found?.depth ?? 0).toBe(best);
      else expect(found?.depth ?? 0).toBeLessThanOrEqual(best);
    }),
  );
});
