import { describe, expect, it } from 'vitest';
import type { Action } from '../../src/core/actions.ts';
import type { Input } from '../../src/core/arbiter.ts';
import { createArbiter } from '../../src/core/arbiter.ts';
import { run } from './scenario.ts';

const RUNS = 400;
/** Of longer searches: one that was loaded and unloaded in one decision, one that slept for ever. */
const FOUND = [21_553, 21_623];

describe('the swarm', () => {
  it(`breaks no rule in ${RUNS} runs, and everything settles when trouble is over`, () => {
    const total = { finished: 0, failed: 0, refused: 0, cancelled: 0, preempted: 0, saved: 0, loads: 0 };
    for (const seed of [...Array.from({ length: RUNS }, (_, index) => index + 1), ...FOUND]) {
      try {
        const { outcomes, preempted, saved, loads } = run(seed);
        for (const name of ['finished', 'failed', 'refused', 'cancelled'] as const) total[name] += outcomes[name] ?? 0;
        total.preempted += preempted;
        total.saved += saved;
        total.loads += loads;
      } catch (thrown) {
        throw new Error(`npm run swarm -- --seed ${seed}`, { cause: thrown });
      }
    }
    // What never happens was not tested.
    for (const [name, count] of Object.entries(total))
      expect(count, name).toBeGreaterThan(name === 'failed' ? RUNS / 40 : RUNS / 10);
  });

  it('decides the same with the same seed, and otherwise with another', () => {
    const digests = [1, 2, 3, 4, 5].map((seed) => run(seed).digest);
    expect([1, 2, 3, 4, 5].map((seed) => run(seed).digest)).toEqual(digests);
    expect(new Set(digests).size).toBe(5);
  });

  it('replays: the same events give the same actions, also when both have been text in between', () => {
    for (let seed = 1; seed <= 20; seed++) {
      const journal: { input: Input; actions: readonly Action[] }[] = [];
      run(seed, (input, actions) => journal.push(structuredClone({ input, actions })));
      const again = createArbiter();
      const fromText = JSON.parse(JSON.stringify(journal)) as typeof journal;
      expect(fromText).toEqual(journal);
      for (const { input, actions } of fromText) expect(again.handle(input).actions).toEqual(actions);
    }
  });
});
