/**
 * Downloads one file into a `.part` file that survives everything: a cut connection, a killed process, a restart. What was
 * received is asked for again never: the next attempt goes on with a Range request (RFC 9110, section 14), guarded by `If-Range`
 * or by a checksum that was known beforehand.
 */
import { open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { BerthError } from '../errors.ts';
import type { Bytes } from '../core/ids.ts';

export interface FetchLimits {
  /** Attempts in a row that brought no byte. */
  readonly fruitlessAttempts: number;
  readonly attempts: number;
  /** First pause between attempts; doubled each time, up to 60 s. */
  readonly backoffMillis: number;
  /** Longest silence of the server, before the headers and between two pieces. */
  readonly stallMillis: number;
  readonly deadlineMillis: number;
}

const FETCH_LIMITS: FetchLimits = {
  fruitlessAttempts: 5,
  attempts: 100,
  backoffMillis: 500,
  stallMillis: 60_000,
  deadlineMillis: 24 * 3_600_000,
};

const LONGEST_PAUSE_MILLIS = 60_000;

export interface FetchRequest {
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly partPath: string;
  /** Known beforehand; null: the server tells. */
  readonly sizeBytes: Bytes | null;
  /** What names this very content (its sha256), if it is known beforehand: then a part is resumed whatever its ETag. */
  readonly identity: string | null;
  /** Called with the bytes still to come, before any is written: throws if there is no room. */
  readonly expectSpace?: (bytes: Bytes) => Promise<void>;
  readonly onBytes?: (receivedBytes: Bytes, totalBytes: Bytes | null) => void;
  /** May plain http be followed? Only for loopback, or a hub that the user set. */
  readonly allowHttp: boolean;
  readonly signal: AbortSignal;
  readonly limits?: Partial<FetchLimits>;
}

/** What is known about a `.part` file; it lies beside it. */
interface PartNote {
  readonly url: string;
  readonly etag: string | null;
  readonly identity: string | null;
  readonly totalBytes: Bytes | null;
}

/** Worth another attempt. */
class Transient extends Error {
  readonly pauseMillis: number | null;
  constructor(message: string, pauseMillis: number | null = null, cause?: unknown) {
    super(message, { cause });
    this.pauseMillis = pauseMillis;
  }
}

const notePath = (partPath: string): string => `${partPath}.json`;

export async function removePart(partPath: string): Promise<void> {
  await rm(partPath, { force: true });
  await rm(notePath(partPath), { force: true });
}

/**
 * Resolves with the file's bytes when `partPath` is complete. Throws `not_found`, `forbidden`, `download_failed` (after the
 * attempts of `limits`), or `request_cancelled`.
 */
export async function fetchPart(request: FetchRequest): Promise<Bytes> {
  const limits = { ...FETCH_LIMITS, ...request.limits };
  const deadline = Date.now() + limits.deadlineMillis;
  let fruitless = 0;
  for (let attempt = 1; ; attempt += 1) {
    const before = await partBytes(request.partPath);
    try {
      return await attemptOnce(request, limits);
    } catch (error) {
      if (request.signal.aborted)
        throw new BerthError('request_cancelled', 'the download was stopped; the next one goes on here');
      if (!(error instanceof Transient)) throw error;
      fruitless = (await partBytes(request.partPath)) > before ? 0 : fruitless + 1;
      const pause = Math.min(error.pauseMillis ?? limits.backoffMillis * 2 ** fruitless, LONGEST_PAUSE_MILLIS);
      const over = Date.now() + pause > deadline;
      if (over || fruitless >= limits.fruitlessAttempts || attempt >= limits.attempts) {
        throw new BerthError('download_failed', `${shown(request.url)}: ${error.message} (attempt ${attempt})`, {
          cause: error,
        });
      }
      await wait(pause, undefined, { signal: request.signal }).catch(() => undefined);
    }
  }
}

async function attemptOnce(request: FetchRequest, limits: FetchLimits): Promise<Bytes> {
  const { partPath } = request;
  const note = await readPartNote(partPath);
  const resumable =
    note !== null &&
    (request.identity === null ? note.url === request.url && note.etag !== null : note.identity === request.identity);
  let offset = resumable ? await partBytes(partPath) : 0;
  const expected = request.sizeBytes ?? (resumable ? note.totalBytes : null);
  if (expected !== null && offset === expected && offset > 0) return offset;
  if (expected !== null && offset > expected) offset = 0;
  const headers: Record<string, string> = { ...request.headers, 'accept-encoding': 'identity' };
  if (offset > 0) {
    headers.range = `bytes=${offset}-`;
    if (request.identity === null && note?.etag) headers['if-range'] = note.etag;
  }
  const stall = new AbortController();
  let timer = setTimeout(() => stall.abort(), limits.stallMillis);
  const alive = (): void => {
    clearTimeout(timer);
    timer = setTimeout(() => stall.abort(), limits.stallMillis);
  };
  try {
    const signal = AbortSignal.any([request.signal, stall.signal]);
    const response = await fetch(request.url, { headers, signal });
    if (!allowedUrl(response.url, request.allowHttp)) {
      throw new BerthError('download_failed', `${shown(request.url)} leads to plain http, which is not followed`);
    }
    const plan = await planOf(response, offset, partPath);
    if (request.sizeBytes !== null && plan.totalBytes !== null && plan.totalBytes !== request.sizeBytes) {
      throw new BerthError(
        'checksum_mismatch',
        `${shown(request.url)} has ${plan.totalBytes} bytes, but ${request.sizeBytes} were promised`,
      );
    }
    if (plan.totalBytes !== null) await request.expectSpace?.(plan.totalBytes - plan.offset);
    const etag = strongEtag(response.headers.get('etag'));
    await writePartNote(partPath, { url: request.url, etag, identity: request.identity, totalBytes: plan.totalBytes });
    const received = await writeBody(response, plan.offset, request, plan.totalBytes, alive);
    if (plan.totalBytes !== null && received !== plan.totalBytes) {
      throw new Transient(`the connection ended after ${received} of ${plan.totalBytes} bytes`);
    }
    return received;
  } catch (error) {
    if (error instanceof BerthError || error instanceof Transient || isDiskError(error)) throw diskError(error);
    if (stall.signal.aborted) throw new Transient(`the server was silent for ${limits.stallMillis} ms`, null, error);
    throw new Transient(`the connection failed (${reasonOf(error)})`, null, error);
  } finally {
    clearTimeout(timer);
    stall.abort();
  }
}

/** Where the body of this response goes, and how long the whole file is. */
async function planOf(
  response: Response,
  offset: Bytes,
  partPath: string,
): Promise<{ offset: Bytes; totalBytes: Bytes | null }> {
  const { status } = response;
  if (status === 206) {
    const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers.get('content-range') ?? '');
    if (range === null || Number(range[1]) !== offset) {
      await removePart(partPath);
      throw new Transient('the server sent another range than the one asked for');
    }
    return { offset, totalBytes: range[2] === '*' ? null : Number(range[2]) };
  }
  if (status === 200) {
    const length = response.headers.get('content-length');
    return { offset: 0, totalBytes: length === null ? null : Number(length) };
  }
  const where = shown(response.url);
  if (status === 416) {
    await removePart(partPath);
    throw new Transient('the file became shorter; starting again');
  }
  if (status === 404 || status === 410)
    throw new BerthError('not_found', `${where} is not there (${status})`, { param: 'source' });
  if (status === 401 || status === 403) {
    throw new BerthError(
      'forbidden',
      `${where} refuses access (${status}): it may need a token with the right to read it`,
    );
  }
  if (status === 408 || status === 425 || status === 429 || status >= 500) {
    const retryAfter = Number(response.headers.get('retry-after') ?? NaN);
    throw new Transient(`the server answered ${status}`, Number.isFinite(retryAfter) ? retryAfter * 1000 : null);
  }
  throw new BerthError('download_failed', `${where} answered ${status}`);
}

async function writeBody(
  response: Response,
  offset: Bytes,
  { partPath, onBytes }: FetchRequest,
  totalBytes: Bytes | null,
  alive: () => void,
): Promise<Bytes> {
  let received = offset;
  const file = await openAt(partPath, offset);
  try {
    for await (const piece of (response.body ?? []) as AsyncIterable<Uint8Array>) {
      alive();
      if (totalBytes !== null && received + piece.length > totalBytes) {
        throw new BerthError(
          'download_failed',
          `${shown(response.url)} sent more than the ${totalBytes} bytes it promised`,
        );
      }
      for (let done = 0; done < piece.length; ) {
        done += (await file.write(piece, done, piece.length - done, received + done)).bytesWritten;
      }
      received += piece.length;
      onBytes?.(received, totalBytes);
    }
    await file.sync();
  } finally {
    await file.close();
  }
  return received;
}

async function openAt(partPath: string, offset: Bytes): Promise<FileHandle> {
  const file = await open(partPath, offset > 0 ? 'r+' : 'w', 0o644);
  if (offset > 0) await file.truncate(offset);
  return file;
}

/** https anywhere; http to this machine, or anywhere when the user set it. */
export function allowedUrl(text: string, allowHttp: boolean): boolean {
  const url = new URL(text);
  return url.protocol === 'https:' || (url.protocol === 'http:' && (allowHttp || isLoopback(url.hostname)));
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '[::1]' || /^127(\.\d{1,3}){3}$/.test(host);
}

/** A URL as it may be shown and kept: without credentials and without its query, which may hold a signature. */
export function shown(text: string): string {
  const url = new URL(text);
  return `${url.origin}${url.pathname}`;
}

const strongEtag = (etag: string | null): string | null => (etag === null || etag.startsWith('W/') ? null : etag);

async function partBytes(partPath: string): Promise<Bytes> {
  return (await stat(partPath).catch(() => null))?.size ?? 0;
}

async function readPartNote(partPath: string): Promise<PartNote | null> {
  try {
    return JSON.parse(await readFile(notePath(partPath), 'utf8')) as PartNote;
  } catch {
    return null;
  }
}

const writePartNote = (partPath: string, note: PartNote): Promise<void> =>
  writeFile(notePath(partPath), JSON.stringify(note), { mode: 0o600 });

const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException | undefined)?.code ?? '';
const isDiskError = (error: unknown): boolean =>
  ['ENOSPC', 'EDQUOT', 'EACCES', 'EROFS', 'EIO', 'EFBIG'].includes(codeOf(error));

function diskError(error: unknown): unknown {
  if (!isDiskError(error)) return error;
  return new BerthError('download_failed', `the file can't be written (${codeOf(error)}); what was received is kept`, {
    cause: error,
  });
}

function reasonOf(error: unknown): string {
  const cause = error instanceof Error ? (error.cause ?? error) : error;
  return codeOf(cause) || (cause instanceof Error ? cause.message : String(cause));
}
