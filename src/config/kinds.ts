/**
 * The kinds of values that a setting can have. Each reads what a person writes (in berth.yaml, the environment, a flag) into
 * the unit that the code counts in: integer bytes, integer micros. One reader for all three places, so they can't differ.
 */
import { MILLI, MINUTE, SECOND } from '../core/ids.ts';
import type { Bytes, Micros } from '../core/ids.ts';

/** Where the value stands. Environment and flags hold only text, so numbers are read out of text there. */
type Origin = 'file' | 'text';

export interface Kind<Value> {
  /** Completes “expected …”. */
  readonly expected: string;
  /** undefined: the value is not of this kind. */
  read(value: unknown, origin: Origin): Value | undefined;
  /** As a person would write it in berth.yaml. */
  show(value: Value): string;
}

const SIZE_UNITS: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  k: 2 ** 10,
  kib: 2 ** 10,
  kb: 1e3,
  m: 2 ** 20,
  mib: 2 ** 20,
  mb: 1e6,
  g: 2 ** 30,
  gib: 2 ** 30,
  gb: 1e9,
  t: 2 ** 40,
  tib: 2 ** 40,
  tb: 1e12,
};
const SIZE = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i;

/** “6GiB”, “512 MiB”, “1.5G” (binary), “8GB” (decimal), or a number of bytes. undefined: none of these. */
export function parseBytes(value: unknown): Bytes | undefined {
  if (typeof value === 'number') return Number.isSafeInteger(value) && value >= 0 ? value : undefined;
  const [, amount, unit] = (typeof value === 'string' && SIZE.exec(value)) || [];
  const factor = SIZE_UNITS[unit?.toLowerCase() ?? '?'];
  if (amount === undefined || factor === undefined) return undefined;
  const bytes = Math.round(Number(amount) * factor);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

const DURATION_UNITS: Readonly<Record<string, Micros>> = {
  us: 1,
  µs: 1,
  ms: MILLI,
  s: SECOND,
  m: MINUTE,
  h: 60 * MINUTE,
  d: 24 * 60 * MINUTE,
};
const DURATION = /(\d+(?:\.\d+)?)(us|µs|ms|s|m|h|d)/gy;

/**
 * “5m”, “300s”, “1h30m”, “250ms”, or a number of seconds (as Ollama's `keep_alive`). Anything negative, or “forever”, is -1.
 * undefined: none of these.
 */
export function parseDuration(value: unknown): Micros | undefined {
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) return undefined;
    return value < 0 ? -1 : safe(Math.round(value * SECOND));
  }
  if (typeof value !== 'string') return undefined;
  const text = value.trim();
  if (text === 'forever') return -1;
  if (/^-?\d+(\.\d+)?$/.test(text)) return parseDuration(Number(text));
  if (/^-\d/.test(text)) return parseDuration(text.slice(1)) === undefined ? undefined : -1;
  let micros = 0;
  let end = 0;
  for (const match of text.matchAll(DURATION)) {
    micros += Number(match[1]) * (DURATION_UNITS[match[2] ?? ''] ?? Number.NaN);
    end = match.index + match[0].length;
  }
  return end > 0 && end === text.length ? safe(Math.round(micros)) : undefined;
}

const safe = (n: number): number | undefined => (Number.isSafeInteger(n) ? n : undefined);

/** The shortest way to write the bytes exactly: “6GiB”, “512MiB”, “1000”. */
export function showBytes(bytes: Bytes): string {
  for (const [unit, factor] of [['GiB', 2 ** 30] as const, ['MiB', 2 ** 20] as const, ['KiB', 2 ** 10] as const]) {
    if (bytes >= factor && bytes % factor === 0) return `${bytes / factor}${unit}`;
  }
  return String(bytes);
}

/** The shortest way to write the duration exactly: “5m”, “90s”, “-1” for ever. */
export function showDuration(micros: Micros): string {
  if (micros < 0) return '-1';
  if (micros === 0) return '0';
  const units = [['h', 60 * MINUTE] as const, ['m', MINUTE] as const, ['s', SECOND] as const, ['ms', MILLI] as const];
  for (const [unit, factor] of units) if (micros % factor === 0) return `${micros / factor}${unit}`;
  return `${micros}us`;
}

/** A size, at least `least` bytes. */
export const bytes = (least: Bytes): Kind<Bytes> => ({
  expected: `a size such as 6GiB, 512MiB or a number of bytes${least > 0 ? `, at least ${showBytes(least)}` : ''}`,
  read: (value) => {
    const read = parseBytes(value);
    return read === undefined || read < least ? undefined : read;
  },
  show: showBytes,
});

/** A duration; `forever` allows -1. */
export const duration = (forever: 'forever' | 'finite'): Kind<Micros> => ({
  expected: `a duration such as 5m, 90s, 1h30m or a number of seconds${forever === 'forever' ? ' (0: at once, -1: for ever)' : ''}`,
  read: (value) => {
    const read = parseDuration(value);
    return read === undefined || (read < 0 && forever === 'finite') ? undefined : read;
  },
  show: showDuration,
});

/** A whole number in [least, most]. */
export const whole = (least: number, most: number): Kind<number> => ({
  expected: `a whole number from ${least} to ${most}`,
  read: (value, origin) => {
    const number =
      origin === 'text' && typeof value === 'string' && /^\s*-?\d+\s*$/.test(value) ? Number(value) : value;
    return typeof number === 'number' && Number.isSafeInteger(number) && number >= least && number <= most
      ? number
      : undefined;
  },
  show: String,
});

/** Text that isn't empty. */
export const text = (what: string): Kind<string> => ({
  expected: what,
  read: (value) => (typeof value === 'string' && value.trim() !== '' ? value.trim() : undefined),
  show: (value) => value,
});

/** A list of texts; in the environment and in flags separated by commas. */
export const texts = (what: string): Kind<readonly string[]> => ({
  expected: what,
  read: (value, origin) => {
    const list: unknown = typeof value === 'string' ? (origin === 'text' ? value.split(',') : [value]) : value;
    if (!Array.isArray(list)) return undefined;
    const read = list.map((item: unknown) => (typeof item === 'string' ? item.trim() : ''));
    return read.includes('') ? undefined : read;
  },
  show: (value) => `[${value.join(', ')}]`,
});

export const yesNo: Kind<boolean> = {
  expected: 'true or false',
  read: (value) => (typeof value === 'boolean' ? value : undefined),
  show: String,
};

export const choice = <Name extends string>(...names: readonly Name[]): Kind<Name> => ({
  expected: `one of ${names.join(', ')}`,
  read: (value) => names.find((name) => name === value),
  show: (value) => value,
});
