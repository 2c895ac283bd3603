/** What a process holds, as the kernel counts it: `proc_pid_status(5)`. */
import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import type { Bytes } from '../core/ids.ts';

export interface ProcessMemory {
  readonly residentBytes: Bytes;
  /** Anonymous and shared memory: what would be freed with the process and can't be read again from a file. */
  readonly privateBytes: Bytes;
  /** Resident pages of mapped files: page cache, which the kernel may take back. 0 where it is not known. */
  readonly mappedFileBytes: Bytes;
}

/** Reads the `Rss…` lines of a status file; null when it has none (a kernel thread, a zombie). */
export function parseStatus(status: string): ProcessMemory | null {
  const bytes = (key: string): Bytes | null => {
    const kilobytes = new RegExp(`^${key}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1];
    return kilobytes === undefined ? null : Number(kilobytes) * 1024;
  };
  const residentBytes = bytes('VmRSS');
  if (residentBytes === null) return null;
  const anonymous = bytes('RssAnon');
  const privateBytes = anonymous === null ? residentBytes : anonymous + (bytes('RssShmem') ?? 0);
  return { residentBytes, privateBytes, mappedFileBytes: anonymous === null ? 0 : (bytes('RssFile') ?? 0) };
}

/** null when the process is gone. Without procfs everything resident counts as private: too much rather than too little. */
export function readProcessMemory(pid: number, procFolder = '/proc'): ProcessMemory | null {
  try {
    return parseStatus(readFileSync(`${procFolder}/${pid}/status`, 'utf8'));
  } catch {
    if (process.platform === 'linux') return null;
  }
  try {
    const kilobytes = Number(execFileSync('ps', ['-o', 'rss=', '-p', String(pid)], { timeout: 2_000 }).toString());
    const residentBytes = kilobytes * 1024;
    return residentBytes > 0 ? { residentBytes, privateBytes: residentBytes, mappedFileBytes: 0 } : null;
  } catch {
    return null;
  }
}

/**
 * Does a process of this group still hold memory? One that only waits to be reaped does not, and where nobody reaps (a container
 * without an init) it waits for ever. null where there is no procfs to tell. `proc_pid_stat(5)`: pid (name) state ppid pgrp.
 */
export function groupHoldsMemory(group: number, procFolder = '/proc'): boolean | null {
  let names: string[];
  try {
    names = readdirSync(procFolder).filter((name) => /^\d+$/.test(name));
  } catch {
    return null;
  }
  if (names.length === 0) return null;
  return names.some((name) => isMember(name, group, procFolder));
}

/** Looking through all processes of a machine takes milliseconds: who is in a group is asked only so often. */
const MEMBERS_FOR_MILLIS = 5_000;

/**
 * Reads what the processes of a group hold together: private bytes add up; of files that several have mapped, most are the same
 * libraries, so the one that maps most stands for all. null when the group is gone.
 */
export function createGroupReader(group: number, procFolder = '/proc'): () => ProcessMemory | null {
  let members: readonly number[] = [];
  let until = Number.NEGATIVE_INFINITY;
  return () => {
    const now = performance.now();
    if (now >= until) {
      members = membersOf(group, procFolder);
      until = now + MEMBERS_FOR_MILLIS;
    }
    const all = members.flatMap((pid) => readProcessMemory(pid, procFolder) ?? []);
    if (all.length === 0) return process.platform === 'linux' ? null : readProcessMemory(group, procFolder);
    const sum = (of: (memory: ProcessMemory) => Bytes): Bytes => all.reduce((bytes, one) => bytes + of(one), 0);
    const privateBytes = sum((one) => one.privateBytes);
    const mappedFileBytes = Math.max(...all.map((one) => one.mappedFileBytes));
    return { residentBytes: privateBytes + mappedFileBytes, privateBytes, mappedFileBytes };
  };
}

/** The processes of a group that are not zombies. Empty where there is no procfs. */
export function membersOf(group: number, procFolder = '/proc'): number[] {
  let names: string[];
  try {
    names = readdirSync(procFolder).filter((name) => /^\d+$/.test(name));
  } catch {
    return [];
  }
  return names.filter((name) => isMember(name, group, procFolder)).map(Number);
}

function isMember(name: string, group: number, procFolder: string): boolean {
  try {
    const stat = readFileSync(`${procFolder}/${name}/stat`, 'utf8');
    const [state, , itsGroup] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return Number(itsGroup) === group && state !== 'Z' && state !== 'X';
  } catch {
    return false;
  }
}
