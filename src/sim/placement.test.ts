import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Views } from './placement.ts';
import { candidates, choose, spread } from './placement.ts';

describe('homes', () => {
  it('are as many on each device, give or take one, whatever the sizes', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 100 }), { maxLength: 60 }),
        fc.integer({ min: 1, max: 16 }),
        (sizes, devices) => {
          const homes = spread(
            sizes.map((weightBytes, index) => ({ name: `m${index}`, weightBytes })),
            devices,
          );
          const counts = Array.from({ length: devices }, () => 0);
          for (const home of homes.values()) counts[home] = (counts[home] ?? 0) + 1;
          expect(homes.size).toBe(sizes.length);
          expect(Math.max(...counts)).toBeLessThanOrEqual(Math.ceil(sizes.length / devices));
        },
      ),
    );
  });

  it('spread the large ones', () => {
    const homes = spread(
      [
        { name: 'a', weightBytes: 26 },
        { name: 'b', weightBytes: 26 },
        { name: 'c', weightBytes: 14 },
        { name: 'd', weightBytes: 14 },
      ],
      2,
    );
    expect(homes.get('a')).not.toBe(homes.get('b'));
  });
});

it('a model’s devices begin with its home, and are all different', () => {
  fc.assert(
    fc.property(
      fc.nat(99),
      fc.nat(99),
      fc.integer({ min: 1, max: 64 }),
      fc.integer({ min: 1, max: 70 }),
      (a, index, devices, most) => {
        const home = a % devices;
        const found = candidates(home, index, devices, most);
        expect(found[0]).toBe(home);
        expect(new Set(found).size).toBe(Math.min(most, devices));
        expect(Math.max(...found)).toBeLessThan(devices);
      },
    ),
  );
});

describe('a request', () => {
  const SPILL = { loadMicros: 1_000_000, turnMicros: 2_000_000, joinMicros: 8_000_000, seats: 4 };
  /** Per device: other models with work, whether the model is there, its requests. */
  const views = (...all: readonly (readonly [others: number, present: number, own: number])[]): Views => ({
    own: all.map(([, , own]) => own),
    present: all.map(([, present]) => present),
    busy: all.map(([others, , own]) => others + (own > 0 ? 1 : 0)),
  });

  it('stays at home while that is about as good', () => {
    expect(choose([1, 0], views([0, 0, 0], [0, 0, 0]), SPILL)).toBe(1);
    expect(choose([1, 0], views([0, 0, 0], [1, 1, 0]), SPILL)).toBe(1);
  });

  it('goes where it is served much sooner', () => {
    expect(choose([1, 0], views([0, 0, 0], [4, 1, 0]), SPILL)).toBe(0);
  });

  it('joins its model where that computes, as long as it is not far busier there', () => {
    expect(choose([1, 0, 2], views([0, 0, 0], [0, 1, 0], [2, 1, 2]), SPILL)).toBe(2);
    expect(choose([1, 0, 2], views([0, 0, 0], [0, 1, 0], [6, 1, 2]), SPILL)).toBe(1);
  });

  it('goes elsewhere when all seats there are taken', () => {
    expect(choose([1, 0], views([0, 0, 0], [0, 1, 4]), SPILL)).toBe(0);
  });
});
