import { describe, expect, it } from 'vitest';
import { asked, Story } from '../../test/story.ts';
import { MILLI, SECOND } from './ids.ts';

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

  it('has a batch request give its place to an interactive one, and go on when there is room again', () => {
    const story = new Story();
    story.run('b1', 'a', { priority: 'batch', promptTokens: 500 });
    story.ask('b2', 'a', { priority: 'batch', promptTokens: 50 });
    story.ask('now', 'a');
    expect(story.one('preemptRequest')).toMatchObject({
      requestId: 'b2',
      because: { rule: 'interactive-first', for: 'now' },
    });
    story.preempted('b2');
    expect(story.one('startRequest').requestId).toBe('now');
    story.finished('now');
    expect(story.one('startRequest').requestId).toBe('b2');
  });

  it('has a tenant that has received far more give a place to one that waits, where nothing is lost by it', () => {
    const story = new Story({ models: { a: { keepsKv: true, parallel: 1 } } });
    story.run('g1', 'a', { tenant: 'greedy', promptTokens: 10 });
    story.ask('poor', 'a', { tenant: 'poor', promptTokens: 10 });
    story.sliceEnded('a', { g1: 120 });
    expect(story.all('preemptRequest')).toEqual([]);
    story.after(MILLI);
    story.sliceEnded('a', { g1: 200 });
    expect(story.one('preemptRequest')).toMatchObject({
      requestId: 'g1',
      because: { rule: 'least-served-first', for: 'poor' },
    });
    story.preempted('g1');
    expect(story.one('startRequest').requestId).toBe('poor');
    // It has nothing to show yet, and g1 nothing of its next stay: nobody is sent away again.
    expect(story.all('preemptRequest')).toEqual([]);
  });

  it('has a tenant with several places give one to a tenant that has none, but not more than one', () => {
    const story = new Story({ models: { a: { keepsKv: true, parallel: 3 } } });
    for (const id of ['g1', 'g2', 'g3']) story.ask(id, 'a', { tenant: 'greedy', promptTokens: 10 });
    story.loaded('a');
    story.sliceEnded('a', { g1: 10, g2: 2, g3: 10 });
    story.ask('p1', 'a', { tenant: 'poor', promptTokens: 10 });
    expect(story.one('preemptRequest')).toMatchObject({
      requestId: 'g2',
      because: { rule: 'a-place-each', for: 'p1' },
    });
    story.ask('p2', 'a', { tenant: 'poor', promptTokens: 10 });
    story.preempted('g2');
    expect(story.one('startRequest').requestId).toBe('p1');
    expect(story.all('preemptRequest')).toEqual([]);
  });

  it('lets embeddings wait for company, but not longer than their window', () => {
    const story = new Story();
    story.run('r1', 'a');
    story.ask('e1', 'a', { kind: 'embed' });
    expect(story.brief).toEqual([]);
    expect(story.wakeAt).toBe(3 * MILLI);
    story.after(MILLI, asked('e2', 'a', { kind: 'embed' }));
    expect(story.brief).toEqual([]);
    story.after(2 * MILLI);
    expect(story.brief).toEqual(['startRequest e1', 'startRequest e2']);
    // The batch runs: whoever comes now joins it at once.
    story.ask('e3', 'a', { kind: 'embed' });
    expect(story.brief).toEqual(['startRequest e3']);
  });

  it('starts a full batch of embeddings at once', () => {
    const story = new Story();
    story.run('r1', 'a');
    for (const id of ['e1', 'e2', 'e3']) story.ask(id, 'a', { kind: 'embed' });
    expect(story.brief).toEqual([]);
    story.ask('e4', 'a', { kind: 'embed' });
    expect(story.all('startRequest').length).toBe(4);
  });
});
