import { describe, expect, it } from 'vitest';
import { Story } from '../../test/story.ts';
import { modelId } from '../core/ids.ts';
import { checkInvariants } from './invariants.ts';
import type { Model, State } from '../core/state.ts';

/** A node in the middle of its work: one request runs, one waits, one model is being loaded. */
function busy(): { state: State; a: Model; b: Model } {
  const story = new Story({ models: { a: { parallel: 1 }, b: {}, c: {} } });
  story.run('r1', 'a');
  story.ask('r2', 'a');
  story.ask('r3', 'b');
  return { state: story.state, a: story.model('a'), b: story.model('b') };
}

const BREACHES: readonly (readonly [string, (node: ReturnType<typeof busy>) => void, RegExp])[] = [
  ['bytes booked', ({ state }) => (state.heldBytes += 1), /held 200, booked 201/],
  [
    'bytes of a cold model',
    ({ state }) => state.held.set(modelId('c'), 5),
    /only models on the device hold bytes \(model c, phase cold/,
  ],
  ['negative bytes', ({ state }) => state.held.set(modelId('a'), -5), /bytes held are positive \(model a, bytes -5\)/],
  [
    'lanes',
    ({ a }) => (a.slice = { id: 1, lanes: 3, grantedAt: 0, micros: null, ending: false }),
    /granted 3, lanes 2/,
  ],
  ['a transition without a way', ({ a }) => (a.transition = 7), /model a, phase resident, transition 7/],
  ['a way without a transition', ({ b }) => (b.transition = null), /model b, phase loading, transition null/],
  ['a count of waiting requests', ({ a }) => a.waiting++, /inLines 1, counted 2/],
  ['an index', ({ state, b }) => state.loading.delete(b), /index "loading" is true to its definition \(model b/],
  [
    'a request in two places',
    ({ a, b }) => b.active.add([...a.active][0] as never),
    /only models on the device compute/,
  ],
  ['a request in no place', ({ a }) => a.active.clear(), /index "busy"|exactly one place/],
  [
    'an outcome',
    ({ state }) => state.outcomes.finished++,
    /arrived 3, finished 1, failed 0, refused 0, cancelled 0, inNode 3/,
  ],
  [
    'a tenant’s requests',
    ({ state }) => [...state.tenants.values()].forEach((tenant) => tenant.requests++),
    /counted 3, booked 4/,
  ],
  ['a waiting request without a deadline', ({ state }) => (state.nextRefusalAt = null), /who waits has a deadline/],
];

describe('invariants', () => {
  it('hold in the middle of the work', () => {
    expect(() => checkInvariants(busy().state)).not.toThrow();
  });

  it.each(BREACHES)('name a breach of %s, with all terms', (_, breach, message) => {
    const node = busy();
    breach(node);
    expect(() => checkInvariants(node.state)).toThrow(message);
  });
});
