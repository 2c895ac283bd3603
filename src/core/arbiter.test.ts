import { describe, expect, it } from 'vitest';
import { asked, Story } from '../../test/story.ts';
import { MILLI, modelId, requestId, SECOND } from './ids.ts';

describe('the arbiter', () => {
  it('takes a request through its life', () => {
    const story = new Story();
    expect(story.ask('r1', 'a').map(({ type }) => type)).toEqual(['ensureLoaded']);
    expect(story.loaded('a').map(({ type }) => type)).toEqual(['startRequest', 'grantSlice']);
    story.tell({ type: 'firstTokenEmitted', requestId: requestId('r1') });
    expect(story.request('r1')?.firstTokenAt).toBe(story.now);
    expect(story.finished('r1')).toEqual([]);
    expect(story.sliceEnded('a', { r1: 20 })).toEqual([]);
    expect(story.state.outcomes).toMatchObject({ arrived: 1, finished: 1 });
  });

  it('has no wish to be woken when nothing can change by itself', () => {
    const story = new Story({ residency: { keepAliveMicros: -1 } });
    expect(story.wakeAt).toBeNull();
    story.run('r1', 'a');
    // While it computes, its slice is renewed now and then.
    expect(story.wakeAt).toBe(SECOND);
    story.finished('r1');
    story.sliceEnded('a');
    expect(story.wakeAt).toBeNull();
  });

  it('drops the completion of an action that is no longer under way', () => {
    const story = new Story();
    story.ask('r1', 'a');
    const stale = story.under('a');
    story.tell({ type: 'stopRequested', modelId: modelId('a'), force: true });
    story.tell({ type: 'modelLoaded', ...stale, from: 'cold', micros: MILLI, bytes: 100 });
    expect(story.model('a').phase).toBe('unloading');
    story.unloaded('a');
    story.tell({ type: 'modelLoadFailed', ...stale, code: 'model_load_failed', message: 'late' });
    expect(story.model('a')).toMatchObject({ phase: 'cold', failure: null });
  });

  it('hears nothing more of a request whose client left, and has its work freed', () => {
    const story = new Story();
    story.run('r1', 'a');
    story.tell({ type: 'requestCancelled', requestId: requestId('r1') });
    expect(story.one('cancelRequest').because).toMatchObject({ rule: 'client-left' });
    expect(story.finished('r1')).toEqual([]);
    expect(story.preempted('r1')).toEqual([]);
    expect(story.state.outcomes).toMatchObject({ cancelled: 1, finished: 0 });
  });

  it('does not grow younger when a clock jumps back', () => {
    const story = new Story();
    story.now = SECOND;
    story.ask('r1', 'a');
    story.now = 0;
    story.tell({ type: 'ticked' });
    expect(story.state.now).toBe(SECOND);
  });

  it('charges tokens of a slice that was reported late', () => {
    const story = new Story();
    story.run('r1', 'a');
    const late = {
      type: 'sliceEnded',
      modelId: modelId('a'),
      sliceId: 9_999,
      lanes: 1,
      steps: 1,
      prefillTokens: 0,
      wallMicros: 1,
      computeMicros: 1,
    } as const;
    story.tell({ ...late, decodeTokens: { [requestId('r1')]: 3 } });
    expect(story.request('r1')).toMatchObject({ outputTokens: 3, chargedTokens: 16 });
    expect(story.model('a').slice).not.toBeNull();
  });

  it('numbers its actions, and gives each a reason', () => {
    const story = new Story();
    const actions = [...story.ask('r1', 'a'), ...story.loaded('a'), ...story.after(SECOND, asked('r2', 'b'))];
    expect(actions.map(({ id }) => id)).toEqual([1, 2, 3, 4, 5]);
    expect(actions.map(({ because }) => because.rule)).toEqual([
      'most-urgent',
      'least-served',
      'lanes-split',
      'most-urgent',
      'lanes-needed',
    ]);
  });
});
