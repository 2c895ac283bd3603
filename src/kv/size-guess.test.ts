import fc from 'fast-check';
import { expect, it } from 'vitest';
import { SizeGuess } from './size-guess.ts';

const count = fc.integer({ min: 1, max: 20_000 });

it('is never too small, and exact without window and frame from the shortest on', () => {
  const model = fc.record({
    each: fc.nat(1_000),
    window: fc.nat(5_000),
    frame: fc.nat(10_000),
    seen: fc.array(count, { minLength: 1 }),
  });
  fc.assert(
    fc.property(model, count, ({ each, window, frame, seen }, tokens) => {
      const bytesOf = (of: number): number => 1 + frame + each * of + window * Math.min(of, 512);
      const guess = new SizeGuess();
      for (const of of seen) guess.seen(of, bytesOf(of));
      const most = guess.most(tokens) as number;
      const plain = new SizeGuess();
      for (const of of seen) plain.seen(of, 7 * of);
      return most >= bytesOf(tokens) && plain.most(tokens) === 7 * Math.max(tokens, Math.min(...seen));
    }),
  );
});

it('knows nothing at first, and forgets what no longer holds', () => {
  const guess = new SizeGuess();
  expect(guess.most(1)).toBeNull();
  guess.seen(10, 100);
  guess.seen(100, 2_000);
  expect([guess.most(10), guess.most(200)]).toEqual([2_000, 4_000]);
});
