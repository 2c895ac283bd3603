import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, rmdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { MILLI } from '../core/ids.ts';
import { createFreezer } from './freezer.ts';
import type { Freezer } from './freezer.ts';
import { createSupervisor } from './supervisor.ts';

/** Spins on a thread, and in a child: whatever is forgotten goes on counting. */
const SPIN = `
  new (require('node:worker_threads').Worker)('for (;;);', { eval: true });
  const spin = 'console.log("up"); for (;;);';
  require('node:child_process').spawn(process.execPath, ['-e', spin], { stdio: ['ignore', 'inherit', 'inherit'] });
`;

const started: ChildProcess[] = [];
afterEach(() => {
  for (const child of started.splice(0)) {
    try {
      process.kill(-(child.pid ?? 0), 'SIGKILL');
    } catch {
      // It is gone.
    }
  }
});

async function spin(): Promise<number> {
  const child = spawn(process.execPath, ['-e', SPIN], {
    detached: true,
    env: {},
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  started.push(child);
  await new Promise((resolve) => {
    child.stdout.once('data', resolve);
  });
  return child.pid ?? 0;
}

/** Processor time of every process of the group, in ticks of 10 ms: `proc_pid_stat(5)`. */
function ticksOf(group: number): number {
  let ticks = 0;
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      if (Number(fields[2]) === group) ticks += Number(fields[11]) + Number(fields[12]);
    } catch {
      // It ended meanwhile.
    }
  }
  return ticks;
}

async function isStill(group: number): Promise<boolean> {
  const before = ticksOf(group);
  await sleep(60);
  return ticksOf(group) === before;
}

const freezerOf = (group: number, more: Partial<Parameters<typeof createFreezer>[0]> = {}): Freezer =>
  createFreezer({ group, cgroup: null, gone: () => false, ...more });

describe('a frozen group, by signals', () => {
  it('uses no processor, none of its threads and children, until it is thawed', async () => {
    const group = await spin();
    const freezer = freezerOf(group);
    expect(freezer.by).toBe('signals');
    expect(await isStill(group)).toBe(false);
    expect(await freezer.freeze()).toBe(true);
    expect(await isStill(group)).toBe(true);
    expect(await freezer.thaw()).toBe(true);
    expect(await isStill(group)).toBe(false);
  });

  it('can be frozen many times at once, and a thaw that comes meanwhile wins', async () => {
    const group = await spin();
    const freezer = freezerOf(group);
    const first = freezer.freeze();
    expect(freezer.freeze()).toBe(first);
    const thawed = freezer.thaw();
    expect([await thawed, await isStill(group)]).toEqual([true, false]);
    expect(await Promise.all([freezer.freeze(), freezer.freeze()])).toEqual([true, true]);
    expect(await isStill(group)).toBe(true);
  });

  it('is not believed before it is seen', async () => {
    // A machine on which the second thread goes on, whatever it is told.
    const proc = mkdtempSync(join(tmpdir(), 'berth-proc-'));
    const group = await spin();
    const write = (thread: number, state: string): void => {
      mkdirSync(join(proc, `${group}/task/${thread}`), { recursive: true });
      for (const path of [`${group}/stat`, `${group}/task/${thread}/stat`])
        writeFileSync(join(proc, path), `${group} (a) b) R) ${state} 1 ${group} 1`);
    };
    write(group, 'T');
    write(group + 1, 'R');
    const freezer = freezerOf(group, { procFolder: proc, deadlineMicros: 30 * MILLI });
    await expect(freezer.freeze()).rejects.toMatchObject({ code: 'engine_error' });
    const again = freezer.freeze();
    write(group + 1, 'T');
    expect(await again).toBe(true);
    const thawing = freezer.thaw();
    expect(await freezer.freeze()).toBe(true);
    expect(await thawing).toBe(false);
    rmSync(proc, { recursive: true });
  });

  it('is a matter of course where nobody is left', async () => {
    expect(await freezerOf(2 ** 22 + 1).freeze()).toBe(true);
    expect(await freezerOf(0, { gone: () => true }).freeze()).toBe(true);
  });
});

describe('a frozen child of the supervisor', () => {
  const supervisor = createSupervisor({ groups: { version: 'none', create: () => null } });
  afterAll(() => supervisor.close());

  it('hears SIGTERM all the same when it is to end', async () => {
    const up = Promise.withResolvers<void>();
    const child = supervisor.spawn({
      name: 'polite',
      command: process.execPath,
      args: ['-e', 'process.on("SIGTERM", () => process.exit(7)); console.log("up"); setInterval(() => {}, 1000)'],
      env: {},
      ipc: false,
      niceness: 5,
      onLine: () => up.resolve(),
    });
    await up.promise;
    await child.freezer.freeze();
    expect(await child.stop()).toMatchObject({ took: 'sigterm', exit: { code: 7 }, seenFree: true });
  });
});

/** A control group of our own in v2, where this machine lets us have one. */
function ownCgroup(): string | null {
  try {
    const mount = readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .map((line) => line.split(' '))
      .find((fields) => fields[2] === 'cgroup2')?.[1];
    const own = /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1];
    const path = join(mount ?? '', own ?? '', `berth-${process.pid}-freezer-test`);
    mkdirSync(path);
    readFileSync(join(path, 'cgroup.freeze'));
    return path;
  } catch {
    return null;
  }
}
const cgroup = ownCgroup();
afterAll(() => {
  if (cgroup !== null) rmdirSync(cgroup);
});

// Skipped where no v2 control group can be made: its files are the kernel's.
describe.skipIf(cgroup === null)('a frozen group, by its control group', () => {
  it('uses no processor until it is thawed', async () => {
    const group = await spin();
    for (const name of readdirSync('/proc')) {
      if (!/^\d+$/.test(name)) continue;
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
      if (Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[2]) === group)
        writeFileSync(join(cgroup ?? '', 'cgroup.procs'), name);
    }
    const freezer = freezerOf(group, { cgroup });
    expect(freezer.by).toBe('cgroup');
    expect(await freezer.freeze()).toBe(true);
    expect(await isStill(group)).toBe(true);
    expect(await freezer.thaw()).toBe(true);
    expect(await isStill(group)).toBe(false);
    process.kill(-group, 'SIGKILL');
    while (/^populated 1$/m.test(readFileSync(join(cgroup ?? '', 'cgroup.events'), 'utf8'))) await sleep(2);
  });
});
