/**
 * How a saved sequence lies in a file: `BERTHKV1`, the head's length, the head as JSON, the tokens, the engine's state. All integers
 * are 32-bit little-endian. The head says whose it is and what of; its own checksum covers it and the tokens, `stateCrc` the rest.
 * Whoever reads one believes nothing that does not add up: a file can be cut off, foreign, or of another release.
 */
import { closeSync, openSync, readSync, renameSync, rmSync, writeSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import type { Bytes, KvEntryId, TenantId } from '../core/ids.ts';

const MAGIC = Buffer.from('BERTHKV1');
const FRAME_BYTES = 16;
/** A head is some hundred bytes and the label; a length beyond this is no head. */
const HEAD_LIMIT_BYTES = 4 * 1024 * 1024;
const TOKENS_LIMIT = 64 * 1024 * 1024;
/** What a file takes besides tokens and state, at most, for a label of some kilobytes. */
export const KV_FILE_OVERHEAD_BYTES: Bytes = 16 * 1024;

export interface KvHead {
  readonly entryId: KvEntryId;
  readonly tenantId: TenantId;
  readonly fingerprint: string;
  /** Which library wrote it: states are not read across releases. */
  readonly engine: string;
  readonly tokens: number;
  /** With the branch's. */
  readonly stateBytes: Bytes;
  /** The last part of the state: what a sliding window saw at an earlier point, of so many tokens. Left out: there is none. */
  readonly branch?: { readonly tokens: number; readonly bytes: Bytes };
  readonly stateCrc: number;
  readonly label: Readonly<Record<string, unknown>>;
}

export interface OpenKvFile {
  readonly head: KvHead;
  readonly tokens: Int32Array;
  /** Of the file's start. */
  readonly stateOffset: Bytes;
  readonly fileBytes: Bytes;
}

/** Bytes of the file of such a sequence, at most. */
export const kvFileBytes = (tokens: number, stateBytes: Bytes): Bytes =>
  stateBytes + 4 * tokens + KV_FILE_OVERHEAD_BYTES;

/**
 * Writes it whole or not at all, readable by its owner only. `state`, in its parts, is read while this call lasts. Returns the file's
 * bytes. Throws what the file system says; then nothing is left of it.
 */
export function writeKvFile(
  path: string,
  head: Omit<KvHead, 'tokens' | 'stateBytes' | 'stateCrc'>,
  tokens: Int32Array,
  ...state: readonly Uint8Array[]
): Bytes {
  const stateBytes = state.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const full: KvHead = { ...head, tokens: tokens.length, stateBytes, stateCrc: crcOf(state) };
  const headBytes = Buffer.from(JSON.stringify(full));
  const tokenBytes = Buffer.from(tokens.buffer, tokens.byteOffset, tokens.byteLength);
  const frame = Buffer.alloc(FRAME_BYTES);
  MAGIC.copy(frame);
  frame.writeUInt32LE(headBytes.length, 8);
  frame.writeUInt32LE(crc32(tokenBytes, crc32(headBytes)), 12);
  const partial = `${path}.part`;
  const file = openSync(partial, 'w', 0o600);
  try {
    for (const part of [frame, headBytes, tokenBytes, ...state]) writeAll(file, part);
    closeSync(file);
    renameSync(partial, path);
  } catch (error) {
    try {
      closeSync(file);
    } catch {
      // closed already: renaming failed
    }
    rmSync(partial, { force: true });
    throw error;
  }
  return FRAME_BYTES + headBytes.length + tokenBytes.length + stateBytes;
}

const crcOf = (parts: readonly Uint8Array[]): number => parts.reduce((crc, part) => crc32(part, crc), 0);

function writeAll(file: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.byteLength; ) at += writeSync(file, bytes, at, bytes.byteLength - at);
}

function readAll(file: number, bytes: Uint8Array, position: number): boolean {
  for (let at = 0; at < bytes.byteLength; ) {
    const read = readSync(file, bytes, at, bytes.byteLength - at, position + at);
    if (read === 0) return false;
    at += read;
  }
  return true;
}

/** Head and tokens, proven; null where there is no such file or it is not whole. The state itself is proven by `readKvState`. */
export function readKvHead(path: string): OpenKvFile | null {
  return withFile(path, (file) => {
    const frame = Buffer.alloc(FRAME_BYTES);
    if (!readAll(file, frame, 0) || !frame.subarray(0, 8).equals(MAGIC)) return null;
    const length = frame.readUInt32LE(8);
    if (length > HEAD_LIMIT_BYTES) return null;
    const headBytes = Buffer.alloc(length);
    if (!readAll(file, headBytes, FRAME_BYTES)) return null;
    const head = parseHead(headBytes);
    if (head === null) return null;
    const tokens = new Int32Array(head.tokens);
    const tokenBytes = Buffer.from(tokens.buffer);
    if (!readAll(file, tokenBytes, FRAME_BYTES + length)) return null;
    if (crc32(tokenBytes, crc32(headBytes)) !== frame.readUInt32LE(12)) return null;
    const stateOffset = FRAME_BYTES + length + tokenBytes.length;
    return { head, tokens, stateOffset, fileBytes: stateOffset + head.stateBytes };
  });
}

/** Fills the parts of the state (of `head.stateBytes` in all) from the file; false where it is cut off or has changed. */
export function readKvState(path: string, { head, stateOffset }: OpenKvFile, ...state: readonly Uint8Array[]): boolean {
  let offset = stateOffset;
  const read = withFile(path, (file) =>
    state.every((part) => {
      const isRead = readAll(file, part, offset);
      offset += part.byteLength;
      return isRead;
    }),
  );
  return read === true && crcOf(state) === head.stateCrc;
}

function withFile<T>(path: string, use: (file: number) => T): T | null {
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch {
    return null;
  }
  try {
    return use(file);
  } catch {
    return null;
  } finally {
    closeSync(file);
  }
}

const isCount = (value: unknown, limit = Number.MAX_SAFE_INTEGER): value is number =>
  typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= limit;

function isBranch({ branch, tokens, stateBytes }: Partial<Record<keyof KvHead, unknown>>): boolean {
  if (branch === undefined) return true;
  if (typeof branch !== 'object' || branch === null) return false;
  const { tokens: at, bytes } = branch as Partial<Record<'tokens' | 'bytes', unknown>>;
  return isCount(at, tokens as number) && isCount(bytes, stateBytes as number);
}

function parseHead(bytes: Buffer): KvHead | null {
  let parsed: unknown;
  try {
    parsed = JSON.parse(bytes.toString('utf8'));
  } catch {
    return null;
  }
  if (typeof parsed !== 'object' || parsed === null) return null;
  const head = parsed as Partial<Record<keyof KvHead, unknown>>;
  const isWhole =
    ['entryId', 'tenantId', 'fingerprint', 'engine'].every((key) => typeof head[key as keyof KvHead] === 'string') &&
    isCount(head.tokens, TOKENS_LIMIT) &&
    isCount(head.stateBytes) &&
    isCount(head.stateCrc) &&
    isBranch(head) &&
    typeof head.label === 'object' &&
    head.label !== null;
  return isWhole ? (parsed as KvHead) : null;
}
