/** Structured logs. Only a committed decision is logged, once, with its reason; no log line holds text of a user. */
import pino from 'pino';
import type { Action } from '../core/actions.ts';

export type Log = pino.Logger;

export function createLog(level: string): Log {
  // Standard error: standard output belongs to the command line's own words.
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ dest: 2, sync: false }),
  );
}

/** Moves and refusals are news; starts and slices come many times a second. */
const NEWS = new Set<Action['type']>([
  'ensureLoaded',
  'ensureAsleep',
  'ensureUnloaded',
  'preemptRequest',
  'refuseRequest',
]);

export function logDecision(log: Log, action: Action): void {
  if (NEWS.has(action.type)) log.info(action, action.type);
  else log.trace(action, action.type);
}
