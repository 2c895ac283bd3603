import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { DeviceView } from './placement.ts';
import { choose, spread } from './placement.ts';

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

describe('a request', () => {
  const SPILL = { loadMicros: 1_000_000, turnMicros: 2_000_000, marginMicros: 1_000_000 };
  const view = (others: number, hasModel: boolean, own = 0): DeviceView => ({ own, hasModel, others });

  it('stays at home while that is about as good', () => {
    expect(choose(1, [view(0, false), view(0, false)], SPILL)).toBe(1);
    expect(choose(1, [view(0, false), view(1, true)], SPILL)).toBe(1);
  });

  it('goes where it is served much sooner', () => {
    expect(choose(1, [view(0, false), view(4, true)], SPILL)).toBe(0);
  });

  it('joins its model where that computes, however busy it is there', () => {
    expect(choose(1, [view(0, false), view(0, true), view(5, true, 2)], SPILL)).toBe(2);
  });
});
