/** Where KV of conversations may lie besides the device, and how much of it. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { MIB } from '../core/ids.ts';
import type { Bytes } from '../core/ids.ts';
import type { Machine } from './machine.ts';

export interface KvConfig {
  /** 0: no tier in host memory. */
  readonly hostBytes: Bytes;
  /** In memory, of this node alone; null as soon as `hostBytes` is 0. */
  readonly hostFolder: string | null;
  /** 0: no tier on disk. */
  readonly diskBytes: Bytes;
  /** Absolute. */
  readonly diskFolder: string;
  /** KV of fewer tokens is computed again rather than kept. */
  readonly minimumTokens: number;
}

/** What was set; null: nothing. */
export interface KvSettings {
  readonly hostMemory: Bytes | null;
  readonly disk: Bytes | null;
  readonly folder: string;
  readonly hostFolder: string | null;
  readonly minimumTokens: number;
}

const USUAL_HOST_FOLDER = '/dev/shm';
const USUAL_DISK_BYTES = 10 * 1024 * MIB;

/**
 * Budgets and folders. The folder in memory is one of its own inside the given one, named after the one on disk: two nodes of one machine
 * don't meet there, and a node finds after a crash what it left.
 */
export function kvConfig(settings: KvSettings, machine: Machine): KvConfig {
  const { folder, minimumTokens } = settings;
  const usual = machine.volumeOf?.(USUAL_HOST_FOLDER)?.isMemory === true ? USUAL_HOST_FOLDER : null;
  const base = settings.hostFolder ?? usual;
  const hostFree = base === null ? 0 : (machine.volumeOf?.(base)?.freeBytes ?? Number.POSITIVE_INFINITY);
  const usualHost = wholeMib(Math.min(machine.usableMemoryBytes / 10, hostFree / 2));
  const hostBytes = base === null ? 0 : (settings.hostMemory ?? usualHost);
  const diskFree = machine.volumeOf?.(folder)?.freeBytes ?? Number.POSITIVE_INFINITY;
  const usualDisk = wholeMib(Math.min(USUAL_DISK_BYTES, diskFree / 10));
  const own = `berth-${createHash('sha256').update(folder).digest('hex').slice(0, 16)}`;
  return {
    hostBytes,
    hostFolder: base === null || hostBytes === 0 ? null : join(base, own),
    diskBytes: settings.disk ?? usualDisk,
    diskFolder: folder,
    minimumTokens,
  };
}

const wholeMib = (bytes: number): Bytes => Math.floor(bytes / MIB) * MIB;
