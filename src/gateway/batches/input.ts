/** The lines of a batch's input: checked once, all of them, and then read one at a time, so that no batch lies in memory. */
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { z } from 'zod';
import type { Endpoint, LineError } from './record.ts';

export const MOST_LINES = 50_000;
/** What one line may hold: as much as a request's body. */
const MOST_LINE_BYTES = 16 * 1024 * 1024;
const MOST_ERRORS = 20;
const CHUNK_BYTES = 256 * 1024;
const NEWLINE = 10;

export interface InputLine {
  readonly customId: string;
  /** Where it is in the file. */
  readonly offset: number;
  readonly length: number;
}

export interface ScannedInput {
  readonly lines: readonly InputLine[];
  /** Not empty: the batch has failed, and none of its lines is run. */
  readonly errors: readonly LineError[];
}

const lineSchema = z.object({
  custom_id: z.string().min(1).max(512),
  method: z.literal('POST'),
  url: z.string(),
  body: z.looseObject({ stream: z.literal(false).nullish() }),
});

export async function scanInput(path: string, endpoint: Endpoint): Promise<ScannedInput> {
  const lines: InputLine[] = [];
  const errors: LineError[] = [];
  const seen = new Set<string>();
  let number = 0;
  const handle = await open(path, 'r');
  try {
    for await (const { offset, bytes } of rawLines(handle)) {
      number += 1;
      const text = bytes.toString('utf8').trim();
      if (text === '') continue;
      const found = checkLine(text, endpoint, seen);
      if ('customId' in found) {
        seen.add(found.customId);
        lines.push({ customId: found.customId, offset, length: bytes.length });
      } else errors.push({ ...found, line: number });
      if (lines.length > MOST_LINES) errors.push(wholeError('too_many_lines', `A batch may have ${MOST_LINES} lines.`));
      if (errors.length >= MOST_ERRORS || lines.length > MOST_LINES) break;
    }
  } finally {
    await handle.close();
  }
  if (lines.length === 0 && errors.length === 0) errors.push(wholeError('empty_file', 'The input file has no lines.'));
  return { lines, errors };
}

const wholeError = (code: string, message: string): LineError => ({ code, message, line: null, param: null });

/** What is wrong is said without what was written: it may be a prompt. */
function checkLine(
  text: string,
  endpoint: Endpoint,
  seen: ReadonlySet<string>,
): { readonly customId: string } | Omit<LineError, 'line'> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return { code: 'invalid_json_line', message: 'This line is not valid JSON.', param: null };
  }
  const parsed = lineSchema.safeParse(value);
  if (!parsed.success) {
    const param = parsed.error.issues[0]?.path.map(String).join('.') ?? '';
    const message =
      param === 'body.stream'
        ? 'A line of a batch can’t be streamed.'
        : param === ''
          ? 'This line is not an object with custom_id, method, url and body.'
          : `\`${param}\` is missing or not accepted: method is POST, body an object.`;
    return { code: 'invalid_request', message, param: param === '' ? null : param };
  }
  const { custom_id: customId, url } = parsed.data;
  if (url !== endpoint)
    return { code: 'mismatched_url', message: '`url` is not the endpoint of the batch.', param: 'url' };
  if (seen.has(customId)) {
    return { code: 'duplicate_custom_id', message: '`custom_id` is that of an earlier line.', param: 'custom_id' };
  }
  return { customId };
}

export interface RawLine {
  readonly offset: number;
  readonly bytes: Buffer;
  /** false: the file ends before a newline does. */
  readonly ended: boolean;
}

/** Lines of a file, without their newlines. One that is too long is handed on cut: it is no JSON then. */
export async function* rawLines(handle: FileHandle): AsyncGenerator<RawLine> {
  const chunk = Buffer.alloc(CHUNK_BYTES);
  let rest: Buffer = Buffer.alloc(0);
  let offset = 0;
  let position = 0;
  for (;;) {
    const { bytesRead } = await handle.read(chunk, 0, CHUNK_BYTES, position);
    if (bytesRead === 0) break;
    position += bytesRead;
    rest = Buffer.concat([rest, chunk.subarray(0, bytesRead)]);
    let begin = 0;
    for (let end = rest.indexOf(NEWLINE); end >= 0; end = rest.indexOf(NEWLINE, begin)) {
      yield { offset: offset + begin, bytes: rest.subarray(begin, end), ended: true };
      begin = end + 1;
    }
    offset += begin;
    rest = rest.subarray(begin);
    if (rest.length > MOST_LINE_BYTES) break;
  }
  if (rest.length > 0) yield { offset, bytes: rest, ended: false };
}

export interface BatchRequest {
  readonly customId: string;
  readonly body: Record<string, unknown>;
}

/** One line, read again. */
export async function readLine(handle: FileHandle, { customId, offset, length }: InputLine): Promise<BatchRequest> {
  const bytes = Buffer.alloc(length);
  await handle.read(bytes, 0, length, offset);
  const { body } = JSON.parse(bytes.toString('utf8')) as { body: Record<string, unknown> };
  return { customId, body };
}
