import { describe, expect, it } from 'vitest';
import { requestId } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import type { SliceReport } from './engine.ts';
import { createGate } from './http-gate.ts';
import type { Gate } from './http-gate.ts';
import { realTimer } from './timer.ts';

const one = requestId('one');
const turns = async (): Promise<void> => {
  for (let i = 0; i < 4; i++) await new Promise((resolve) => setImmediate(resolve));
};

interface Story {
  readonly gate: Gate;
  readonly reports: SliceReport[];
  readonly told: string[];
  /** The group is seen stopped. */
  stopped(): Promise<void>;
  fail(): Promise<void>;
  now: number;
  pending: number;
  opened: number;
  broken: string | null;
}

/** A group that stops when the story says so. */
async function story(pending: number): Promise<Story> {
  const told: string[] = [];
  const reports: SliceReport[] = [];
  let settle: { resolve(seen: boolean): void; reject(error: Error): void } | null = null;
  const gate = createGate({
    timer: { now: () => state.now, after: (micros, run) => realTimer.after(micros, run) },
    pending: () => state.pending,
    sliceEnded: (report) => reports.push(report),
    opened: () => void (state.opened += 1),
    broken: (error) => void (state.broken = error.message),
  });
  const state: Story = {
    gate,
    reports,
    told,
    async stopped() {
      settle?.resolve(true);
      await turns();
    },
    async fail() {
      settle?.reject(new BerthError('engine_error', 'it hangs'));
      await turns();
    },
    now: 0,
    pending,
    opened: 0,
    broken: null,
  };
  const guarding = gate.guard({
    by: 'signals',
    freeze() {
      told.push('freeze');
      return new Promise((resolve, reject) => {
        settle = { resolve, reject };
      });
    },
    thaw() {
      told.push('thaw');
      settle?.resolve(false);
      return Promise.resolve(true);
    },
  });
  await state.stopped();
  await guarding;
  told.length = 0;
  return state;
}

describe('a slice of a group that is frozen', () => {
  it('ends when the group was seen stopped, and counts what came until then', async () => {
    const at = await story(1);
    at.gate.slice({ sliceId: 1, lanes: 2, micros: null });
    expect([at.told, at.opened, at.gate.isOpen()]).toEqual([['thaw'], 1, true]);
    at.gate.prefilled(7);
    at.gate.counted(one, 2);
    at.now = 500;
    at.gate.endSlice(1);
    await turns();
    expect([at.reports, at.gate.isOpen()]).toEqual([[], false]);
    at.now = 900;
    at.gate.counted(one, 1);
    await at.stopped();
    expect(at.reports).toEqual([
      {
        sliceId: 1,
        lanes: 2,
        ended: 'told',
        steps: 3,
        prefillTokens: 7,
        decodeTokens: { one: 3 },
        wallMicros: 900,
        computeMicros: 900,
        requestMicros: { one: 900 },
        pending: 1,
      },
    ]);
    at.now = 5_000;
    expect(at.gate.computedMicros()).toBe(900);
  });

  it('ends by itself when nothing is left to do, and is not thawed for nothing', async () => {
    const at = await story(0);
    at.gate.slice({ sliceId: 1, lanes: 1, micros: null });
    await at.stopped();
    expect(at.told).toEqual(['freeze']);
    expect(at.reports).toMatchObject([{ sliceId: 1, ended: 'idle', steps: 0, wallMicros: 0 }]);
    at.pending = 1;
    at.gate.slice({ sliceId: 2, lanes: 1, micros: null });
    at.pending = 0;
    at.gate.idle();
    await at.stopped();
    // Whoever had work computed, though no token came of it.
    expect(at.reports.at(-1)).toMatchObject({ sliceId: 2, ended: 'idle', steps: 1 });
  });

  it('is handed on to the next one as it runs, also while it is being frozen', async () => {
    const at = await story(1);
    at.gate.slice({ sliceId: 1, lanes: 1, micros: null });
    at.now = 100;
    at.gate.slice({ sliceId: 2, lanes: 1, micros: null });
    expect(at.reports).toEqual([]);
    await turns();
    expect(at.reports).toMatchObject([{ sliceId: 1, ended: 'told', wallMicros: 100 }]);
    at.gate.endSlice(2);
    at.gate.slice({ sliceId: 3, lanes: 1, micros: null });
    await turns();
    expect(at.reports.map(({ sliceId, ended }) => [sliceId, ended])).toEqual([
      [1, 'told'],
      [2, 'told'],
    ]);
    expect([at.told.at(-1), at.gate.isOpen()]).toEqual(['thaw', true]);
    at.gate.endSlice(2);
    expect(at.gate.isOpen()).toBe(true);
  });

  it('does not end on a word: a group that is not seen stopped is broken', async () => {
    const at = await story(1);
    at.gate.slice({ sliceId: 1, lanes: 1, micros: null });
    at.gate.endSlice(1);
    await at.fail();
    expect([at.reports, at.broken]).toEqual([[], 'it hangs']);
    at.gate.release(true);
    expect(at.reports).toMatchObject([{ sliceId: 1, ended: 'told' }]);
  });
});
