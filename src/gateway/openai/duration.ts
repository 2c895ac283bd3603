/** Durations as Ollama's `keep_alive` writes them: Go's `time.ParseDuration` ("1h30m", "300ms"), or a number of seconds. */
import type { Micros } from '../../core/ids.ts';

const UNIT_MICROS: Readonly<Record<string, number>> = {
  ns: 0.001,
  us: 1,
  µs: 1,
  ms: 1_000,
  s: 1_000_000,
  m: 60_000_000,
  h: 3_600_000_000,
};
const LONGEST_MICROS = 100 * 365 * 24 * 3_600_000_000;

/** -1: for ever (any negative duration). null: not a duration. */
export function keepAliveMicros(value: string | number): Micros | null {
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) return null;
    return value < 0 ? -1 : Math.min(Math.round(value * 1_000_000), LONGEST_MICROS);
  }
  const text = value.trim();
  if (/^[+-]?\d+(\.\d+)?$/.test(text)) return keepAliveMicros(Number(text));
  const match = /^([+-]?)((?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+)$/.exec(text);
  if (match === null) return null;
  let micros = 0;
  for (const [, count, unit] of (match[2] ?? '').matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)/g)) {
    micros += Number(count) * (UNIT_MICROS[unit ?? ''] ?? 0);
  }
  if (match[1] === '-' && micros > 0) return -1;
  return Math.min(Math.round(micros), LONGEST_MICROS);
}
