import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Story } from '../../test/story.ts';
import {
  createCosts,
  learnLoad,
  learnLoadedBytes,
  learnRequest,
  recomputeMicros,
  remainingMicros,
  switchInMicros,
} from './costs.ts';
import { preemptionMicros } from './kv.ts';

const costs = (): ReturnType<typeof createCosts> => createCosts(new Story().model('a').spec);

describe('costs', () => {
  it('moves by a quarter of what was seen, so that one outlier does little', () => {
    const seen = costs();
    learnLoad(seen, 'cold', 900_000);
    expect(seen.loadMicros).toBe(600_000);
    learnLoad(seen, 'asleep', 25_000);
    expect(switchInMicros(seen, true)).toBe(100_000);
    learnLoad(seen, 'already', 1);
    expect(switchInMicros(seen, false)).toBe(600_000);
  });

  it('takes the first measurement of bytes as it is; then grows at once and shrinks slowly', () => {
    const seen = costs();
    learnLoadedBytes(seen, 60);
    expect(seen.loadedBytes).toBe(60);
    learnLoadedBytes(seen, 100);
    expect(seen.loadedBytes).toBe(100);
    learnLoadedBytes(seen, 60);
    expect(seen.loadedBytes).toBe(90);
  });

  it('never reserves less than was measured last', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(1_000_000), { minLength: 1 }), (measured) => {
        const seen = costs();
        for (const bytes of measured) learnLoadedBytes(seen, bytes);
        expect(seen.loadedBytes).toBeGreaterThanOrEqual(measured.at(-1) ?? 0);
        expect(seen.loadedBytes).toBeLessThanOrEqual(Math.max(...measured));
      }),
    );
  });

  it('learns what tokens cost, and from it what a preemption and a rest cost', () => {
    const seen = costs();
    for (let i = 0; i < 60; i++) {
      learnRequest(seen, {
        promptTokens: 1_500,
        cachedTokens: 500,
        outputTokens: 50,
        prefillMicros: 500_000,
        decodeMicros: 250_000,
      });
      // The new words behind a cached conversation tell nothing of what a prompt costs.
      learnRequest(seen, {
        promptTokens: 1_000,
        cachedTokens: 990,
        outputTokens: 50,
        prefillMicros: 90_000,
        decodeMicros: 250_000,
      });
    }
    expect(recomputeMicros(seen, 2_000)).toBe(1_000_000);
    expect(remainingMicros(seen, 0, 1_000)).toBe(50 * 5_000);
    expect(remainingMicros(seen, 0, 10)).toBe(10 * 5_000);
    // One that is longer than usual already is expected to go on for half as long again as usual.
    expect(remainingMicros(seen, 100, 1_000)).toBe(25 * 5_000);
  });

  it('charges a preemption with the prompt and all that was generated', () => {
    const story = new Story();
    story.run('r1', 'a', { promptTokens: 100 });
    story.sliceEnded('a', { r1: 50 });
    const request = story.request('r1');
    expect(request && preemptionMicros(story.model('a'), request)).toBe(300_000);
  });

  it('charges no more than saving and reading back, where KV is kept', () => {
    const story = new Story({ models: { a: { keepsKv: true } } });
    story.run('r1', 'a', { promptTokens: 950 });
    story.sliceEnded('a', { r1: 50 });
    for (let i = 0; i < 60; i++)
      story.tell({ type: 'kvSaved', modelId: story.model('a').id, tokens: 500, micros: 5_000 });
    const request = story.request('r1');
    expect(request && preemptionMicros(story.model('a'), request)).toBe(2 * 10_000);
  });

  it('stays an integer whatever it sees', () => {
    const event = fc.record({
      promptTokens: fc.nat(100_000),
      cachedTokens: fc.nat(100_000),
      outputTokens: fc.nat(100_000),
      prefillMicros: fc.nat(1e9),
      decodeMicros: fc.nat(1e9),
    });
    fc.assert(
      fc.property(fc.array(event), (events) => {
        const seen = costs();
        for (const one of events) learnRequest(seen, one);
        for (const value of Object.values(seen))
          if (typeof value === 'number') expect(Number.isSafeInteger(value)).toBe(true);
        expect(Number.isSafeInteger(remainingMicros(seen, 3, 1_000))).toBe(true);
      }),
    );
  });
});
