/** Time as the shell gives it to the core: integer microseconds since the node started, monotonic. */
import type { Micros } from '../core/ids.ts';

export interface Clock {
  now(): Micros;
  /** Calls back once, not before `delayMicros`; returns how to call it off. The timer does not keep the process alive. */
  after(delayMicros: Micros, callback: () => void): () => void;
}

export function createClock(): Clock {
  const start = performance.now();
  return {
    now: () => Math.floor((performance.now() - start) * 1000),
    after(delayMicros, callback) {
      const timer = setTimeout(callback, Math.min(2 ** 31 - 1, Math.max(0, Math.ceil(delayMicros / 1000))));
      timer.unref();
      return () => clearTimeout(timer);
    },
  };
}
