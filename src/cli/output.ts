/** How numbers, times and tables look on a terminal. Pure. */
import { stripVTControlCharacters, styleText } from 'node:util';
import type { Bytes, Micros } from '../core/ids.ts';

export interface TableOptions {
  readonly headers: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** Emphasise the headers (a terminal). */
  readonly styled?: boolean;
  /** Columns (by header) whose cells stand to the right. */
  readonly right?: readonly string[];
}

/** Columns as wide as their widest cell, three spaces between them, no spaces at line ends. */
export function table({ headers, rows, styled = false, right = [] }: TableOptions): string {
  const widths = headers.map((header, i) => Math.max(width(header), ...rows.map((row) => width(row[i] ?? ''))));
  const line = (cells: readonly string[]): string =>
    headers
      .map((header, i) => {
        const cell = cells[i] ?? '';
        const space = ' '.repeat((widths[i] ?? 0) - width(cell));
        return right.includes(header) ? space + cell : cell + space;
      })
      .join('   ')
      .trimEnd();
  const head = line(headers);
  const shown = styled ? styleText('bold', head, { validateStream: false }) : head;
  return `${[shown, ...rows.map(line)].join('\n')}\n`;
}

const width = (cell: string): number => stripVTControlCharacters(cell).length;

/** “88.1 MiB”: three figures, in the binary units that berth.yaml takes. */
export function humanBytes(bytes: Bytes): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let amount = bytes;
  let unit = 0;
  // 1023.7 would be shown as 1024.
  while (Math.round(amount) >= 1024 && unit < units.length - 1) {
    amount /= 1024;
    unit++;
  }
  return `${figures(amount, unit === 0)} ${units[unit]}`;
}

/** 134.5 million → “135M”. */
export function humanCount(count: number): string {
  const units = ['', 'K', 'M', 'B', 'T'];
  let amount = count;
  let unit = 0;
  while (Math.round(amount) >= 1000 && unit < units.length - 1) {
    amount /= 1000;
    unit++;
  }
  return `${figures(amount, unit === 0)}${units[unit]}`;
}

const figures = (amount: number, wholly: boolean): string =>
  wholly || amount >= 100 ? amount.toFixed(0) : amount.toFixed(1).replace(/\.0$/, '');

const SPANS = [
  ['day', 86_400e6],
  ['hour', 3_600e6],
  ['minute', 60e6],
  ['second', 1e6],
] as const;

/** One unit in words: “4 minutes”, “less than a second”. For “4 minutes from now”. */
export function humanSpan(micros: Micros): string {
  for (const [unit, span] of SPANS) {
    // Rounded, and to a higher unit only when it is full: 59.9 minutes is 60 minutes, not 1 hour 0.
    const count = Math.round(micros / span);
    if (micros >= span) return `${count} ${unit}${count === 1 ? '' : 's'}`;
  }
  return 'less than a second';
}

/** As exact as a person compares: “850 µs”, “12.5 ms”, “3.2 s”, “5 m 10 s”, “2 h 5 m”. Negative is for ever. */
export function humanDuration(micros: Micros): string {
  if (micros < 0) return 'for ever';
  if (micros < 1_000) return `${Math.round(micros)} µs`;
  if (micros < 999_500) return `${figures(micros / 1_000, false)} ms`;
  if (micros < 59.95e6) return `${figures(micros / 1e6, false)} s`;
  const seconds = Math.round(micros / 1e6);
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60), seconds % 60];
  const parts = h > 0 ? [`${h} h`, m > 0 ? `${m} m` : ''] : [`${m} m`, s > 0 ? `${s} s` : ''];
  return parts.filter((part) => part !== '').join(' ');
}

/** “2 minutes ago”. */
export const humanAgo = (micros: Micros): string => (micros < 1e6 ? 'just now' : `${humanSpan(micros)} ago`);

/** Cuts in the middle, where names differ least, so that `text` is at most `most` characters wide. */
export function truncate(text: string, most: number): string {
  if (text.length <= most) return text;
  const tail = Math.floor((most - 1) / 3);
  return `${text.slice(0, most - 1 - tail)}…${text.slice(text.length - tail)}`;
}

/** The first 12 hex digits of “sha256:…”, as Ollama shows; “-” for none. */
export const shortDigest = (digest: string | null): string => digest?.replace(/^sha256:/, '').slice(0, 12) ?? '-';

/** “[#####-----]”. */
export function bar(fraction: number, cells: number): string {
  const full = Math.round(Math.min(1, Math.max(0, fraction)) * cells);
  return `[${'#'.repeat(full)}${'-'.repeat(cells - full)}]`;
}

/** Any value as the JSON that `--json` prints. */
export const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;
