import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Offer } from './placement.ts';
import { choose, homesOf } from './placement.ts';

const offer = (change: Partial<Offer> = {}): Offer => ({
  fits: true,
  isFailing: false,
  hasRoom: true,
  busy: 0,
  freeBytes: 100,
  wasHere: false,
  ...change,
});

describe('a model goes', () => {
  test.each<[string, Partial<Offer>, Partial<Offer>]>([
    ['where it fits at all, however busy', { busy: 9, hasRoom: false }, { fits: false }],
    ['where no load of it has just failed', { busy: 9, hasRoom: false }, { isFailing: true }],
    ['where its memory is free, rather than send others away', { busy: 9 }, { hasRoom: false }],
    ['to the less busy one', { busy: 0.5 }, { busy: 1, wasHere: true, freeBytes: 900 }],
    ['back to where it was, of equals', { wasHere: true }, { freeBytes: 900 }],
    ['to where more is free, of equals', { freeBytes: 200 }, { freeBytes: 100 }],
  ])('%s', (_, better, worse) => {
    expect(choose([offer(better), offer(worse)])).toBe(0);
    expect(choose([offer(worse), offer(better)])).toBe(1);
  });

  test('to the first of those that are alike, and nowhere without an offer', () => {
    expect(choose([offer(), offer()])).toBe(0);
    expect(choose([])).toBe(-1);
  });
});

describe('models that never leave', () => {
  test('are spread by their bytes, and keep the home that they have', () => {
    const model = (name: string, bytes: number, home: number | null = null, allowed = [0, 1]) => ({
      name,
      bytes,
      home,
      allowed,
    });
    const homes = homesOf([model('a', 10), model('b', 60), model('c', 50), model('kept', 30, 1)], [100, 100]);
    expect(Object.fromEntries(homes)).toEqual({ kept: 1, b: 0, c: 1, a: 0 });
    expect(homesOf([model('moved', 10, 1, [0])], [10, 100]).get('moved')).toBe(0);
  });

  test('have one home each, among those that may have them', () => {
    const models = fc.uniqueArray(
      fc.record({
        name: fc.string(),
        bytes: fc.nat(1000),
        allowed: fc.uniqueArray(fc.nat(3), { minLength: 1 }),
        home: fc.option(fc.nat(3)),
      }),
      { selector: ({ name }) => name },
    );
    fc.assert(
      fc.property(models, (all) => {
        const homes = homesOf(all, [500, 500, 500, 500]);
        expect(homes.size).toBe(all.length);
        for (const { name, allowed } of all) expect(allowed).toContain(homes.get(name));
      }),
    );
  });
});
