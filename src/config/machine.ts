/** What the machine offers this process: the defaults of `device` come from it. */
import { availableParallelism, homedir, totalmem } from 'node:os';
import { join, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Bytes } from '../core/ids.ts';

export interface Machine {
  readonly totalMemoryBytes: Bytes;
  /** The smaller of total memory and the control group's limit. */
  readonly usableMemoryBytes: Bytes;
  /** Cores this process may use (affinity and control group counted). */
  readonly cores: number;
  readonly home: string;
  /** Folder of this installation. */
  readonly packageDir: string;
}

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
  };
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
