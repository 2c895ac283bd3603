/** Small things that several parts of the runner need. */
import type { Micros } from '../../core/ids.ts';
import { asBerthError } from '../../errors.ts';
import type { WireEvent } from './protocol.ts';

/** On this thread's monotonic clock. */
export const nowMicros = (): Micros => Math.round(performance.now() * 1000);

/** The last event of a request that failed. */
export function failedEvent(thrown: unknown): Extract<WireEvent, { type: 'failed' }> {
  const { code, message, param } = asBerthError(thrown);
  return { type: 'failed', code, message, ...(param === null ? {} : { param }) };
}
