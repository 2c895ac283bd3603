import { describe, expect, it } from 'vitest';
import { Story } from '../../test/story.ts';
import { MILLI, requestId } from './ids.ts';
import { grantedLanes } from './slices.ts';

/** Four small models, all of them computing, on so many lanes. */
function crowd(lanes: number, models: readonly string[], interTokenGoalMicros = 200 * MILLI): Story {
  const specs = Object.fromEntries(models.map((name) => [name, { loadedBytes: 10, interTokenGoalMicros }]));
  const story = new Story({ device: { lanes }, models: specs });
  for (const name of models) {
    story.ask(`on ${name}`, name);
    settle(story);
    story.loaded(name);
  }
  return story;
}

/** Every slice comes back until nothing more is decided. */
function settle(story: Story): void {
  for (let round = 0; round < 10; round++) {
    const ending = [...story.state.sliced].filter(({ slice }) => slice?.ending === true);
    if (ending.length === 0) return;
    for (const { id } of ending) story.sliceEnded(id);
  }
}

const lanesOf = (story: Story): Record<string, number> =>
  Object.fromEntries([...story.state.sliced].map(({ id, slice }) => [id as string, slice?.lanes ?? 0]));

describe('slices', () => {
  it('gives all lanes, without an end, to the only model that computes', () => {
    const story = crowd(4, ['a']);
    expect(story.one('grantSlice')).toMatchObject({
      lanes: 4,
      micros: null,
      because: { rule: 'lanes-split', busy: 1, lanes: 4 },
    });
  });

  it('takes lanes back at a token boundary, and grants them only when they were seen to be free', () => {
    const story = crowd(4, ['a', 'b']);
    expect(story.brief).toEqual(['startRequest on b', 'endSlice a', 'grantSlice b']);
    // One lane was left to the load of b; a computed on the other three.
    expect(story.one('endSlice').because).toEqual({ rule: 'lanes-needed', lanes: 3, share: 2 });
    expect(lanesOf(story)).toEqual({ a: 3, b: 1 });
    story.sliceEnded('a');
    expect(lanesOf(story)).toEqual({ a: 2, b: 2 });
  });

  it('gives lanes that are left over to somebody', () => {
    const story = crowd(4, ['a', 'b', 'c']);
    settle(story);
    expect(Object.values(lanesOf(story)).toSorted((a, b) => a - b)).toEqual([1, 1, 2]);
  });

  it('has models take turns of one lane when there are more of them than lanes', () => {
    const story = crowd(2, ['a', 'b', 'c']);
    settle(story);
    const seen = new Set<string>();
    for (let turn = 1; turn <= 3; turn++) {
      expect(grantedLanes(story.state)).toBe(2);
      const [longest] = Object.keys(lanesOf(story));
      story.now += MILLI;
      story.sliceEnded(longest ?? '');
      const next = story.one('grantSlice');
      expect(next).toMatchObject({ lanes: 1, because: { rule: 'turns-of-one-lane', busy: 3, lanes: 2 } });
      seen.add(next.modelId);
    }
    expect(seen.size).toBe(3);
  });

  it('makes turns so short that all come round within the tightest goal between tokens', () => {
    const story = crowd(1, ['a', 'b', 'c'], 60 * MILLI);
    settle(story);
    const [name] = Object.keys(lanesOf(story));
    story.sliceEnded(name ?? '');
    expect(story.one('grantSlice').micros).toBe(30 * MILLI);
  });

  it('leaves a lane to a model that is being loaded, if one is left to compute', () => {
    const story = crowd(2, ['a', 'b']);
    settle(story);
    expect(lanesOf(story)).toEqual({ a: 1, b: 1 });
    story.configure({ models: { a: { loadedBytes: 10 }, b: { loadedBytes: 10 }, c: {} } });
    story.ask('r3', 'c');
    expect(story.brief).toEqual(['ensureLoaded c', 'endSlice a', 'endSlice b']);
    for (const name of ['a', 'b']) story.sliceEnded(name);
    expect(grantedLanes(story.state)).toBe(1);
  });

  it('gives lanes that nobody waits for to who computes', () => {
    const story = crowd(4, ['a', 'b']);
    story.sliceEnded('a');
    story.finished('on b');
    story.sliceEnded('b');
    expect(story.one('grantSlice')).toMatchObject({
      modelId: 'a',
      lanes: 4,
      because: { rule: 'lanes-split', busy: 1, lanes: 4 },
    });
  });

  it('does not spin on a model that makes no step', () => {
    const story = crowd(2, ['a']);
    const { slice } = story.model('a');
    const nothing = { lanes: 2, steps: 0, prefillTokens: 0, decodeTokens: {}, wallMicros: 0, computeMicros: 0 };
    story.tell({ type: 'sliceEnded', modelId: story.model('a').id, sliceId: slice?.id ?? 0, ...nothing });
    expect(story.brief).toEqual([]);
    expect(story.wakeAt).toBe(story.now + MILLI);
    story.after(MILLI);
    expect(story.one('grantSlice').modelId).toBe('a');
  });

  it('survives a device with fewer lanes than are granted', () => {
    const story = crowd(4, ['a', 'b']);
    settle(story);
    story.configure({ device: { lanes: 1 }, models: { a: { loadedBytes: 10 }, b: { loadedBytes: 10 } } });
    expect(story.all('endSlice')).toHaveLength(2);
    for (const name of ['a', 'b']) story.sliceEnded(name);
    expect(grantedLanes(story.state)).toBe(1);
  });

  it('leaves a lane idle that makes its model slower, and looks again whether that is still so', () => {
    const story = crowd(2, ['a']);
    const { paces } = story.model('a').costs;
    paces.set('1x0', { stepMicros: 10 * MILLI, at: story.now });
    paces.set('2x0', { stepMicros: 90 * MILLI, at: story.now });
    story.sliceEnded('a');
    expect(story.one('grantSlice').lanes).toBe(1);
    story.after(11_000 * MILLI);
    expect(story.one('grantSlice')).toMatchObject({
      lanes: 2,
      micros: 100 * MILLI,
      because: { rule: 'trying-a-width', usual: 1 },
    });
  });

  it('renews an open slice, so that what it did is reported', () => {
    const story = crowd(2, ['a']);
    const first = story.model('a').slice?.id;
    story.after(1_000 * MILLI);
    expect(story.one('grantSlice').id).not.toBe(first);
  });

  it('asks for steps no longer than the tightest goal between tokens, as soon as a stream flows', () => {
    const stepAfter = (micros: number, flows: boolean): number => {
      const story = crowd(2, ['a'], micros);
      if (flows) story.tell({ type: 'firstTokenEmitted', requestId: requestId('on a') });
      story.sliceEnded('a');
      return story.one('grantSlice').stepMicros;
    };
    expect(stepAfter(50 * MILLI, true)).toBe(50 * MILLI);
    // A part of the time in which a newcomer wants its first token: a second.
    expect(stepAfter(50 * MILLI, false)).toBe(150 * MILLI);
    expect(stepAfter(10_000 * MILLI, true)).toBe(150 * MILLI);
  });
});
