/** What the load's own program adds to what it measures: told beside every result, so that nobody takes it for the server's. */
import type { RecordableHistogram } from 'node:perf_hooks';
import { createHistogram } from 'node:perf_hooks';
import type { Micros } from '../core/ids.ts';

export interface Overhead {
  /** How much later than meant requests were sent. */
  readonly lagP99Micros: Micros;
  readonly lagMostMicros: Micros;
  /** How much later than due timers ran: so much later may any time be that was written down. */
  readonly loopDelayP99Micros: Micros;
  readonly loopDelayMostMicros: Micros;
  /** Of one core. */
  readonly cpuShare: number;
}

const EVERY_MILLIS = 20;

export function createMeter(): { sent(lag: Micros): void; stop(): Overhead } {
  const lags = createHistogram();
  const delays = createHistogram();
  const startedAt = performance.now();
  const before = process.cpuUsage();
  let due = performance.now() + EVERY_MILLIS;
  const timer = setInterval(() => {
    const now = performance.now();
    delays.record(atLeastOne((now - due) * 1_000));
    due = now + EVERY_MILLIS;
  }, EVERY_MILLIS);
  return {
    sent: (lag) => lags.record(atLeastOne(lag)),
    stop() {
      clearInterval(timer);
      const { user, system } = process.cpuUsage(before);
      const elapsedMicros = Math.max(1, (performance.now() - startedAt) * 1_000);
      return {
        lagP99Micros: percentile99(lags),
        lagMostMicros: most(lags),
        loopDelayP99Micros: percentile99(delays),
        loopDelayMostMicros: most(delays),
        cpuShare: (user + system) / elapsedMicros,
      };
    },
  };
}

/** The histogram takes whole numbers from 1 on. */
const atLeastOne = (micros: number): number => Math.max(1, Math.round(micros));
const percentile99 = (of: RecordableHistogram): Micros => (of.count === 0 ? 0 : of.percentile(99));
const most = (of: RecordableHistogram): Micros => (of.count === 0 ? 0 : of.max);
