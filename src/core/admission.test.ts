import { describe, expect, it } from 'vitest';
import { asked, Story } from '../../test/story.ts';
import { MILLI, modelId, requestId, SECOND } from './ids.ts';

describe('admission', () => {
  it('refuses a model that could never fit, and says by how much', () => {
    const story = new Story({ models: { huge: { loadedBytes: 250 } }, device: { overheadBytes: 20 } });
    story.ask('r1', 'huge');
    const refusal = story.one('refuseRequest');
    expect(refusal).toMatchObject({ code: 'model_too_large', retryAfterMicros: null });
    expect(refusal.because).toEqual({
      rule: 'larger-than-budget',
      neededBytes: 250,
      lendableBytes: 180,
      overheadBytes: 20,
    });
    expect(story.state.outcomes).toMatchObject({ arrived: 1, refused: 1 });
  });

  it('counts what pinned models hold as not to be had', () => {
    const story = new Story({ models: { fixed: { pinned: true }, large: { loadedBytes: 150 } } });
    story.loaded('fixed');
    story.ask('r1', 'large');
    expect(story.one('refuseRequest').because).toMatchObject({ rule: 'larger-than-budget', lendableBytes: 100 });
  });

  it('refuses when the line of the model is full, with a time to come back', () => {
    const story = new Story({ limits: { queuePerModel: 2 } });
    for (const id of ['r1', 'r2', 'r3']) story.ask(id, 'a');
    const refusal = story.one('refuseRequest');
    expect(refusal).toMatchObject({
      requestId: 'r3',
      code: 'queue_full',
      because: { rule: 'queue-full', waiting: 2, limit: 2 },
    });
    expect(refusal.retryAfterMicros).toBeGreaterThanOrEqual(SECOND);
  });

  it('refuses when the node is full, running requests counted', () => {
    const story = new Story({ limits: { requests: 2 } });
    story.run('r1', 'a');
    story.ask('r2', 'b');
    story.ask('r3', 'b');
    expect(story.one('refuseRequest').because).toEqual({ rule: 'node-full', requests: 2, limit: 2 });
  });

  it('asks to be woken when the longest wait is over, and then says so', () => {
    const story = new Story({ limits: { queueTimeoutMicros: SECOND } });
    story.ask('r1', 'a');
    expect(story.wakeAt).toBe(SECOND);
    story.after(SECOND - 1);
    expect(story.all('refuseRequest')).toEqual([]);
    story.after(1);
    const refusal = story.one('refuseRequest');
    expect(refusal).toMatchObject({ requestId: 'r1', code: 'queue_timeout' });
    expect(refusal.because).toEqual({
      rule: 'queue-timeout',
      waitedMicros: SECOND,
      limitMicros: SECOND,
      phase: 'loading',
    });
  });

  it('does not hold the time that it computed against a preempted request', () => {
    const story = new Story({
      device: { memoryBytes: 100 },
      limits: { queueTimeoutMicros: 10 * SECOND },
      residency: { drainMicros: 0 },
    });
    story.run('r1', 'a');
    story.after(9 * SECOND, asked('r2', 'b'));
    story.after(2 * SECOND);
    expect(story.one('preemptRequest').requestId).toBe('r1');
    story.preempted('r1');
    expect(story.request('r1')).toMatchObject({ phase: 'waiting', queuedAt: 11 * SECOND });
  });

  it('tells requests that wait after a failed load, and backs off before the next one', () => {
    const story = new Story();
    story.ask('r1', 'a');
    const failed = (): unknown =>
      story.tell({ type: 'modelLoadFailed', ...story.under('a'), code: 'model_file_invalid', message: 'no GGUF' });
    failed();
    expect(story.one('refuseRequest')).toMatchObject({
      code: 'model_file_invalid',
      message: 'no GGUF',
      retryAfterMicros: 250 * MILLI,
      because: { rule: 'load-failed', failures: 1 },
    });
    story.ask('r2', 'a');
    expect(story.one('refuseRequest').because).toMatchObject({
      rule: 'load-back-off',
      failures: 1,
      retryAfterMicros: 250 * MILLI,
    });
    story.after(250 * MILLI, asked('r3', 'a'));
    expect(story.one('ensureLoaded').modelId).toBe('a');
    failed();
    expect(story.one('refuseRequest').because).toMatchObject({ failures: 2, backOffMicros: 500 * MILLI });
  });

  it('forgives one failed load of a model that has been loaded before, not of one that never was', () => {
    const story = new Story();
    const failed = (): unknown =>
      story.tell({ type: 'modelLoadFailed', ...story.under('a'), code: 'model_load_failed', message: 'no memory' });
    story.ask('r1', 'a');
    failed();
    expect(story.one('refuseRequest').requestId).toBe('r1');
    story.after(250 * MILLI, asked('r2', 'a'));
    story.loaded('a');
    story.finished('r2');
    story.tell({ type: 'stopRequested', modelId: modelId('a'), force: true });
    story.unloaded('a');
    story.ask('r3', 'a');
    failed();
    expect(story.all('refuseRequest')).toEqual([]);
    story.ask('r4', 'a');
    expect(story.all('refuseRequest')).toEqual([]);
    story.now = story.wakeAt ?? 0;
    story.after(0);
    expect(story.one('ensureLoaded').modelId).toBe('a');
    failed();
    expect(story.all('refuseRequest').map(({ code }) => code)).toEqual(['model_load_failed', 'model_load_failed']);
  });

  it('forgives three deaths in a row for those who wait, not a fourth', () => {
    const story = new Story({ models: { a: { parallel: 1 } } });
    story.ask('r1', 'a');
    for (let death = 1; death <= 4; death++) {
      story.tell({ type: 'engineDied', modelId: modelId('a') });
      if (death === 4) break;
      expect(story.all('refuseRequest')).toEqual([]);
      story.ask(`later${death}`, 'a');
      expect(story.all('refuseRequest')).toEqual([]);
      story.now = story.wakeAt ?? 0;
      story.after(0);
      expect(story.one('ensureLoaded').modelId).toBe('a');
    }
    expect(story.all('refuseRequest').map(({ code }) => code)).toEqual(Array.from({ length: 4 }, () => 'engine_died'));
  });

  it('admits nothing while the node stops, and sends away who waits', () => {
    const story = new Story({ device: { memoryBytes: 100 } });
    story.run('r1', 'a');
    story.ask('r2', 'b');
    story.tell({ type: 'nodeStopping' });
    expect(story.one('refuseRequest')).toMatchObject({ requestId: 'r2', code: 'node_stopping' });
    story.ask('r3', 'a');
    expect(story.one('refuseRequest').because).toEqual({ rule: 'node-stopping' });
    expect(story.request('r1')?.phase).toBe('running');
  });

  it('counts each request once, however it ends', () => {
    const story = new Story();
    story.run('r1', 'a');
    story.ask('r2', 'a');
    story.tell({ type: 'requestCancelled', requestId: requestId('r2') });
    story.finished('r1');
    story.finished('r1');
    story.tell({ type: 'requestCancelled', requestId: requestId('r1') });
    expect(story.state.outcomes).toEqual({ arrived: 2, finished: 1, failed: 0, refused: 0, cancelled: 1 });
  });
});
