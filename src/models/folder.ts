/**
 * The models folder: what its files may be called, and the notes about files that Berth put there.
 *
 *     models/NAME.gguf               a model
 *     models/.pulled/NAME.gguf.json  where it came from, its sha256, and its size and time then
 *     models/.partial/               downloads that are under way; safe to delete while no pull runs
 */
import { mkdir, readdir, readFile, rename, rm, stat, statfs, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { BerthError } from '../errors.ts';
import { modelId } from '../core/ids.ts';
import type { Bytes, ModelId } from '../core/ids.ts';

const LONGEST_ID = 128;
/** Kept free on the disk when a model is fetched. */
const SPARE_BYTES = 64 * 1024 * 1024;

export interface PullNote {
  /** Without credentials. */
  readonly source: string;
  readonly sizeBytes: Bytes;
  readonly mtimeMillis: number;
  readonly sha256: string;
  readonly pulledAt: string;
  /** The file is only a link to one that isn't Berth's. */
  readonly linked: boolean;
}

const partialFolder = (modelsDir: string): string => path.join(modelsDir, '.partial');
const noteFile = (modelsDir: string, file: string): string => path.join(modelsDir, '.pulled', `${file}.json`);

export const partialPath = (modelsDir: string, file: string): string => path.join(partialFolder(modelsDir), file);

/** The id of a file: its name without `.gguf`, lower-case, whatever isn't a letter, digit, dot, dash or underscore a dash. */
export function idOfFile(file: string): ModelId {
  const bare = path.basename(file).replace(/\.gguf$/i, '');
  const clean = bare
    .toLowerCase()
    .replaceAll(/[^a-z0-9._-]+/g, '-')
    .replaceAll(/^[^a-z0-9]+|-+$/g, '')
    .slice(0, LONGEST_ID);
  return modelId(clean === '' ? 'model' : clean);
}

/** A name that the user chose, as id. It is refused rather than changed: nobody asks for `../x` by accident. */
export function checkName(name: string): ModelId {
  if (!/^[a-z0-9][a-z0-9._-]*$/i.test(name) || name.length > LONGEST_ID) {
    throw new BerthError(
      'invalid_request',
      `a model's name has 1 to ${LONGEST_ID} letters, digits, dots, dashes or underscores, and starts with a letter or digit`,
      { param: 'name' },
    );
  }
  return modelId(name.toLowerCase());
}

export async function prepareFolder(modelsDir: string): Promise<void> {
  await mkdir(partialFolder(modelsDir), { recursive: true });
  await mkdir(path.join(modelsDir, '.pulled'), { recursive: true });
}

/** The note about a pulled file; null if there is none, or if the file isn't any more what was pulled. */
export async function readNote(modelsDir: string, file: string): Promise<PullNote | null> {
  try {
    const note = JSON.parse(await readFile(noteFile(modelsDir, file), 'utf8')) as PullNote;
    const { size, mtimeMs } = await stat(path.join(modelsDir, file));
    return size === note.sizeBytes && Math.trunc(mtimeMs) === note.mtimeMillis ? note : null;
  } catch {
    return null;
  }
}

/** A file that was pulled from this very source, and is still what it was. */
export async function findPulled(
  modelsDir: string,
  source: string,
): Promise<{ readonly file: string; readonly note: PullNote } | null> {
  const notes = await readdir(path.join(modelsDir, '.pulled')).catch(() => []);
  for (const name of notes.filter((file) => file.endsWith('.gguf.json'))) {
    const file = name.slice(0, -'.json'.length);
    const note = await readNote(modelsDir, file);
    if (note?.source === source) return { file, note };
  }
  return null;
}

export async function writeNote(
  modelsDir: string,
  file: string,
  about: { readonly source: string; readonly sha256: string; readonly linked: boolean },
): Promise<void> {
  const { size, mtimeMs } = await stat(path.join(modelsDir, file));
  const note: PullNote = {
    ...about,
    sizeBytes: size,
    mtimeMillis: Math.trunc(mtimeMs),
    pulledAt: new Date().toISOString(),
  };
  const target = noteFile(modelsDir, file);
  await writeFile(`${target}.new`, `${JSON.stringify(note, null, 2)}\n`, { mode: 0o600 });
  await rename(`${target}.new`, target);
}

export async function removeNote(modelsDir: string, file: string): Promise<void> {
  await rm(noteFile(modelsDir, file), { force: true });
}

/** Free bytes of the disk that holds a folder. */
export type FreeBytes = (folder: string) => Promise<Bytes>;

export const freeBytesOf: FreeBytes = async (folder) => {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
};

/** Throws `download_failed` that names the bytes needed and free, before they are fetched in vain. */
export async function expectSpace(folder: string, neededBytes: Bytes, freeBytes: FreeBytes): Promise<void> {
  const free = await freeBytes(folder);
  if (free < neededBytes + SPARE_BYTES) {
    throw new BerthError(
      'download_failed',
      `not enough room in ${folder}: ${neededBytes} bytes are needed (and ${SPARE_BYTES} kept free), ${free} are free; make room, then pull again`,
    );
  }
}
