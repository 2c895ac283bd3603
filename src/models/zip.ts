/**
 * Reads zip archives, as far as Python wheels use them: stored and deflated entries, no encryption, no zip64. Source: PKWARE's
 * APPNOTE.TXT, sections 4.3.7 (local header), 4.3.12 (central directory) and 4.3.16 (its end).
 */
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { crc32, createInflateRaw } from 'node:zlib';
import { BerthError } from '../errors.ts';
import type { Bytes } from '../core/ids.ts';

const END_SIGNATURE = 0x06054b50;
const ENTRY_SIGNATURE = 0x02014b50;
const LOCAL_SIGNATURE = 0x04034b50;
const END_BYTES = 22;
const LONGEST_COMMENT = 65_535;
const MAX_DIRECTORY_BYTES = 64 * 1024 * 1024;
const ZIP64 = 0xffffffff;
const STORED = 0;
const DEFLATED = 8;

export interface ZipEntry {
  readonly name: string;
  readonly sizeBytes: Bytes;
  readonly storedBytes: Bytes;
  readonly method: number;
  readonly crc: number;
  readonly headerOffset: number;
}

const broken = (path: string, reason: string): BerthError =>
  new BerthError('download_failed', `${path} is no usable archive: ${reason}`);

/** The entries of an archive. Throws `download_failed` if it is damaged, cut short, or of a kind that isn't read here. */
export async function listZip(path: string): Promise<readonly ZipEntry[]> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    const tail = Buffer.alloc(Math.min(size, END_BYTES + LONGEST_COMMENT));
    await file.read(tail, 0, tail.length, size - tail.length);
    let end = tail.length - END_BYTES;
    while (end >= 0 && tail.readUInt32LE(end) !== END_SIGNATURE) end -= 1;
    if (end < 0) throw broken(path, 'its directory is missing (was the download cut?)');
    const count = tail.readUInt16LE(end + 10);
    const directoryBytes = tail.readUInt32LE(end + 12);
    const directoryOffset = tail.readUInt32LE(end + 16);
    if (directoryOffset === ZIP64 || count === 0xffff)
      throw broken(path, 'it is a zip64 archive, which Berth does not read');
    if (directoryBytes > MAX_DIRECTORY_BYTES || directoryOffset + directoryBytes > size)
      throw broken(path, 'its directory lies');
    const directory = Buffer.alloc(directoryBytes);
    await file.read(directory, 0, directoryBytes, directoryOffset);
    return readDirectory(path, directory, count);
  } finally {
    await file.close();
  }
}

function readDirectory(path: string, directory: Buffer, count: number): readonly ZipEntry[] {
  const entries: ZipEntry[] = [];
  let at = 0;
  for (let index = 0; index < count; index += 1) {
    if (at + 46 > directory.length || directory.readUInt32LE(at) !== ENTRY_SIGNATURE)
      throw broken(path, 'its directory is damaged');
    const nameBytes = directory.readUInt16LE(at + 28);
    const entry: ZipEntry = {
      method: directory.readUInt16LE(at + 10),
      crc: directory.readUInt32LE(at + 16),
      storedBytes: directory.readUInt32LE(at + 20),
      sizeBytes: directory.readUInt32LE(at + 24),
      headerOffset: directory.readUInt32LE(at + 42),
      name: directory.toString('utf8', at + 46, at + 46 + nameBytes),
    };
    if ([entry.storedBytes, entry.sizeBytes, entry.headerOffset].includes(ZIP64)) {
      throw broken(path, `${entry.name} needs zip64, which Berth does not read`);
    }
    entries.push(entry);
    at += 46 + nameBytes + directory.readUInt16LE(at + 30) + directory.readUInt16LE(at + 32);
  }
  return entries;
}

/** An entry's bytes, in pieces; the length and the CRC are checked at the end, and more bytes than promised are never produced. */
export async function* readZipEntry(path: string, entry: ZipEntry, signal?: AbortSignal): AsyncGenerator<Buffer> {
  const start = await dataOffset(path, entry);
  const options = {
    start,
    end: start + entry.storedBytes - 1,
    highWaterMark: 256 * 1024,
    ...(signal ? { signal } : {}),
  };
  if (entry.method !== STORED && entry.method !== DEFLATED)
    throw broken(path, `${entry.name} is packed by the unknown method ${entry.method}`);
  let bytes = 0;
  let crc = 0;
  if (entry.storedBytes > 0) {
    const raw = createReadStream(path, options);
    const plain: Readable = entry.method === STORED ? raw : raw.pipe(createInflateRaw());
    if (plain !== raw) raw.on('error', (error) => plain.destroy(error));
    try {
      for await (const chunk of plain as AsyncIterable<Buffer>) {
        bytes += chunk.length;
        if (bytes > entry.sizeBytes)
          throw broken(path, `${entry.name} holds more than the ${entry.sizeBytes} bytes it promises`);
        crc = crc32(chunk, crc);
        yield chunk;
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code?.startsWith('Z_') !== true) throw error;
      throw broken(path, `${entry.name} can't be unpacked`);
    } finally {
      raw.destroy();
    }
  }
  if (bytes !== entry.sizeBytes || crc !== entry.crc) throw broken(path, `${entry.name} is damaged`);
}

/** An entry as text; refuses entries over 16 MiB. */
export async function readZipText(path: string, entry: ZipEntry): Promise<string> {
  if (entry.sizeBytes > 16 * 1024 * 1024) throw broken(path, `${entry.name} is too long for a text`);
  const chunks: Buffer[] = [];
  for await (const chunk of readZipEntry(path, entry)) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8');
}

async function dataOffset(path: string, entry: ZipEntry): Promise<number> {
  const file = await open(path, 'r');
  try {
    const header = Buffer.alloc(30);
    const { bytesRead } = await file.read(header, 0, 30, entry.headerOffset);
    if (bytesRead < 30 || header.readUInt32LE(0) !== LOCAL_SIGNATURE) throw broken(path, `${entry.name} is damaged`);
    return entry.headerOffset + 30 + header.readUInt16LE(26) + header.readUInt16LE(28);
  } finally {
    await file.close();
  }
}
