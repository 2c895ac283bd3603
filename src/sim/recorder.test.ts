import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Slo, Track } from './recorder.ts';
import { createTrack, seeToken, seeTokens, timeQos } from './recorder.ts';

const SLO: Slo = { ttftMicros: 10_000_000, tpotMicros: 100_000 };
const track = (tokens = 100): Track => createTrack(SLO, 0, 0, 10, tokens);

describe('the two rules', () => {
  it('agree on a request that is served at once', () => {
    const seen = track();
    for (let k = 0; k < 100; k++) seeToken(SLO, seen, 1_000_000 + k * 10_000);
    expect(seen.lateTokens).toBe(0);
    expect(timeQos(seen)).toBe(1);
  });

  it('differ on stalls: a late token opens a new window that is as long as the first', () => {
    const seen = track();
    for (let k = 0; k < 100; k++) seeToken(SLO, seen, 5_000_000 + k);
    // Due at 20 s; it comes at 21 s, and the next at 40 s.
    seeToken(SLO, seen, 21_000_000);
    seeToken(SLO, seen, 40_000_000);
    expect(seen.lateTokens).toBe(2);
    expect(timeQos(seen)).toBeCloseTo((19.9 + 19) / 40, 3);
  });

  it('give nothing for a first token that never comes in time', () => {
    const seen = track(1);
    seeToken(SLO, seen, 12_000_000);
    expect(seen.lateTokens).toBe(1);
    expect(timeQos(seen)).toBe(0);
  });
});

it('many tokens at once are seen as one by one', () => {
  const runs = fc.array(
    fc.record({
      pause: fc.nat(15_000_000),
      steps: fc.array(fc.integer({ min: 1, max: 150_000 }), { minLength: 1, maxLength: 30 }),
    }),
    { minLength: 1, maxLength: 8 },
  );
  fc.assert(
    fc.property(runs, (all) => {
      const [one, many] = [track(), track()];
      let at = 0;
      for (const { pause, steps } of all) {
        at += pause;
        let end = 0;
        const ends = Float64Array.from(steps, (micros) => (end += micros));
        seeTokens(SLO, many, at, ends, ends.length, Math.max(...steps));
        for (const after of ends) seeToken(SLO, one, at + after);
        at += end;
      }
      // Where no step is longer than the target the longest gap is a bound, not the exact one.
      expect({ ...many, longestGap: 0 }).toEqual({ ...one, longestGap: 0 });
      expect(many.longestGap).toBeGreaterThanOrEqual(one.longestGap);
    }),
  );
});
