import { describe, expect, it } from 'vitest';
import { Story } from '../../test/story.ts';
import { tenantOf } from './fairness.ts';
import { MILLI, SECOND, tenantId } from './ids.ts';
import { inTurn } from './turns.ts';

/** Models that compute one request each, whose last turn ended so long ago. */
function contenders(ended: Readonly<Record<string, number>>, batch: readonly string[] = []): Story {
  const models = Object.fromEntries(Object.keys(ended).map((name) => [name, { loadedBytes: 10 }]));
  const story = new Story({ device: { lanes: 1 }, models });
  for (const name of Object.keys(ended)) {
    story.run(name, name, { priority: batch.includes(name) ? 'batch' : 'interactive', ttftGoalMicros: 60 * SECOND });
  }
  story.now = 10 * SECOND;
  story.tell({ type: 'ticked' });
  for (const [name, ago] of Object.entries(ended)) story.model(name).lastSliceEndedAt = story.now - ago;
  return story;
}

const order = (story: Story, soonMicros: number): string[] =>
  inTurn(story.state, [...story.state.busy], soonMicros).map(({ id }) => id);

describe('whose turn it is', () => {
  it('goes round: the longest without a turn is first', () => {
    expect(order(contenders({ a: 10 * MILLI, b: 30 * MILLI, c: 20 * MILLI }), 100 * MILLI)).toEqual(['b', 'c', 'a']);
  });

  it('puts whoever is about to miss its goal before all others', () => {
    const story = contenders({ a: 10 * MILLI, b: 30 * MILLI, c: 20 * MILLI });
    const request = story.request('a');
    if (request === undefined) throw new Error('no request');
    // Its next token is due 200 ms after its last turn: 190 ms from now.
    request.firstTokenAt = story.now - 500 * MILLI;
    expect(order(story, 100 * MILLI)).toEqual(['b', 'c', 'a']);
    expect(order(story, 200 * MILLI)).toEqual(['a', 'b', 'c']);
  });

  it('hurries nobody whose goal is lost anyway', () => {
    const story = contenders({ a: 10 * MILLI, b: 30 * MILLI });
    const request = story.request('a');
    if (request === undefined) throw new Error('no request');
    Object.assign(request, { dueAt: story.now - SECOND });
    expect(order(story, 0)).toEqual(['a', 'b']);
    Object.assign(request, { dueAt: story.now - SECOND - 1 });
    expect(order(story, 0)).toEqual(['b', 'a']);
  });

  it('leaves batch work for last, but not for ever', () => {
    const ended = { batch: SECOND, a: 10 * MILLI };
    expect(order(contenders(ended, ['batch']), 0)).toEqual(['a', 'batch']);
    expect(order(contenders({ ...ended, batch: 3 * SECOND }, ['batch']), 0)).toEqual(['batch', 'a']);
  });

  it('lets those of a tenant that has received far more than the others wait, however urgent', () => {
    const story = contenders({ a: 10 * MILLI, b: 30 * MILLI, c: 20 * MILLI });
    const theirs = ['b', 'c'].map((name) => story.request(name));
    for (const request of theirs) if (request !== undefined) Object.assign(request, { tenantId: tenantId('greedy') });
    tenantOf(story.state, tenantId('greedy')).counter = 400_000;
    expect(order(story, 0)).toEqual(['b', 'c', 'a']);
    tenantOf(story.state, tenantId('greedy')).counter = 2_000_000;
    const [urgent] = theirs;
    if (urgent !== undefined) urgent.firstTokenAt = story.now - SECOND;
    expect(order(story, SECOND)).toEqual(['a', 'b', 'c']);
  });
});
