import type { Micros } from '../src/core/ids.ts';
import type { Timer } from '../src/engines/timer.ts';

export interface VirtualTimer extends Timer {
  /** Lets `micros` pass: fires what is due, in order of time, then of asking. Promises settle in between. */
  advance(micros: Micros): Promise<void>;
  /** Lets time pass until nothing is waiting. Throws after `limit` firings, for something that rearms itself for ever. */
  settle(limit?: number): Promise<void>;
  /** How many calls are waiting. */
  waiting(): number;
}

/** A turn of the event loop: every promise that can settle has settled after it. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A clock that moves only when told to. */
export function createVirtualTimer(start: Micros = 0): VirtualTimer {
  let now = start;
  let order = 0;
  const due: { at: Micros; order: number; fn: () => void }[] = [];

  const fireNext = async (): Promise<void> => {
    const next = due.shift();
    if (next === undefined) return;
    now = Math.max(now, next.at);
    next.fn();
    await turn();
  };

  return {
    now: () => now,
    after(micros, fn) {
      const entry = { at: now + Math.max(0, micros), order: order++, fn };
      due.push(entry);
      due.sort((a, b) => a.at - b.at || a.order - b.order);
      return () => {
        const index = due.indexOf(entry);
        if (index >= 0) due.splice(index, 1);
      };
    },
    async advance(micros) {
      const end = now + micros;
      await turn();
      for (let next = due[0]; next !== undefined && next.at <= end; next = due[0]) await fireNext();
      now = end;
    },
    async settle(limit = 100_000) {
      await turn();
      for (let fired = 0; due.length > 0; fired++) {
        if (fired >= limit) throw new Error(`still ${due.length} waiting after ${limit} firings`);
        await fireNext();
      }
    },
    waiting: () => due.length,
  };
}
