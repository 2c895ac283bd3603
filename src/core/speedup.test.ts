import { describe, expect, it } from 'vitest';
import type { EventOf } from './events.ts';
import { MILLI, modelId, requestId, SECOND } from './ids.ts';
import type { Paces } from './speedup.ts';
import { learnPace, speedup, widthToTry } from './speedup.ts';

/** A slice of ten steps that decoded for so many sequences. */
const slice = (
  lanes: number,
  sequences: number,
  stepMicros: number,
  extra: Partial<EventOf<'sliceEnded'>> = {},
): EventOf<'sliceEnded'> => ({
  type: 'sliceEnded',
  modelId: modelId('m'),
  sliceId: 1,
  lanes,
  steps: 10,
  prefillTokens: 0,
  decodeTokens: Object.fromEntries(Array.from({ length: sequences }, (_, index) => [requestId(`r${index}`), 10])),
  wallMicros: 10 * stepMicros,
  computeMicros: 10 * stepMicros,
  ...extra,
});

const learned = (...slices: EventOf<'sliceEnded'>[]): Paces => {
  const paces: Paces = new Map();
  for (const each of slices) learnPace(paces, each, 0);
  return paces;
};

describe('speed-up by lanes', () => {
  it('is guessed until both widths were seen, then it is what was seen', () => {
    expect(speedup(learned(), 2, 4)).toBeCloseTo(1.8, 1);
    expect(speedup(learned(slice(2, 4, 20 * MILLI)), 2, 4)).toBeCloseTo(1.8, 1);
    expect(speedup(learned(slice(1, 4, 30 * MILLI), slice(2, 4, 20 * MILLI)), 2, 4)).toBe(1.5);
  });

  it('is learned apart for batches of other sizes', () => {
    const paces = learned(
      slice(1, 1, 10 * MILLI),
      slice(2, 1, 10 * MILLI),
      slice(1, 8, 40 * MILLI),
      slice(2, 8, 20 * MILLI),
    );
    expect(speedup(paces, 2, 1)).toBe(1);
    expect(speedup(paces, 2, 8)).toBe(2);
  });

  it('is not learned from prefill, nor from a step or two', () => {
    expect(learned(slice(1, 4, MILLI, { prefillTokens: 100 }), slice(1, 4, MILLI, { steps: 2 })).size).toBe(0);
  });

  it('is learned from a single step of a large batch, or it would be tried again and again', () => {
    const paces = learned(slice(2, 32, 150 * MILLI));
    learnPace(
      paces,
      slice(1, 32, 250 * MILLI, { steps: 1, wallMicros: 250 * MILLI, decodeTokens: { [requestId('r')]: 32 } }),
      0,
    );
    expect(widthToTry(paces, 2, 2, 32, SECOND)).toBeNull();
    expect(learned(slice(2, 4, MILLI, { steps: 0, decodeTokens: {}, wallMicros: SECOND })).size).toBe(0);
  });

  it('has the other width tried when it is unknown or was seen long ago', () => {
    const paces = learned(slice(2, 4, 20 * MILLI));
    expect(widthToTry(paces, 2, 2, 4, SECOND)).toBe(1);
    learnPace(paces, slice(1, 4, 30 * MILLI), SECOND);
    expect(widthToTry(paces, 2, 2, 4, 2 * SECOND)).toBeNull();
    expect(widthToTry(paces, 2, 2, 4, 62 * SECOND)).toBe(1);
  });

  it('tries the wider one again sooner, where it was given up', () => {
    const paces = learned(slice(2, 4, 200 * MILLI), slice(1, 4, 30 * MILLI));
    expect(widthToTry(paces, 1, 2, 4, SECOND)).toBeNull();
    expect(widthToTry(paces, 1, 2, 4, 11 * SECOND)).toBe(2);
    expect(widthToTry(paces, 1, 1, 4, 11 * SECOND)).toBeNull();
  });
});
