/** What the machine offers this process: the defaults of `device` come from it. */
import { statfsSync } from 'node:fs';
import { availableParallelism, homedir, totalmem } from 'node:os';
import { dirname, join, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Bytes } from '../core/ids.ts';
import type { Gpu } from './nvidia.ts';
import { readGpus } from './nvidia.ts';

export interface Machine {
  readonly totalMemoryBytes: Bytes;
  /** The smaller of total memory and the control group's limit. */
  readonly usableMemoryBytes: Bytes;
  /** Cores this process may use (affinity and control group counted). */
  readonly cores: number;
  readonly home: string;
  /** Folder of this installation. */
  readonly packageDir: string;
  /** What a folder's file system offers, of the nearest folder above where there is none yet. Left out or null: not known. */
  readonly volumeOf?: (folder: string) => Volume | null;
  /** NVIDIA GPUs. Asked only where they matter: their driver takes a while to answer. */
  readonly gpus?: () => readonly Gpu[];
}

export interface Volume {
  readonly freeBytes: Bytes;
  /** Its files lie in memory (tmpfs). */
  readonly isMemory: boolean;
}

/** `f_type` of a tmpfs, from linux/magic.h. Elsewhere the number means something else, and there is no tmpfs at /dev/shm. */
const TMPFS_MAGIC = 0x0102_1994;
/** Asked once a process: when the configuration is read again, budgets that follow from it stay the same. */
const volumes = new Map<string, Volume | null>();

/** Asks the operating system through Node: `process.constrainedMemory` knows cgroup v1 and v2. */
export function readMachine(): Machine {
  const totalMemoryBytes = totalmem();
  const constrained = process.constrainedMemory();
  return {
    totalMemoryBytes,
    // 0 or a number beyond the machine means “no limit”.
    usableMemoryBytes: constrained > 0 && constrained < totalMemoryBytes ? constrained : totalMemoryBytes,
    cores: availableParallelism(),
    home: homedir(),
    packageDir: fileURLToPath(new URL('../..', import.meta.url)),
    volumeOf,
    gpus: readGpus,
  };
}

function volumeOf(folder: string): Volume | null {
  const known = volumes.get(folder);
  if (known !== undefined) return known;
  const volume = askVolume(folder);
  volumes.set(folder, volume);
  return volume;
}

function askVolume(folder: string): Volume | null {
  try {
    const { bavail, bsize, type } = statfsSync(folder);
    return { freeBytes: bavail * bsize, isMemory: process.platform === 'linux' && type === TMPFS_MAGIC };
  } catch {
    return dirname(folder) === folder ? null : askVolume(dirname(folder));
  }
}

/**
 * Where Berth keeps models and state: `BERTH_HOME`; else `.berth` in a clone of the repository, so that a trial leaves nothing
 * behind; else (installed from npm) `.berth` in the home folder.
 */
export function berthHome(environment: Readonly<Record<string, string | undefined>>, machine: Machine): string {
  const named = environment['BERTH_HOME'];
  if (named !== undefined && named !== '') return named;
  const installed = machine.packageDir.includes(`${sep}node_modules${sep}`);
  return join(installed ? machine.home : machine.packageDir, '.berth');
}
