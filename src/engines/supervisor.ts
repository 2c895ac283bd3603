/**
 * Child processes of engines: each in its own process group, with a niceness, a memory limit, a bounded memory of what it
 * printed, and an end that escalates and is seen. Nothing here knows what an engine is.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { constants, setPriority } from 'node:os';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import type { Bytes, Micros } from '../core/ids.ts';
import { MILLI, SECOND } from '../core/ids.ts';
import { findMemoryGroups } from './cgroup.ts';
import type { MemoryGroup, MemoryGroups } from './cgroup.ts';
import { CHANNEL_ENV, CHANNEL_STDIO, openChannel } from './channel.ts';
import type { Channel } from './channel.ts';
import { createFreezer } from './freezer.ts';
import type { Freezer } from './freezer.ts';
import { createGroupReader, groupHoldsMemory, readProcessMemory } from './memory.ts';
import type { ProcessMemory } from './memory.ts';
import { reapWithNode } from './reaper.ts';
import { realTimer } from './timer.ts';
import type { Timer } from './timer.ts';

export interface ChildOptions {
  /** For logs and the control group: letters, digits, dashes. */
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  /** The whole environment: nothing is inherited. */
  readonly env: Readonly<Record<string, string>>;
  readonly ipc: boolean;
  /** 0–19; raised so that the node itself stays responsive. */
  readonly niceness: number;
  /** It works by processes of its own: all of their memory is measured and limited, and all of them end with this process. */
  readonly isGroup?: boolean;
  /** Each message of the child; undefined for what is no JSON. */
  onMessage?(message: unknown): void;
  /** A line that the child printed, at most `MAX_LINE` characters of it. */
  onLine?(line: string): void;
  onExit?(exit: ChildExit): void;
}

export interface ChildExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly cause: 'exited' | 'signalled' | 'out_of_memory' | 'not_started';
  /** For people: how it ended, and the last thing that it printed. */
  readonly reason: string;
}

export interface StopPatience {
  /** How long the polite message, SIGTERM and SIGKILL are each given. */
  readonly politeMicros: Micros;
  readonly termMicros: Micros;
  readonly killMicros: Micros;
}

export interface StopReport {
  readonly exit: ChildExit | null;
  /** What it took. `gone`: it had ended before. */
  readonly took: 'gone' | 'polite' | 'sigterm' | 'sigkill';
  readonly micros: Micros;
  /** Every process of the group is gone, so its memory is free. False: the deadline passed before. */
  readonly seenFree: boolean;
}

export interface Child {
  readonly pid: number;
  /** null while it runs. */
  exit(): ChildExit | null;
  /** Resolves, never rejects, when the process is reaped. */
  readonly exited: Promise<ChildExit>;
  /** False when it can't be reached any more. */
  send(message: object): boolean;
  /** The last lines that it printed, oldest first. */
  lines(): readonly string[];
  memory(): ProcessMemory | null;
  /** Takes its whole group off the processors and puts it back. `stop` thaws it first: nobody who is stopped hears SIGTERM. */
  readonly freezer: Freezer;
  /** Limits its memory (0: no limit); says by what. `watchdog`: by looking, twice a second. */
  limitMemory(bytes: Bytes): 'v2' | 'v1' | 'watchdog' | 'none';
  /** Idempotent: later calls share the first one's result, or try again where it failed. `polite`: what to send first. */
  stop(polite?: object): Promise<StopReport>;
}

export interface Supervisor {
  spawn(options: ChildOptions): Child;
  /** Stops all children. */
  close(): Promise<void>;
}

export interface SupervisorOptions {
  readonly groups?: MemoryGroups;
  readonly timer?: Timer;
  readonly patience?: StopPatience;
}

/**
 * Where the kernel groups tasks by session (`sched_autogroup_enabled`; sched(7)), niceness counts within a session only, and each child has
 * one of its own. A group that spins on all cores then keeps the node off them for up to a second at a time (seen with vLLM).
 */
const AUTOGROUP_NICENESS = 10;
const MAX_LINES = 64;
const MAX_LINE = 2_000;
const WATCH_MICROS = 500 * MILLI;
const PATIENCE: StopPatience = { politeMicros: 2 * SECOND, termMicros: 2 * SECOND, killMicros: 10 * SECOND };

/** Groups that must not outlive this process, whatever ends it. Killed groups need no goodbye: nothing of theirs is kept. */
const living = new Set<number>();
let hooked = false;
/** Of all supervisors' children: each has a control group of its own, whichever engine it belongs to. */
let serial = 0;

/** Signals a whole process group; false when it has no process left. */
function signalGroup(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    process.kill(-pid, signal);
    return true;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

function killWithNode(pid: number): void {
  living.add(pid);
  if (hooked) return;
  hooked = true;
  process.on('exit', () => {
    for (const group of living) signalGroup(group, 'SIGKILL');
  });
}

export function createSupervisor(options: SupervisorOptions = {}): Supervisor {
  const { groups = findMemoryGroups(), timer = realTimer, patience = PATIENCE } = options;
  const children = new Set<Child>();
  return {
    spawn(childOptions) {
      const child = startChild(childOptions, { groups, timer, patience, serial: serial++ });
      children.add(child);
      void child.exited.then(() => children.delete(child));
      return child;
    },
    async close() {
      await Promise.all([...children].map((child) => child.stop()));
    },
  };
}

interface Context {
  readonly groups: MemoryGroups;
  readonly timer: Timer;
  readonly patience: StopPatience;
  readonly serial: number;
}

function startChild(options: ChildOptions, context: Context): Child {
  const process_ = spawn(options.command, options.args, {
    env: options.ipc ? { ...options.env, ...CHANNEL_ENV } : options.env,
    detached: true,
    serialization: 'json',
    stdio: ['ignore', 'pipe', 'pipe', options.ipc ? CHANNEL_STDIO : 'ignore'],
  });
  const channel = options.ipc ? openChannel(process_, (message) => options.onMessage?.(message)) : null;
  const pid = process_.pid ?? 0;
  const lines = keepLines(process_, options);
  let exit: ChildExit | null = null;
  let stopping: Promise<StopReport> | null = null;
  let outOfMemory = false;
  let unwatch = nothing;

  // Made at once, without a limit, so that all that the child will ever hold is charged to it.
  let group: MemoryGroup | null = null;
  let unguard = nothing;
  if (pid > 0) {
    killWithNode(pid);
    if (options.isGroup === true) {
      unguard = reapWithNode(pid);
      attempt(() => writeFileSync(`/proc/${pid}/autogroup`, String(AUTOGROUP_NICENESS)));
    }
    attempt(() => setPriority(pid, options.niceness));
    const made = context.groups.create(`${options.name}-${context.serial}`);
    if (made !== null && attempt(() => made.add(pid))) group = made;
    else made?.remove();
  }

  const exited = new Promise<ChildExit>((resolve) => {
    const finish = (code: number | null, signal: NodeJS.Signals | null, failure?: Error): void => {
      if (exit !== null) return;
      unwatch();
      outOfMemory ||= (group?.oomKills() ?? 0) > 0;
      exit = describeExit(options.name, code, signal, lines, { outOfMemory, failure });
      // Whatever the leader has left behind goes with it.
      if (pid > 0) {
        signalGroup(pid, 'SIGKILL');
        void seeFree(pid, group, context).then(unguard);
      }
      options.onExit?.(exit);
      resolve(exit);
    };
    // `close` and not `exit`: what it printed last has been read by then. A grandchild can hold the pipes open: then `exit` plus a moment.
    process_.on('close', finish);
    process_.on('exit', (code, signal) => context.timer.after(100 * MILLI, () => finish(code, signal)));
    process_.on('error', (error) => {
      if (process_.pid === undefined) finish(null, null, error);
    });
  });
  const freezer = createFreezer({
    group: pid,
    cgroup: context.groups.version === 'v2' ? (group?.path ?? null) : null,
    gone: () => exit !== null || pid === 0,
    timer: context.timer,
  });
  const readMemory = options.isGroup === true ? createGroupReader(pid) : () => readProcessMemory(pid);
  const child: Child = {
    pid,
    exit: () => exit,
    exited,
    freezer,
    send: (message) => exit === null && channel !== null && channel.send(message),
    lines: () => lines,
    memory: () => (exit === null && pid > 0 ? readMemory() : null),
    limitMemory(bytes) {
      unwatch();
      const own = group;
      if (own !== null && attempt(() => own.limit(bytes))) return context.groups.version;
      if (bytes === 0 || exit !== null) return 'none';
      unwatch = watch(context.timer, () => {
        // Clean pages of files don't count: the kernel takes them back by itself, and killing would free nothing.
        const held = readMemory()?.privateBytes ?? 0;
        if (held <= bytes) return;
        outOfMemory = true;
        signalGroup(pid, 'SIGKILL');
      });
      return 'watchdog';
    },
    stop(polite) {
      stopping ??= stopChild(child, channel, polite, { ...context, group }).then((report) => {
        if (!report.seenFree) stopping = null;
        return report;
      });
      return stopping;
    },
  };
  return child;
}

async function stopChild(
  child: Child,
  channel: Channel | null,
  polite: object | undefined,
  context: Context & { readonly group: MemoryGroup | null },
): Promise<StopReport> {
  const { timer, patience } = context;
  const start = timer.now();
  let took: StopReport['took'] = 'gone';
  // Told at once; who does not thaw in time is killed all the same.
  child.freezer.thaw().catch(nothing);
  if (child.exit() === null && polite !== undefined && child.send(polite)) {
    took = 'polite';
    await within(timer, patience.politeMicros, child.exited);
  }
  if (child.exit() === null && signalGroup(child.pid, 'SIGTERM')) {
    took = 'sigterm';
    await within(timer, patience.termMicros, child.exited);
  }
  if (child.exit() === null) {
    took = 'sigkill';
    signalGroup(child.pid, 'SIGKILL');
    await within(timer, patience.killMicros, child.exited);
  }
  channel?.close();
  const seenFree = child.pid === 0 || (await seeFree(child.pid, context.group, context));
  return { exit: child.exit(), took, micros: timer.now() - start, seenFree };
}

/** Waits until no process of the group holds memory any more. */
async function seeFree(pid: number, group: MemoryGroup | null, context: Context): Promise<boolean> {
  const { timer, patience } = context;
  const deadline = timer.now() + patience.killMicros;
  while (signalGroup(pid, 0) && groupHoldsMemory(pid) !== false) {
    if (timer.now() >= deadline) return false;
    await pause(timer, 2 * MILLI);
  }
  living.delete(pid);
  group?.remove();
  return true;
}

const nothing = (): void => {};

const pause = (timer: Timer, micros: Micros): Promise<void> =>
  new Promise((resolve) => {
    timer.after(micros, resolve);
  });

/** Resolves when `event` does or the time is over. */
async function within(timer: Timer, micros: Micros, event: Promise<unknown>): Promise<void> {
  let cancel = nothing;
  const over = new Promise<void>((resolve) => {
    cancel = timer.after(micros, resolve);
  });
  await Promise.race([event, over]);
  cancel();
}

function watch(timer: Timer, look: () => void): () => void {
  let cancel = nothing;
  const arm = (): void => {
    cancel = timer.after(WATCH_MICROS, () => {
      arm();
      look();
    });
  };
  arm();
  return () => cancel();
}

/** Keeps the last lines of both outputs: a ring, so that a chatty child can't fill the node's memory. */
function keepLines(process_: ChildProcess, options: ChildOptions): string[] {
  const lines: string[] = [];
  const keep = (stream: Readable | null): void => {
    if (stream === null) return;
    stream.on('error', () => {});
    createInterface({ input: stream }).on('line', (whole) => {
      const line = whole.length > MAX_LINE ? `${whole.slice(0, MAX_LINE)}…` : whole;
      if (line.trim() === '') return;
      if (lines.push(line) > MAX_LINES) lines.shift();
      options.onLine?.(line);
    });
  };
  keep(process_.stdout);
  keep(process_.stderr);
  return lines;
}

function describeExit(
  name: string,
  code: number | null,
  signal: NodeJS.Signals | null,
  lines: readonly string[],
  more: { readonly outOfMemory: boolean; readonly failure: Error | undefined },
): ChildExit {
  const last = lines.at(-1);
  const said = last === undefined ? '' : `; its last line: ${last}`;
  const end = (cause: ChildExit['cause'], how: string): ChildExit => ({
    code,
    signal,
    cause,
    reason: `${name} ${how}${said}`,
  });
  if (more.failure) return end('not_started', `could not be started (${more.failure.message})`);
  if (more.outOfMemory) return end('out_of_memory', 'was killed at its memory limit');
  if (signal !== null) return end('signalled', `was ended by ${signal} (signal ${constants.signals[signal]})`);
  return end('exited', `exited with code ${code}`);
}

function attempt(act: () => unknown): boolean {
  try {
    act();
    return true;
  } catch {
    return false;
  }
}
