/**
 * Takes a whole process group off the processors and puts it back: the compute gate of engines that can't be sliced inside. By
 * the v2 freezer where the group has a control group of its own (`admin-guide/cgroup-v2.rst`, `cgroup.freeze` and `cgroup.events`),
 * else by SIGSTOP and SIGCONT. Neither is believed: a signal is acted on only when the thread runs next, and one that is starved of
 * processor time does not run at once, so the state of every thread is looked at until it is what it should be.
 */
import { accessSync, constants, existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Micros } from '../core/ids.ts';
import { MILLI, SECOND } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import { realTimer } from './timer.ts';
import type { Timer } from './timer.ts';

export interface Freezer {
  readonly by: 'cgroup' | 'signals';
  /**
   * True when every thread of the group was seen stopped (or the group is gone), false when a `thaw` came before. Callers share one
   * attempt. Rejects with `engine_error` when the deadline has passed; what was asked for is then forgotten, and can be asked again.
   */
  freeze(): Promise<boolean>;
  /** True when no thread was seen stopped, false when a `freeze` came before. The group is told before this returns. Rejects as `freeze`. */
  thaw(): Promise<boolean>;
}

export interface FreezerOptions {
  /** The process group's id: its leader's process id. */
  readonly group: number;
  /** Its own v2 control group; null: it has none. */
  readonly cgroup: string | null;
  /** True once the leader is reaped: from then on the id may belong to somebody else. */
  readonly gone: () => boolean;
  readonly timer?: Timer;
  readonly deadlineMicros?: Micros;
  /** Where processes are seen: `proc_pid_stat(5)`. */
  readonly procFolder?: string;
}

type Wanted = 'frozen' | 'running';
/** How a group is told, and how it is seen to have done it. */
interface Means {
  readonly by: Freezer['by'];
  tell(wanted: Wanted): void;
  seen(wanted: Wanted): boolean;
}

/** A group that computes is stopped within some tens of microseconds; beside others that want its core, within their time slices. */
const DEADLINE_MICROS = 10 * SECOND;
/** So long it is looked at in every turn of the event loop: most have stopped by then, and a timer's millisecond is much for a slice. */
const EAGER_MICROS = 600;
const FIRST_POLL_MICROS = MILLI;
const LONGEST_POLL_MICROS = 16 * MILLI;
/** Looking through all processes of a machine takes milliseconds, so who is in the group is asked only so often. */
const MEMBERS_FOR_MICROS = SECOND;

export function createFreezer(options: FreezerOptions): Freezer {
  const { group, cgroup, gone, timer = realTimer, deadlineMicros = DEADLINE_MICROS, procFolder = '/proc' } = options;
  const means = cgroup !== null && canFreeze(cgroup) ? byCgroup(cgroup) : bySignals(group, procFolder, timer);
  let wanted: Wanted | null = null;
  /** The last attempt; the number tells the earlier ones that they are overtaken. */
  let attempt: Promise<boolean> = Promise.resolve(true);
  let turn = 0;

  const watch = async (target: Wanted, own: number): Promise<boolean> => {
    const start = timer.now();
    const deadline = start + deadlineMicros;
    let pauseMicros = 0;
    for (;;) {
      if (own !== turn) return false;
      if (gone() || means.seen(target)) return true;
      if (timer.now() >= deadline) {
        wanted = null;
        throw new BerthError(
          'engine_error',
          `The processes of group ${group} are not ${target === 'frozen' ? 'stopped' : 'running'} after ${deadlineMicros / SECOND} s (by ${means.by}): one of them hangs in the kernel (a disk, a device), or the machine has no processor time for it. Unload the model.`,
        );
      }
      await new Promise<void>((resolve) => {
        timer.after(pauseMicros, resolve);
      });
      if (timer.now() - start >= EAGER_MICROS)
        pauseMicros = Math.min(Math.max(FIRST_POLL_MICROS, 2 * pauseMicros), LONGEST_POLL_MICROS);
    }
  };
  const want = (target: Wanted): Promise<boolean> => {
    if (wanted === target) return attempt;
    wanted = target;
    turn += 1;
    if (gone()) return (attempt = Promise.resolve(true));
    try {
      means.tell(target);
    } catch (error) {
      wanted = null;
      const message = `Group ${group} can’t be told to be ${target} by ${means.by}: ${(error as Error).message}.`;
      return (attempt = Promise.reject(new BerthError('engine_error', message, { cause: error })));
    }
    return (attempt = watch(target, turn));
  };
  return { by: means.by, freeze: () => want('frozen'), thaw: () => want('running') };
}

function canFreeze(cgroup: string): boolean {
  try {
    accessSync(join(cgroup, 'cgroup.freeze'), constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

const byCgroup = (cgroup: string): Means => ({
  by: 'cgroup',
  tell: (wanted) => writeFileSync(join(cgroup, 'cgroup.freeze'), wanted === 'frozen' ? '1' : '0'),
  seen(wanted) {
    const events = join(cgroup, 'cgroup.events');
    // One that is gone had nobody left in it.
    if (!existsSync(events)) return true;
    const frozen = /^frozen 1$/m.test(readFileSync(events, 'utf8'));
    return frozen === (wanted === 'frozen');
  },
});

function bySignals(group: number, procFolder: string, timer: Timer): Means {
  let members: readonly number[] = [];
  let membersUntil: Micros = -1;
  return {
    by: 'signals',
    tell(wanted) {
      try {
        process.kill(-group, wanted === 'frozen' ? 'SIGSTOP' : 'SIGCONT');
      } catch (error) {
        // Nobody is left in it: nobody computes.
        if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
      }
    },
    seen(wanted) {
      if (timer.now() >= membersUntil) {
        members = processesOf(group, procFolder);
        membersUntil = timer.now() + MEMBERS_FOR_MICROS;
      }
      return members.every((pid) => threadsAre(wanted, pid, procFolder));
    },
  };
}

/** `pid (name) state ppid pgrp …`; the name may hold anything. null: it is gone. */
function readStat(path: string): { readonly state: string; readonly group: number } | null {
  try {
    const stat = readFileSync(path, 'utf8');
    const [state = '', , group] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return { state, group: Number(group) };
  } catch {
    return null;
  }
}

const list = (folder: string): string[] => {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
};

function processesOf(group: number, procFolder: string): number[] {
  return list(procFolder)
    .filter((name) => /^\d+$/.test(name) && readStat(`${procFolder}/${name}/stat`)?.group === group)
    .map(Number);
}

/** Stopped is T; Z and X compute no more. */
function threadsAre(wanted: Wanted, pid: number, procFolder: string): boolean {
  return list(`${procFolder}/${pid}/task`).every((thread) => {
    const state = readStat(`${procFolder}/${pid}/task/${thread}/stat`)?.state ?? 'X';
    return wanted === 'frozen' ? 'TZX'.includes(state) : state !== 'T';
  });
}
