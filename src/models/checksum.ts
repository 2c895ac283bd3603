/** Checksums of model files: whole (to prove a download) and sampled (to notice that a file changed, in a millisecond). */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { BerthError } from '../errors.ts';

const SAMPLE_BYTES = 64 * 1024;

export interface HashOptions {
  readonly signal?: AbortSignal;
  /** Called with the bytes hashed so far. */
  readonly onBytes?: (bytes: number) => void;
}

/** SHA-256 of the whole file, in hexadecimal: about a second for each GB. */
export async function sha256File(path: string, { signal, onBytes }: HashOptions = {}): Promise<string> {
  const hash = createHash('sha256');
  let bytes = 0;
  const stream = createReadStream(path, { highWaterMark: 1024 * 1024, ...(signal === undefined ? {} : { signal }) });
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    hash.update(chunk);
    bytes += chunk.length;
    onBytes?.(bytes);
  }
  return hash.digest('hex');
}

/** 16 hexadecimal digits from size, modification time, first and last 64 KiB. Equal files of different times differ. */
export async function fingerprintFile(path: string): Promise<string> {
  const { size, mtimeMs } = await stat(path);
  const hash = createHash('sha256').update(`${size}:${Math.trunc(mtimeMs)}:`);
  const file = await open(path, 'r');
  try {
    const sample = Buffer.alloc(Math.min(SAMPLE_BYTES, size));
    for (const position of [0, size - sample.length]) {
      const { bytesRead } = await file.read(sample, 0, sample.length, position);
      hash.update(sample.subarray(0, bytesRead));
    }
  } finally {
    await file.close();
  }
  return hash.digest('hex').slice(0, 16);
}

/** The digest of `file` in the text of a SHA256SUMS file (`<64 hex>  <name>` a line), or null. */
export function sumOf(sums: string, file: string): string | null {
  for (const line of sums.split('\n')) {
    const match = /^([0-9a-f]{64}) [ *](.+?)\r?$/i.exec(line);
    const name = match?.[2]?.split('/').pop();
    if (match?.[1] !== undefined && name === file) return match[1].toLowerCase();
  }
  return null;
}

/** A SHA-256 in hexadecimal, lower case; throws `invalid_request` for anything else. */
export function parseSha256(text: string): string {
  if (!/^[0-9a-f]{64}$/i.test(text)) {
    throw new BerthError('invalid_request', 'a sha256 has 64 hexadecimal digits', { param: 'source' });
  }
  return text.toLowerCase();
}

/** Throws `checksum_mismatch` that names both digests. */
export function expectSha256(what: string, expected: string, found: string): void {
  if (expected !== found) {
    throw new BerthError('checksum_mismatch', `${what} has the sha256 ${found}, but ${expected} was promised`);
  }
}
