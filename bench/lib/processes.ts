/** What the processes below a server use, read from the system: the bench believes nobody's own numbers. */
import { readFileSync, readdirSync } from 'node:fs';

const readProc = (path: string): string => {
  try {
    return readFileSync(`/proc/${path}`, 'utf8');
  } catch {
    return '';
  }
};

/** All processes below this one, itself not included. Linux only. */
export function descendants(pid: number): number[] {
  const parents = new Map<number, number>();
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    // The command's name may hold spaces and parentheses: the fields begin behind the last one.
    const fields = readProc(`${entry}/stat`).split(') ').at(-1)?.split(' ') ?? [];
    parents.set(Number(entry), Number(fields[1]));
  }
  const found: number[] = [];
  const visit = (parent: number): void => {
    for (const [child, its] of parents) {
      if (its !== parent || found.includes(child)) continue;
      found.push(child);
      visit(child);
    }
  };
  visit(pid);
  return found;
}

/** The process below a server that has this file mapped: the runner of its model. null: there is none now. */
export const holderOf = (server: number, file: string): number | null =>
  descendants(server).find((pid) => readProc(`${pid}/maps`).includes(`/${file}\n`)) ?? null;

/** Clock ticks of /proc; Linux fixes them for programs. */
const TICKS_A_SECOND = 100;

/** CPU seconds of all that ran below this process, those that have ended and were waited for included. Its own are not. */
export function cpuSecondsBelow(pid: number): number {
  const times = (of: number): number[] => {
    const fields = readProc(`${of}/stat`).split(') ').at(-1)?.split(' ').slice(11, 15) ?? [];
    return fields.map((field) => Number(field) / TICKS_A_SECOND);
  };
  const [, , ended = 0, endedSystem = 0] = times(pid);
  return descendants(pid)
    .flatMap(times)
    .reduce((sum, seconds) => sum + seconds, ended + endedSystem);
}

const kilobytes = (text: string, field: string): number =>
  Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0);

/** Proportional set size: shared pages are counted once, divided among those that map them. Bytes. */
export const pssBytes = (pid: number): number => kilobytes(readProc(`${pid}/smaps_rollup`), 'Pss') * 1024;

export interface MemoryWatch {
  readonly samples: number;
  readonly peakBytes: number;
  stop(): void;
}

/** Samples the memory of all processes below `pid` until stopped. */
export function watchMemory(pid: number, everyMillis = 50): MemoryWatch {
  let samples = 0;
  let peakBytes = 0;
  const sample = (): void => {
    const bytes = descendants(pid).reduce((sum, child) => sum + pssBytes(child), 0);
    samples++;
    peakBytes = Math.max(peakBytes, bytes);
  };
  const timer = setInterval(sample, everyMillis);
  return {
    get samples() {
      return samples;
    },
    get peakBytes() {
      return peakBytes;
    },
    stop: () => clearInterval(timer),
  };
}
