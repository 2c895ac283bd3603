/**
 * A memory limit for one child, by the kernel's control groups: v2, v1, or none where no group can be made. Found by looking at
 * files, not at versions: kernel documentation `admin-guide/cgroup-v2.rst`, `admin-guide/cgroup-v1/memory.rst`.
 */
import { mkdirSync, readFileSync, readdirSync, rmdirSync, writeFileSync, accessSync, constants } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Bytes } from '../core/ids.ts';

export interface MemoryGroup {
  readonly path: string;
  /** Moves a process in. What it holds already stays charged to its old group. Throws an errno error. */
  add(pid: number): void;
  /** The kernel reclaims clean pages at the limit and kills when that isn't enough. 0: no limit. Throws an errno error. */
  limit(bytes: Bytes): void;
  /** How often the kernel has killed in this group for memory. */
  oomKills(): number;
  /** False while a process is still inside. */
  remove(): boolean;
}

export interface MemoryGroups {
  readonly version: 'v2' | 'v1' | 'none';
  /** null where no group can be made. */
  create(name: string): MemoryGroup | null;
}

export interface CgroupPlaces {
  /** Where control groups are mounted. */
  readonly mounts: string;
  /** Which groups this process is in. */
  readonly self: string;
}

const PREFIX = 'berth-';
const none: MemoryGroups = { version: 'none', create: () => null };

const read = (path: string): string | null => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
};

const attempt = (act: () => void): boolean => {
  try {
    act();
    return true;
  } catch {
    return false;
  }
};

const writable = (path: string): boolean => attempt(() => accessSync(path, constants.W_OK));

/** The value after `key` in a file of `key value` lines. */
const keyed = (path: string, key: string): number =>
  Number(new RegExp(`^${key} (\\d+)$`, 'm').exec(read(path) ?? '')?.[1] ?? 0);

function findFolder(places: CgroupPlaces, kind: 'v1' | 'v2'): string | null {
  const mount = (read(places.mounts) ?? '')
    .split('\n')
    .map((line) => line.split(' '))
    .find((f) => (kind === 'v2' ? f[2] === 'cgroup2' : f[2] === 'cgroup' && f[3]?.split(',').includes('memory')))?.[1];
  const own = (read(places.self) ?? '')
    .split('\n')
    .map((line) => /^\d+:([^:]*):(.*)$/.exec(line))
    .find((m) => (kind === 'v2' ? m?.[1] === '' : m?.[1]?.split(',').includes('memory')))?.[2];
  return mount === undefined || own === undefined ? null : join(mount, own);
}

/**
 * v2 forbids groups with limits below a group that holds processes, so ours are made below this process's own group where that
 * is allowed, else beside it.
 */
function parentV2(folder: string): string | null {
  for (const parent of [folder, dirname(folder)]) {
    const offered = (read(join(parent, 'cgroup.controllers')) ?? '').split(/\s+/).includes('memory');
    if (!offered || !writable(parent)) continue;
    const control = join(parent, 'cgroup.subtree_control');
    if ((read(control) ?? '').split(/\s+/).includes('memory')) return parent;
    if (parent === folder && attempt(() => writeFileSync(control, '+memory'))) return parent;
  }
  return null;
}

interface Files {
  readonly limit: string;
  readonly unlimited: string;
  readonly events: string;
}
const V2: Files = { limit: 'memory.max', unlimited: 'max', events: 'memory.events' };
const V1: Files = { limit: 'memory.limit_in_bytes', unlimited: '-1', events: 'memory.oom_control' };

function groupsIn(parent: string, version: 'v2' | 'v1', files: Files): MemoryGroups {
  return {
    version,
    create(name) {
      const path = join(parent, `${PREFIX}${process.pid}-${name}`);
      if (!attempt(() => mkdirSync(path, { recursive: true }))) return null;
      return {
        path,
        add: (pid) => writeFileSync(join(path, 'cgroup.procs'), String(pid)),
        limit: (bytes) => writeFileSync(join(path, files.limit), bytes === 0 ? files.unlimited : String(bytes)),
        oomKills: () => keyed(join(path, files.events), 'oom_kill'),
        remove: () => attempt(() => rmdirSync(path)),
      };
    },
  };
}

/** Groups that a node left behind when it was killed; one that still holds a process refuses to go. */
function sweep(parent: string): void {
  for (const name of readdirSync(parent)) {
    const pid = Number(new RegExp(`^${PREFIX}(\\d+)-`).exec(name)?.[1] ?? Number.NaN);
    if (Number.isNaN(pid) || attempt(() => process.kill(pid, 0))) continue;
    attempt(() => rmdirSync(join(parent, name)));
  }
}

/** Finds where this process may make memory groups. */
export function findMemoryGroups(
  places: CgroupPlaces = { mounts: '/proc/self/mounts', self: '/proc/self/cgroup' },
): MemoryGroups {
  const v2 = findFolder(places, 'v2');
  const parent2 = v2 === null ? null : parentV2(v2);
  if (parent2 !== null) {
    attempt(() => sweep(parent2));
    return groupsIn(parent2, 'v2', V2);
  }
  const v1 = findFolder(places, 'v1');
  if (v1 === null || !writable(v1) || read(join(v1, V1.limit)) === null) return none;
  attempt(() => sweep(v1));
  return groupsIn(v1, 'v1', V1);
}
