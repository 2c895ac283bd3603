import { describe, expect, it } from 'vitest';
import { Story } from '../../test/story.ts';
import { MILLI, modelId } from './ids.ts';
import { bytesOnTheirWayOut, freeBytes, heldBy, lendableBytes } from './memory.ts';

const a = modelId('a');

describe('the byte ledger', () => {
  it('reserves before a load, corrects by what was measured, and frees when it was seen free', () => {
    const story = new Story({ device: { overheadBytes: 20 } });
    story.ask('r1', 'a');
    expect([heldBy(story.state, a), freeBytes(story.state)]).toEqual([100, 80]);
    story.loaded('a', 70);
    expect([heldBy(story.state, a), freeBytes(story.state)]).toEqual([70, 110]);
    story.tell({ type: 'memoryMeasured', modelId: a, bytes: 90 });
    expect([heldBy(story.state, a), freeBytes(story.state)]).toEqual([90, 90]);
    story.finished('r1');
    story.tell({ type: 'stopRequested', modelId: a, force: false });
    expect([freeBytes(story.state), bytesOnTheirWayOut(story.state)]).toEqual([90, 90]);
    story.unloaded('a');
    expect([freeBytes(story.state), bytesOnTheirWayOut(story.state)]).toEqual([180, 0]);
  });

  it('counts what sleep keeps', () => {
    const story = new Story({ models: { a: { canSleep: true } }, residency: { keepAliveMicros: MILLI } });
    story.run('r1', 'a');
    story.finished('r1');
    story.after(MILLI);
    expect(bytesOnTheirWayOut(story.state)).toBe(90);
    story.asleep('a');
    expect([heldBy(story.state, a), freeBytes(story.state)]).toEqual([10, 190]);
  });

  it('frees the bytes of a process that died', () => {
    const story = new Story();
    story.ask('r1', 'a');
    story.tell({ type: 'engineDied', modelId: a });
    expect([heldBy(story.state, a), story.state.heldBytes]).toEqual([0, 0]);
  });

  it('lends what pinned models do not hold', () => {
    const story = new Story({ device: { overheadBytes: 20 }, models: { a: { pinned: true }, b: {} } });
    expect(lendableBytes(story.state, a)).toBe(180);
    expect(lendableBytes(story.state, modelId('b'))).toBe(80);
  });
});
