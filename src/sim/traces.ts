/**
 * Readers of request traces. Each reads its file in pieces, so that a trace of any length takes the same memory, and tells the line
 * of what it can't read. Which format a file has is seen by its first line. The formats: `docs/simulator.md`.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { StringDecoder } from 'node:string_decoder';
import { BerthError } from '../errors.ts';
import type { Arrival, Mapping } from './arrivals.ts';
import { assign } from './generate.ts';

const PIECE_BYTES = 64 * 1024;
const LONGEST_LINE = 8 * 1024 * 1024;

/** The lines of a file without their ends, empty ones too; never more than one piece and one line in memory. */
export function* linesOf(path: string): Generator<string> {
  const file = open(path);
  try {
    const piece = Buffer.alloc(PIECE_BYTES);
    const decoder = new StringDecoder('utf8');
    let rest = '';
    for (;;) {
      const bytes = readSync(file, piece, 0, PIECE_BYTES, null);
      if (bytes === 0) break;
      const parts = (rest + decoder.write(piece.subarray(0, bytes))).split('\n');
      rest = parts.pop() ?? '';
      if (rest.length > LONGEST_LINE)
        throw new BerthError('invalid_request', `${path}: a line is too long for a trace`);
      for (const line of parts) yield line.endsWith('\r') ? line.slice(0, -1) : line;
    }
    if (rest !== '') yield rest;
  } finally {
    closeSync(file);
  }
}

function open(path: string): number {
  try {
    return openSync(path, 'r');
  } catch (error) {
    throw new BerthError('invalid_request', `the trace ${path} can’t be opened: ${(error as Error).message}`);
  }
}

interface Format {
  readonly name: 'synth' | 'azure' | 'mooncake';
  readonly header: RegExp | null;
  readonly row: (line: string) => Row | null;
}

type Row = Pick<Arrival, 'at' | 'promptTokens' | 'outputTokens'> & {
  readonly model?: string;
  readonly blocks?: readonly number[];
};

/** `HH:MM:SS.fff…` or `YYYY-MM-DD HH:MM:SS.fff…` in micros; days count from 1970. */
function timeOf(text: string): number | null {
  const match = /^(?:(\d{4})-(\d{2})-(\d{2}) )?(\d{2,}):(\d{2}):(\d{2})(?:\.(\d+))?$/.exec(text);
  if (match === null) return null;
  const [, year, month, day, hours, minutes, seconds, fraction] = match;
  const days = year === undefined ? 0 : Date.UTC(Number(year), Number(month) - 1, Number(day)) / 86_400_000;
  const whole = ((days * 24 + Number(hours)) * 60 + Number(minutes)) * 60 + Number(seconds);
  return whole * 1_000_000 + Number((fraction ?? '').padEnd(6, '0').slice(0, 6));
}

const FORMATS: readonly Format[] = [
  {
    name: 'synth',
    header: /^Request Time,Model Name,Input Length,Output Length$/,
    row(line) {
      const [time = '', model = '', input = '', output = ''] = line.split(',');
      const at = timeOf(time);
      return at === null || model === ''
        ? null
        : { at, model, promptTokens: Number(input), outputTokens: Number(output) };
    },
  },
  {
    name: 'azure',
    header: /^TIMESTAMP,ContextTokens,GeneratedTokens$/,
    row(line) {
      const [time = '', input = '', output = ''] = line.split(',');
      const at = timeOf(time);
      return at === null ? null : { at, promptTokens: Number(input), outputTokens: Number(output) };
    },
  },
  {
    name: 'mooncake',
    header: null,
    row(line) {
      const row = parse(line);
      if (typeof row?.['timestamp'] !== 'number') return null;
      const blocks = Array.isArray(row['hash_ids']) ? (row['hash_ids'] as number[]) : [];
      return {
        at: Math.round(row['timestamp'] * 1_000),
        promptTokens: Number(row['input_length']),
        outputTokens: Number(row['output_length']),
        blocks,
      };
    },
  },
];

function parse(line: string): Record<string, unknown> | null {
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return null;
  }
}

/**
 * The arrivals of a trace, from its first one on (`at` 0 is the trace's own start where it has one, else the first arrival).
 * `mapping` gives models and tenants to rows that name none.
 */
export function* readTrace(path: string, mapping: Mapping): Generator<Arrival> {
  const give = assign(mapping);
  let format: Format | null = null;
  let startsAt = 0;
  let lastAt = 0;
  let number = 0;
  for (const line of linesOf(path)) {
    number++;
    if (line === '') continue;
    if (format === null) {
      format = FORMATS.find(({ header }) => header?.test(line) === true) ?? null;
      if (format !== null) continue;
      format = line.startsWith('{') ? (FORMATS.at(-1) as Format) : unknown(path);
    }
    const row = format.row(line);
    if (row === null || !isCount(row.promptTokens) || !isCount(row.outputTokens))
      throw new BerthError('invalid_request', `${path}:${number} is no row of a trace of this kind (${format.name})`);
    if (format.name === 'azure' && startsAt === 0) startsAt = row.at;
    const at = row.at - startsAt;
    if (at < lastAt)
      throw new BerthError('invalid_request', `${path}:${number} is earlier than the row before: sort the trace`);
    lastAt = at;
    const { model, tenant } = give();
    yield {
      at,
      model: row.model ?? model,
      tenant,
      promptTokens: Math.max(1, row.promptTokens),
      outputTokens: Math.max(1, row.outputTokens),
      ...(row.blocks === undefined ? {} : { blocks: row.blocks }),
    };
  }
  if (format === null) unknown(path);
}

const isCount = (value: number): boolean => Number.isSafeInteger(value) && value >= 0;

function unknown(path: string): never {
  throw new BerthError(
    'invalid_request',
    `${path} is no trace that is known: its first line is neither Aegaeon’s nor Azure’s header nor a JSON object of Mooncake’s`,
  );
}
