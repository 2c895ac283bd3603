import type { Micros } from '../core/ids.ts';

/** Time as an engine sees it, so that tests and the simulator can drive it by a virtual clock. */
export interface Timer {
  /** Micros on a monotonic clock. */
  now(): Micros;
  /** Calls `fn` once, no sooner than after `micros`, never before this returns. The result cancels it. */
  after(micros: Micros, fn: () => void): () => void;
}

/**
 * The machine's clock. Node's timers count whole milliseconds: what is shorter than half of one runs in the next turn of the
 * event loop, so callers that add up many short waits should wait for points in time and not for durations.
 */
export const realTimer: Timer = {
  now: () => Math.round(performance.now() * 1000),
  after(micros, fn) {
    if (micros < 500) {
      const immediate = setImmediate(fn);
      return () => clearImmediate(immediate);
    }
    const timeout = setTimeout(fn, Math.min(Math.round(micros / 1000), 2 ** 31 - 1));
    return () => clearTimeout(timeout);
  },
};
