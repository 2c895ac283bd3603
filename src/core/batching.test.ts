import { describe, expect, it } from 'vitest';
import { asked, Story } from '../../test/story.ts';
import { SECOND } from './ids.ts';

describe('batching', () => {
  it('serves all who gathered while the model was loaded, as many at once as it has sequences', () => {
    const story = new Story();
    for (const id of ['r1', 'r2', 'r3']) story.ask(id, 'a');
    story.loaded('a');
    expect(story.brief).toEqual(['startRequest r1', 'startRequest r2', 'grantSlice a']);
    expect(story.all('startRequest')[1]?.because).toMatchObject({
      rule: 'least-served',
      active: 2,
      parallel: 2,
      waiting: 1,
    });
  });

  it('lets the next join as soon as one has ended, without waiting for the batch', () => {
    const story = new Story();
    for (const id of ['r1', 'r2', 'r3']) story.ask(id, 'a');
    story.loaded('a');
    story.finished('r1');
    expect(story.brief).toEqual(['startRequest r3']);
  });

  it('takes interactive requests before batch ones', () => {
    const story = new Story({ models: { a: { parallel: 1 } } });
    story.ask('slow', 'a', { priority: 'batch' });
    story.ask('quick', 'a');
    story.loaded('a');
    expect(story.one('startRequest').requestId).toBe('quick');
  });

  it('starts nothing new on a model that makes room, and a preempted request before later ones', () => {
    const story = new Story({ device: { memoryBytes: 100 }, residency: { drainMicros: 4 * SECOND } });
    story.run('long', 'a', { maxTokens: 1, promptTokens: 5_000 });
    story.ask('other', 'b');
    story.after(2 * SECOND, asked('late', 'a'));
    expect(story.news).toEqual([]);
    expect(story.model('a').drainingSince).toBe(2 * SECOND);
    story.after(4 * SECOND);
    expect(story.one('preemptRequest')).toMatchObject({
      requestId: 'long',
      because: { rule: 'drain-over', for: 'b', drainedMicros: 4 * SECOND },
    });
    story.preempted('long');
    story.unloaded('a');
    story.loaded('b');
    story.finished('other');
    story.unloaded('b');
    story.loaded('a');
    expect(story.all('startRequest').map(({ requestId: id }) => id)).toEqual(['long', 'late']);
  });
});
