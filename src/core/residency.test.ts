import { describe, expect, it } from 'vitest';
import { asked, finished, Story } from '../../test/story.ts';
import { tenantOf } from './fairness.ts';
import { modelId, requestId, SECOND, tenantId } from './ids.ts';

describe('coming in', () => {
  it('loads a model for its first request, once, however many follow', () => {
    const story = new Story();
    story.ask('r1', 'a');
    expect(story.one('ensureLoaded')).toMatchObject({ modelId: 'a', reservedBytes: 100 });
    expect(story.one('ensureLoaded').because).toMatchObject({
      rule: 'most-urgent',
      from: 'cold',
      waiting: 1,
      freeBytes: 200,
    });
    story.ask('r2', 'a');
    expect(story.brief).toEqual([]);
  });

  it('loads by the deadline of the first token, not by arrival', () => {
    const story = new Story({ device: { memoryBytes: 100 } });
    story.run('busy', 'c');
    story.ask('patient', 'a', { ttftGoalMicros: 10 * SECOND });
    story.ask('urgent', 'b', { ttftGoalMicros: SECOND });
    story.finished('busy');
    story.unloaded('c');
    expect(story.brief).toEqual(['ensureLoaded b']);
  });

  it('loads for a tenant that has received far more than another only after the other', () => {
    const story = new Story({ device: { memoryBytes: 100 }, models: { a: {}, b: {}, c: {} } });
    story.run('first', 'a', { tenant: 'greedy', promptTokens: 2_000 });
    story.ask('more', 'b', { tenant: 'greedy', ttftGoalMicros: SECOND });
    story.ask('poor', 'c', { tenant: 'poor', ttftGoalMicros: 10 * SECOND });
    const { state } = story;
    // The one that came just now was lifted to the least: it is the usage behind it that counts.
    tenantOf(state, tenantId('poor')).counter = 0;
    story.finished('first', { promptTokens: 2_000 });
    story.unloaded('a');
    expect(story.one('ensureLoaded').modelId).toBe('c');
  });

  it('loads no more at once than half the lanes, the rest in their turn', () => {
    const story = new Story({ device: { memoryBytes: 300 } });
    for (const name of ['a', 'b', 'c']) story.ask(`for ${name}`, name);
    expect(story.state.loading.size).toBe(1);
    story.loaded('a');
    expect(story.one('ensureLoaded').modelId).toBe('b');
  });

  it('wakes a sleeping model: it needs only the bytes that sleep had freed', () => {
    const story = new Story({ models: { a: { canSleep: true } }, residency: { keepAliveMicros: SECOND } });
    story.run('r1', 'a');
    story.finished('r1');
    story.after(SECOND);
    story.asleep('a');
    expect(story.state.heldBytes).toBe(10);
    story.ask('r2', 'a');
    expect(story.one('ensureLoaded').because).toMatchObject({ from: 'asleep', freeBytes: 190 });
    expect(story.state.heldBytes).toBe(100);
  });
});

describe('making room', () => {
  it('evicts the idle model that is cheapest to miss, and only as many as it takes', () => {
    const story = new Story({ models: { a: { loadMicros: SECOND }, b: { loadMicros: 100 * SECOND }, c: {} } });
    for (const name of ['a', 'b']) {
      story.run(`on ${name}`, name);
      story.finished(`on ${name}`);
    }
    story.after(SECOND, asked('r1', 'c'));
    expect(story.one('ensureUnloaded')).toMatchObject({
      modelId: 'a',
      because: { rule: 'cheapest-to-miss', for: 'c', missingBytes: 100 },
    });
    story.unloaded('a');
    expect(story.one('ensureLoaded').modelId).toBe('c');
  });

  it('prefers sleep to unloading, and unloads where sleep does not free enough', () => {
    const models = { a: { canSleep: true }, small: { loadedBytes: 90 }, large: { loadedBytes: 195 } };
    const story = new Story({ models });
    story.run('r1', 'a');
    story.finished('r1');
    story.ask('r2', 'small');
    expect(story.one('ensureLoaded').modelId).toBe('small');
    story.loaded('small');
    story.finished('r2');
    story.ask('r3', 'large');
    expect(story.brief.toSorted()).toEqual(['ensureUnloaded a', 'ensureUnloaded small']);
  });

  it('evicts nothing for a model that it would not make room for', () => {
    const story = new Story({ models: { a: {}, b: { loadedBytes: 90 }, large: { loadedBytes: 150 } } });
    story.run('r1', 'a');
    story.run('r2', 'b');
    story.finished('r2');
    // With b gone the large one would still not fit beside a, which computes.
    story.ask('r3', 'large');
    expect(story.brief).toEqual([]);
  });

  it('has a computing model make room only after patience, then lets it finish', () => {
    const story = new Story({ device: { memoryBytes: 100 } });
    story.run('r1', 'a', { promptTokens: 5_000, maxTokens: 1 });
    story.ask('r2', 'b');
    expect(story.state.residencyWakeAt).toBe(2 * SECOND);
    story.after(2 * SECOND - 1);
    expect(story.model('a').drainingSince).toBeNull();
    story.after(1, asked('r3', 'a'));
    expect(story.model('a').drainingSince).toBe(2 * SECOND);
    expect(story.news).toEqual([]);
    story.finished('r1');
    expect(story.one('ensureUnloaded')).toMatchObject({
      modelId: 'a',
      because: { rule: 'cheapest-to-miss', for: 'b' },
    });
  });

  it('leaves a model its minimum stay, however long somebody has waited', () => {
    const story = new Story({
      device: { memoryBytes: 100 },
      residency: { patienceMicros: 0, minimumStayMicros: 5 * SECOND },
    });
    story.run('r1', 'a');
    story.ask('r2', 'b');
    expect(story.state.residencyWakeAt).toBe(5 * SECOND);
    story.after(5 * SECOND);
    expect(story.model('a').drainingSince).toBe(5 * SECOND);
  });

  it('preempts when the drain is over', () => {
    const story = new Story({ device: { memoryBytes: 100 } });
    story.run('r1', 'a', { promptTokens: 5_000 });
    story.ask('r2', 'b');
    story.after(2 * SECOND);
    story.after(2 * SECOND);
    expect(story.one('preemptRequest').because).toMatchObject({
      rule: 'drain-over',
      for: 'b',
      drainedMicros: 2 * SECOND,
    });
  });

  it('preempts at once where computing again is cheaper than waiting', () => {
    const story = new Story({ device: { memoryBytes: 100 } });
    story.run('r1', 'a', { promptTokens: 10, maxTokens: 10_000 });
    story.ask('r2', 'b');
    story.after(2 * SECOND);
    // 10 tokens of prompt cost 20 ms; the 128 tokens that requests usually have cost 2.56 s.
    expect(story.one('preemptRequest').because).toMatchObject({ rule: 'preempting-cheaper', againMicros: 20_000 });
  });

  it('gives a request that got nothing from its stay twice the time in the next', () => {
    const story = new Story({ device: { memoryBytes: 100 }, residency: { patienceMicros: 0 } });
    story.run('long', 'a', { promptTokens: 50_000 });
    story.ask('b1', 'b');
    story.after(SECOND);
    story.after(2 * SECOND);
    story.preempted('long');
    story.unloaded('a');
    story.loaded('b');
    story.finished('b1');
    story.unloaded('b');
    story.loaded('a');
    story.ask('b2', 'b');
    story.after(SECOND);
    story.after(4 * SECOND - 1);
    expect(story.news).toEqual([]);
    story.after(1);
    expect(story.one('preemptRequest').requestId).toBe('long');
  });

  it('lets nobody pass a model that is out of patience', () => {
    const story = new Story({ models: { a: {}, large: { loadedBytes: 200 }, small: { loadedBytes: 50 } } });
    story.run('r1', 'a');
    story.ask('r2', 'large', { ttftGoalMicros: 0 });
    story.after(SECOND, asked('r3', 'small'));
    expect(story.one('ensureLoaded').modelId).toBe('small');
    story.loaded('small');
    story.finished('r3');
    story.after(SECOND);
    story.ask('r4', 'small');
    // Small is on the device and idle, but it is to leave with a: otherwise one of them would always be busy.
    expect(story.brief).toEqual([]);
    story.finished('r1');
    expect(
      story
        .all('ensureUnloaded')
        .map(({ modelId: id }) => id)
        .toSorted(),
    ).toEqual(['a', 'small']);
  });

  it('does not let a sleeping model keep its bytes from a more urgent one, because somebody waits for it too', () => {
    const residency = { keepAliveMicros: SECOND };
    const models = { s: { canSleep: true, loadedBytes: 60 }, x: { loadedBytes: 60 }, large: { loadedBytes: 95 } };
    const story = new Story({ device: { memoryBytes: 100 }, models, residency });
    story.run('s1', 's');
    story.finished('s1');
    story.after(SECOND);
    story.asleep('s');
    story.run('x1', 'x', { promptTokens: 5_000, maxTokens: 1 });
    story.ask('large1', 'large');
    story.after(SECOND, asked('s2', 's'));
    story.after(SECOND);
    // 30 bytes are free, x would free 60: without the 10 of s, 95 could never be had.
    expect(story.model('x').drainingSince).toBe(story.now);
    story.finished('x1');
    expect(story.all('ensureUnloaded').map(({ modelId: id }) => id)).toEqual(expect.arrayContaining(['x', 's']));
  });

  it('does not let two models with long lines keep out a third', () => {
    const story = new Story({
      device: { memoryBytes: 100 },
      models: { a: { parallel: 1 }, b: { parallel: 1 }, c: {} },
    });
    for (const id of ['a1', 'a2', 'a3']) story.ask(id, 'a');
    for (const id of ['b1', 'b2', 'b3']) story.ask(id, 'b');
    story.loaded('a');
    story.after(SECOND, asked('c1', 'c'));
    story.after(SECOND);
    story.preempted('a1');
    story.unloaded('a');
    story.loaded('b');
    story.after(3 * SECOND);
    story.preempted('b1');
    story.unloaded('b');
    // a's line is older than c's, but a has had its stay.
    expect(story.one('ensureLoaded').modelId).toBe('c');
  });

  it('goes on as before when the one who waited leaves', () => {
    const story = new Story({ device: { memoryBytes: 100 } });
    story.run('r1', 'a', { promptTokens: 5_000, maxTokens: 1 });
    story.ask('r2', 'b');
    story.after(2 * SECOND, asked('r3', 'a'));
    story.tell({ type: 'requestCancelled', requestId: requestId('r2') });
    expect(story.model('a').drainingSince).toBeNull();
    expect(story.one('startRequest').requestId).toBe('r3');
  });

  it('sheds what a lowered budget no longer holds', () => {
    const story = new Story();
    story.run('r1', 'a');
    story.finished('r1');
    story.run('r2', 'b', { promptTokens: 5_000, maxTokens: 1 });
    story.configure({ device: { memoryBytes: 100 } });
    expect(story.one('ensureUnloaded')).toMatchObject({
      modelId: 'a',
      because: { rule: 'memory-pressure', missingBytes: 100 },
    });
    story.unloaded('a');
    story.configure({ device: { memoryBytes: 50 } });
    story.after(SECOND);
    expect(story.model('b').drainingSince).toBe(SECOND);
    story.after(0, finished('r2'));
    expect(story.one('ensureUnloaded').modelId).toBe('b');
  });
});

describe('leaving', () => {
  it('puts an idle model to sleep after its keep-alive, and takes it off after its sleep', () => {
    const residency = { keepAliveMicros: 10 * SECOND, sleepForMicros: 20 * SECOND };
    const story = new Story({ models: { a: { canSleep: true } }, residency });
    story.run('r1', 'a');
    story.finished('r1');
    expect(story.wakeAt).toBe(10 * SECOND);
    story.after(10 * SECOND);
    expect(story.one('ensureAsleep').because).toEqual({
      rule: 'keep-alive',
      idleMicros: 10 * SECOND,
      limitMicros: 10 * SECOND,
    });
    story.asleep('a');
    story.after(20 * SECOND);
    expect(story.one('ensureUnloaded').because).toMatchObject({ rule: 'slept-long' });
    story.unloaded('a');
    expect(story.wakeAt).toBeNull();
  });

  it('takes a request’s keep-alive for its model: 0 unloads at once, -1 keeps', () => {
    const story = new Story();
    story.run('r1', 'a', { keepAliveMicros: 0 });
    story.finished('r1');
    expect(story.one('ensureUnloaded').because).toMatchObject({ rule: 'keep-alive', limitMicros: 0 });
    story.run('r2', 'b', { keepAliveMicros: -1 });
    story.finished('r2');
    expect(story.wakeAt).toBeNull();
  });

  it('never evicts a pinned model, and brings it back when its process died', () => {
    const story = new Story({ device: { memoryBytes: 250 }, models: { a: { pinned: true }, b: {}, c: {} } });
    expect(story.one('ensureLoaded')).toMatchObject({ modelId: 'a', because: { rule: 'asked' } });
    story.loaded('a');
    story.run('r1', 'b');
    story.finished('r1');
    story.after(SECOND, asked('r2', 'c'));
    expect(story.one('ensureUnloaded').modelId).toBe('b');
    story.unloaded('b');
    story.loaded('c');
    story.tell({ type: 'engineDied', modelId: modelId('a') });
    story.after(SECOND);
    expect(story.one('ensureLoaded').modelId).toBe('a');
  });

  it('relaunches a changed model when what runs is done, and starts nothing on the old one', () => {
    const story = new Story();
    story.run('r1', 'a');
    story.configure({ models: { a: { revision: '2' } } });
    story.ask('r2', 'a');
    expect(story.brief).toEqual([]);
    story.finished('r1');
    expect(story.one('ensureUnloaded').because.rule).toBe('relaunched');
    story.unloaded('a');
    expect(story.one('ensureLoaded').modelId).toBe('a');
    story.loaded('a');
    expect(story.one('startRequest').requestId).toBe('r2');
  });

  it('forgets a removed model when it is off the device, and tells who waits for it', () => {
    const story = new Story({ models: { a: { parallel: 1 }, b: {} } });
    story.run('r1', 'a');
    story.ask('r2', 'a');
    story.configure({ models: { b: {} } });
    expect(story.one('refuseRequest')).toMatchObject({ requestId: 'r2', code: 'model_stopped' });
    story.finished('r1');
    expect(story.one('ensureUnloaded').because.rule).toBe('removed');
    story.unloaded('a');
    expect(story.state.models.has(modelId('a'))).toBe(false);
  });

  it('refuses a preempted request of a removed model', () => {
    const story = new Story({ device: { memoryBytes: 100 }, residency: { patienceMicros: 0, drainMicros: 0 } });
    story.run('r1', 'a');
    story.ask('r2', 'b');
    story.after(SECOND);
    expect(story.one('preemptRequest').requestId).toBe('r1');
    story.configure({ models: { b: {}, c: {} } });
    story.preempted('r1');
    expect(story.one('refuseRequest').because.rule).toBe('model-removed');
    expect(story.request('r1')).toBeUndefined();
  });

  it('stops a model by order: gently when idle, at once with force', () => {
    const story = new Story({ models: { a: { parallel: 1 } } });
    story.run('r1', 'a');
    story.tell({ type: 'stopRequested', modelId: modelId('a'), force: false });
    expect(story.brief).toEqual([]);
    story.finished('r1');
    expect(story.one('ensureUnloaded').because.rule).toBe('stopped');
    story.unloaded('a');
    story.run('r2', 'a');
    story.ask('r3', 'a');
    story.tell({ type: 'stopRequested', modelId: modelId('a'), force: true });
    expect(story.brief).toEqual(['refuseRequest r3', 'ensureUnloaded a']);
  });
});

describe('between tenants', () => {
  /** x computes on two lanes; the greedy one has received far more, and asks for a model that is not there. */
  const crowded = (memoryBytes: number): Story => {
    const story = new Story({ device: { memoryBytes, lanes: 2 }, models: { x1: {}, x2: {}, cold: {} } });
    story.run('one', 'x1', { tenant: 'x' });
    story.run('two', 'x2', { tenant: 'x' });
    tenantOf(story.state, tenantId('greedy')).counter = 1_000_000;
    return story;
  };

  it('puts off a load that would take a lane from those who have received far less, until they are even', () => {
    const story = crowded(300);
    story.ask('more', 'cold', { tenant: 'greedy' });
    expect(story.all('ensureLoaded')).toEqual([]);
    tenantOf(story.state, tenantId('x')).counter = 900_000;
    story.after(SECOND);
    expect(story.one('ensureLoaded').modelId).toBe('cold');
  });

  it('loads at once where a lane is free', () => {
    const story = crowded(300);
    story.finished('two');
    story.ask('more', 'cold', { tenant: 'greedy' });
    expect(story.one('ensureLoaded').modelId).toBe('cold');
  });

  it('has nobody who received far less make room, but not for ever', () => {
    const story = crowded(200);
    story.ask('more', 'cold', { tenant: 'greedy' });
    story.after(10 * SECOND - 1);
    expect(story.model('x1').drainingSince).toBeNull();
    story.after(1);
    expect(story.model('x1').drainingSince).toBe(10 * SECOND);
  });
});
