/**
 * The KV files of one tier: `<folder>/<tenant's folder>/<entryId>.kv`, folders 0700, files 0600. What is not ours is left alone; what is
 * ours and broken goes. No method throws: what fails is told as a value, and what the file system said goes to `warn`, once a kind.
 */
import { chmodSync, lstatSync, mkdirSync } from 'node:fs';
import { copyFile, open, readdir, rename, rm, rmdir, stat, utimes } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setImmediate as breathe } from 'node:timers/promises';
import { MIB } from '../core/ids.ts';
import type { Bytes, KvEntryId } from '../core/ids.ts';
import { kvEntryId } from '../core/ids.ts';
import { readKvHead } from '../engines/kv-file.ts';
import type { KvHead } from '../engines/kv-file.ts';
import { HASH_PATTERN } from './chain.ts';
import { lockFolder } from './lock.ts';

const FOLDER_MODE = 0o700;
/** More are not looked at; what lies beyond is removed, the oldest first. */
const SCANNED_FILES = 100_000;
const FILE_PATTERN = /^[\w-]{22}\.kv$/;
const LEFTOVER_PATTERN = /\.(kv|part)$/;

export type Warn = (fields: object, message: string) => void;

export interface ScannedFile {
  readonly head: KvHead;
  readonly bytes: Bytes;
  /** Unix milliseconds: when it was written or used last. */
  readonly usedAtMillis: number;
}

export interface ScanListener {
  /** First: so many bytes remain. */
  onTotal(bytes: Bytes): void;
  /** A whole file, the oldest first. False: it is nobody's, and goes. */
  onFile(file: ScannedFile, tenant: string): boolean;
  /** So many of those bytes are gone. */
  onShed(bytes: Bytes): void;
}

export interface KvFolder {
  /** Absolute. `tenant`: the folder's name. */
  pathOf(tenant: string, entryId: KvEntryId): string;
  /** Makes the tenant's folder; false where that can't be done. */
  ensure(tenant: string): boolean;
  /**
   * Tidies up and looks at what is there: leftovers go, and the oldest files while they are over the budget.
   */
  scan(budgetBytes: Bytes, listener: ScanListener, signal: AbortSignal): Promise<void>;
  /** The file and what a dead writer left of it; true: it is not there (any more). */
  remove(tenant: string, entryId: KvEntryId): Promise<boolean>;
  /** The tenant's folder with all that lies in it. */
  removeTenant(tenant: string): Promise<void>;
  /** Takes a copy of the file in: first under another name, then whole. The source stays. */
  takeIn(source: string, tenant: string, entryId: KvEntryId): Promise<'done' | 'gone' | 'failed'>;
  /** So that it counts as used now when it is found again. */
  touch(tenant: string, entryId: KvEntryId): Promise<void>;
  /** Gives the lock back; `remove`: the folder goes too, if nothing foreign lies in it. */
  close(options: { readonly remove: boolean }): Promise<void>;
}

const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? 'unknown';

/** Opens the folder, made if absent, for this node alone. null, with a warning: it can't be used. */
export function openKvFolder(folder: string, warn: Warn): KvFolder | null {
  const warned = new Set<string>();
  /** File names say nothing of anybody; messages of the file system are paths and codes. */
  const fail = (doing: string, error: unknown): void => {
    const code = codeOf(error);
    if (warned.has(`${doing} ${code}`)) return;
    warned.add(`${doing} ${code}`);
    warn(
      { folder, code },
      `KV files: ${doing} failed (${code}); told once. Conversations are computed again where needed.`,
    );
  };
  const secured = secureFolder(folder);
  if (secured !== null) {
    warn({ folder }, `KV files are not kept in ${folder}: ${secured}. Name another folder in \`kv\` of berth.yaml.`);
    return null;
  }
  const unlock = lockFolder(folder);
  if (typeof unlock !== 'function') {
    warn({ folder, pid: unlock.pid }, `KV files are not kept in ${folder}: ${unlock.reason}.`);
    return null;
  }
  const ensured = new Set<string>();
  const pathOf = (tenant: string, entryId: KvEntryId): string => join(folder, tenant, `${entryId}.kv`);

  const ensure = (tenant: string): boolean => {
    if (ensured.has(tenant)) return true;
    try {
      mkdirSync(join(folder, tenant), { recursive: true, mode: FOLDER_MODE });
    } catch (error) {
      fail('making a folder', error);
      return false;
    }
    ensured.add(tenant);
    return true;
  };
  /** True: it is not there. */
  const removePath = async (path: string): Promise<boolean> => {
    try {
      await rm(path, { force: true });
      return true;
    } catch (error) {
      fail('removing', error);
      return false;
    }
  };

  return {
    pathOf,
    ensure,
    async scan(budgetBytes, listener, signal) {
      const files = await list(folder, removePath, fail);
      let total = files.reduce((sum, { bytes }) => sum + bytes, 0);
      let first = 0;
      for (; first < files.length && (total > budgetBytes || files.length - first > SCANNED_FILES); first++) {
        const file = files[first];
        if (file !== undefined && (await removePath(file.path))) total -= file.bytes;
      }
      listener.onTotal(total);
      for (const { path, tenant, entryId, bytes, usedAtMillis } of files.slice(first)) {
        // Heads are read at once: between them the node goes on.
        await breathe();
        if (signal.aborted) return;
        const read = readKvHead(path);
        const isWhole = read !== null && read.fileBytes === bytes && read.head.entryId === entryId;
        if (isWhole && listener.onFile({ head: read.head, bytes, usedAtMillis }, tenant)) continue;
        if (await removePath(path)) listener.onShed(bytes);
      }
    },
    async remove(tenant, entryId) {
      const path = pathOf(tenant, entryId);
      const [isGone] = await Promise.all([removePath(path), removePath(`${path}.part`)]);
      return isGone;
    },
    async removeTenant(tenant) {
      ensured.delete(tenant);
      try {
        await rm(join(folder, tenant), { recursive: true, force: true });
      } catch (error) {
        fail('removing a folder', error);
      }
    },
    async takeIn(source, tenant, entryId) {
      if (!ensure(tenant)) return 'failed';
      const path = pathOf(tenant, entryId);
      try {
        const { atime, mtime } = await stat(source);
        await copyFile(source, `${path}.part`);
        await utimes(`${path}.part`, atime, mtime);
        await rename(`${path}.part`, path);
        return 'done';
      } catch (error) {
        await removePath(`${path}.part`);
        const isGone = await stat(source).then(
          () => false,
          (missing: unknown) => codeOf(missing) === 'ENOENT',
        );
        if (isGone) return 'gone';
        // Somebody may have removed the folder: the next one makes it again.
        ensured.delete(tenant);
        fail('moving', error);
        return 'failed';
      }
    },
    async touch(tenant, entryId) {
      const now = new Date();
      await utimes(pathOf(tenant, entryId), now, now).catch(() => undefined);
    },
    async close({ remove }) {
      if (remove)
        for (const name of await tenantsIn(folder)) await rm(join(folder, name), { recursive: true, force: true });
      unlock();
      // Not recursive: what is not ours keeps it.
      if (remove) await rmdir(folder).catch(() => undefined);
    },
  };
}

/** Made, ours, and closed to others; else why not. A folder for all (/dev/shm) lets anybody make one under our name. */
function secureFolder(folder: string): string | null {
  try {
    mkdirSync(dirname(folder), { recursive: true });
    mkdirSync(folder, { recursive: true, mode: FOLDER_MODE });
    const facts = lstatSync(folder);
    if (!facts.isDirectory()) return 'it is no folder';
    if (process.getuid !== undefined && facts.uid !== process.getuid()) return 'it belongs to another user';
    if ((facts.mode & 0o077) !== 0) chmodSync(folder, FOLDER_MODE);
    return null;
  } catch (error) {
    return `it can't be made or read (${codeOf(error)})`;
  }
}

interface Listed {
  readonly path: string;
  readonly tenant: string;
  readonly entryId: KvEntryId;
  readonly bytes: Bytes;
  readonly usedAtMillis: number;
}

const tenantsIn = async (folder: string): Promise<string[]> => {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => entry.isDirectory() && HASH_PATTERN.test(entry.name)).map(({ name }) => name);
};

/** All KV files, the oldest first; leftovers are removed on the way. */
async function list(
  folder: string,
  remove: (path: string) => Promise<boolean>,
  fail: (doing: string, error: unknown) => void,
): Promise<Listed[]> {
  const listed: Listed[] = [];
  for (const tenant of await tenantsIn(folder)) {
    for (const name of await readdir(join(folder, tenant)).catch(() => [])) {
      const path = join(folder, tenant, name);
      if (!FILE_PATTERN.test(name)) {
        if (LEFTOVER_PATTERN.test(name)) await remove(path);
        continue;
      }
      try {
        const { size, mtimeMs } = await stat(path);
        const entryId = kvEntryId(name.slice(0, -'.kv'.length));
        listed.push({ path, tenant, entryId, bytes: size, usedAtMillis: mtimeMs });
      } catch (error) {
        fail('looking at a file', error);
      }
    }
    // An empty one is of a tenant that left, or will be made again.
    await rmdir(join(folder, tenant)).catch(() => undefined);
  }
  return listed.toSorted((a, b) => a.usedAtMillis - b.usedAtMillis);
}

/** Reads it once, so that the system has it in memory when it is wanted. False: that failed. */
export async function warmFile(path: string, signal: AbortSignal): Promise<boolean> {
  try {
    const file = await open(path, 'r');
    try {
      const buffer = Buffer.allocUnsafe(MIB);
      while (!signal.aborted && (await file.read(buffer, 0, MIB, null)).bytesRead > 0);
    } finally {
      await file.close();
    }
    return true;
  } catch {
    return false;
  }
}
