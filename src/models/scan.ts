/** Looks at a models folder: which files are models, which belong together, and what each is. */
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { asBerthError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import type { Bytes } from '../core/ids.ts';
import { fingerprintFile } from './checksum.ts';
import { readGguf } from './gguf.ts';
import type { GgufFacts } from './gguf.ts';

const MAX_FILES = 10_000;
const MAX_SHARDS = 1_000;

export interface FoundModel {
  /** The file's name; of a split model without its part's number. */
  readonly name: string;
  /** In order; the first one is loaded. */
  readonly files: readonly string[];
  /** Parts of a split model that are not there. */
  readonly missing: readonly string[];
}

/** The .gguf files of a folder and of its direct subfolders, by name; hidden ones and projectors (mmproj) are left out. */
export async function scanFolder(folder: string): Promise<readonly FoundModel[]> {
  const names = await listGguf(folder);
  const found: FoundModel[] = [];
  for (const name of names) {
    const split = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/i.exec(name);
    if (split === null) {
      found.push({ name: path.basename(name), files: [path.join(folder, name)], missing: [] });
      continue;
    }
    const [, prefix = '', number, of = ''] = split;
    const count = Math.min(Number(of), MAX_SHARDS);
    const parts = Array.from(
      { length: count },
      (_, part) => `${prefix}-${String(part + 1).padStart(5, '0')}-of-${of}.gguf`,
    );
    // A split model is found at the first of its parts that is there.
    const present = parts.filter((part) => names.includes(part));
    if (present[0] !== name || number === undefined) continue;
    found.push({
      name: `${path.basename(prefix)}.gguf`,
      files: parts.map((part) => path.join(folder, part)),
      missing: parts.filter((part) => !present.includes(part)),
    });
  }
  return found;
}

async function listGguf(folder: string): Promise<readonly string[]> {
  const isModel = (name: string): boolean => /\.gguf$/i.test(name) && !name.startsWith('.') && !/^mmproj/i.test(name);
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
  const names = entries.filter((entry) => !entry.isDirectory() && isModel(entry.name)).map(({ name }) => name);
  for (const entry of entries) {
    if (!entry.isDirectory() || entry.name.startsWith('.')) continue;
    const inner = await readdir(path.join(folder, entry.name), { withFileTypes: true }).catch(() => []);
    names.push(
      ...inner
        .filter((file) => !file.isDirectory() && isModel(file.name))
        .map(({ name }) => path.join(entry.name, name)),
    );
  }
  // The folder's own first: of two files with one name it keeps the plain id.
  const depth = (name: string): number => name.split(path.sep).length;
  return names.toSorted((a, b) => depth(a) - depth(b) || (a < b ? -1 : 1)).slice(0, MAX_FILES);
}

export interface Inspection {
  readonly fileBytes: Bytes;
  readonly modifiedSeconds: number;
  readonly fingerprint: string | null;
  readonly facts: GgufFacts | null;
  readonly problem: { readonly code: ErrorCode; readonly message: string } | null;
}

/** What the files of a model are; a file that is missing or broken is a `problem`, not an error: the others must go on. */
export async function inspect(files: readonly string[], missing: readonly string[]): Promise<Inspection> {
  let fileBytes = 0;
  let modifiedSeconds = 0;
  const fingerprints: string[] = [];
  for (const file of files) {
    const found = await stat(file).catch(() => null);
    if (found === null || !found.isFile()) continue;
    fileBytes += found.size;
    modifiedSeconds = Math.max(modifiedSeconds, Math.trunc(found.mtimeMs / 1000));
    const fingerprint = await fingerprintFile(file).catch(() => null);
    if (fingerprint !== null) fingerprints.push(fingerprint);
  }
  const measured = {
    fileBytes,
    modifiedSeconds,
    fingerprint: fingerprints.length === 0 ? null : fingerprints.join('-'),
  };
  if (missing.length > 0) {
    const names = missing.map((file) => path.basename(file)).join(', ');
    return {
      ...measured,
      facts: null,
      problem: { code: 'model_file_missing', message: `parts of the model are missing: ${names}` },
    };
  }
  try {
    const facts = await Promise.all(files.map(readGguf));
    return { ...measured, facts: together(facts), problem: usable(facts) };
  } catch (error) {
    const { code, message } = asBerthError(error);
    return { ...measured, facts: null, problem: { code, message } };
  }
}

/** Parts of a split model hold the tensors between them; the first one holds the rest of the facts. */
function together(parts: readonly GgufFacts[]): GgufFacts | null {
  const [first] = parts;
  if (first === undefined || parts.length === 1) return first ?? null;
  const sum = (of: (facts: GgufFacts) => number): number => parts.reduce((total, part) => total + of(part), 0);
  return {
    ...first,
    fileBytes: sum((part) => part.fileBytes),
    parameters: sum((part) => part.parameters),
    tensorCount: sum((part) => part.tensorCount),
    tensorBytes: sum((part) => part.tensorBytes),
  };
}

function usable([first]: readonly GgufFacts[]): Inspection['problem'] {
  if (first === undefined || first.type === 'model') return null;
  return { code: 'model_file_invalid', message: `the file holds a ${first.type}, not a whole model` };
}
