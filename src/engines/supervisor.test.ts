import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { MILLI, MIB } from '../core/ids.ts';
import { groupHoldsMemory } from './memory.ts';
import { createSupervisor } from './supervisor.ts';
import type { ChildOptions, Supervisor } from './supervisor.ts';

const none = { version: 'none', create: () => null } as const;
const patience = { politeMicros: 300 * MILLI, termMicros: 300 * MILLI, killMicros: 5_000 * MILLI };
let supervisor: Supervisor = createSupervisor({ groups: none, patience });
afterEach(async () => {
  await supervisor.close();
  supervisor = createSupervisor({ groups: none, patience });
});

const node = (script: string, more: Partial<ChildOptions> = {}): ChildOptions => ({
  name: 'child',
  command: process.execPath,
  args: ['-e', script],
  env: { PATH: process.env['PATH'] ?? '' },
  ipc: true,
  niceness: 5,
  ...more,
});
/** Spawns and waits for the child's first message. */
const ready = (script: string): Promise<ReturnType<Supervisor['spawn']>> =>
  new Promise((resolve) => {
    const child = supervisor.spawn(node(script, { onMessage: () => resolve(child) }));
  });

describe('supervisor', () => {
  it('says how a child ended, with its last line', async () => {
    const child = supervisor.spawn(node('console.error("no such tensor"); process.exit(3)'));
    const exit = await child.exited;
    expect(exit).toMatchObject({ code: 3, signal: null, cause: 'exited' });
    expect(exit.reason).toContain('exited with code 3');
    expect(exit.reason).toContain('no such tensor');
  });

  it('says when a child could not be started', async () => {
    const child = supervisor.spawn(node('', { command: '/no/such/program' }));
    expect((await child.exited).cause).toBe('not_started');
    expect(child.send({})).toBe(false);
    expect(await child.stop()).toMatchObject({ took: 'gone', seenFree: true });
  });

  it('keeps a bounded number of lines', async () => {
    const heard: string[] = [];
    const child = supervisor.spawn(
      node('for (let i = 0; i < 500; i++) console.error("line " + i)', { onLine: (line) => heard.push(line) }),
    );
    await child.exited;
    expect(heard).toHaveLength(500);
    expect(child.lines()).toHaveLength(64);
    expect(child.lines().at(-1)).toBe('line 499');
  });

  it('gives each child a control group of its own, whoever else supervises', async () => {
    const names: string[] = [];
    const groups = { version: 'none', create: (name: string) => (names.push(name), null) } as const;
    const [one, other] = [createSupervisor({ groups, patience }), createSupervisor({ groups, patience })];
    await Promise.all([one, other].map((each) => each.spawn(node('')).exited));
    expect(new Set(names).size).toBe(2);
  });

  it('survives a child that writes nonsense to its channel', async () => {
    const heard: unknown[] = [];
    const child = supervisor.spawn(
      node(
        `const channel = process.env.NODE_CHANNEL_FD ?? 3; process.send({ a: 1 });
         require('node:fs').writeSync(Number(channel), '}{ nonsense\\n'); setTimeout(() => process.send({ b: 'ü' }, () => process.exit(0)), 20)`,
        { onMessage: (message) => heard.push(message) },
      ),
    );
    await child.exited;
    expect(heard).toEqual([{ a: 1 }, undefined, { b: 'ü' }]);
  });

  it('asks politely first', async () => {
    const child = await ready('process.on("message", () => process.exit(0)); process.send("up")');
    expect(await child.stop({ type: 'exit' })).toMatchObject({ took: 'polite', seenFree: true, exit: { code: 0 } });
    expect(child.memory()).toBeNull();
  });

  it('kills a child that listens to nothing, and its grandchildren', async () => {
    const child = await ready(`
      process.on('SIGTERM', () => {}); process.on('disconnect', () => {});
      const grandchild = require('node:child_process').spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);
      setInterval(() => {}, 1000); process.send('up')`);
    const report = await child.stop({ type: 'exit' });
    expect(report).toMatchObject({ took: 'sigkill', seenFree: true, exit: { cause: 'signalled', signal: 'SIGKILL' } });
    expect(() => process.kill(-child.pid, 0)).toThrow('ESRCH');
  });

  it('kills a child beyond its memory limit where there are no control groups', async () => {
    const child = await ready(
      `process.send('up'); process.on('message', () => { globalThis.held = Buffer.alloc(${200 * MIB}, 1); }); setInterval(() => {}, 1000)`,
    );
    const held = child.memory()?.privateBytes ?? 0;
    expect(held).toBeGreaterThan(0);
    expect(child.limitMemory(held + 100 * MIB)).toBe('watchdog');
    child.send({ type: 'grow' });
    expect((await child.exited).cause).toBe('out_of_memory');
  });

  it('takes its children along when the node dies', async () => {
    // The middle process plays the node: it supervises a child without IPC and exits without a goodbye.
    const module = new URL('./supervisor.ts', import.meta.url).pathname;
    const lines: string[] = [];
    const middle = supervisor.spawn({
      ...node('', { ipc: false, onLine: (line) => lines.push(line) }),
      args: [
        '--input-type=module',
        '-e',
        `const { createSupervisor } = await import(${JSON.stringify(module)});
         const child = createSupervisor({ groups: { version: 'none', create: () => null } }).spawn({ name: 'inner',
           command: process.execPath, args: ['-e', 'setInterval(() => {}, 1000)'], env: {}, ipc: false, niceness: 5 });
         console.log('pid ' + child.pid); setTimeout(() => process.exit(1), 50);`,
      ],
    });
    await middle.exited;
    const inner = Number(/pid (\d+)/.exec(lines.join())?.[1]);
    expect(inner).toBeGreaterThan(0);
    const alive = (): boolean => groupHoldsMemory(inner) === true;
    for (let tries = 0; alive() && tries < 200; tries++) await sleep(5);
    expect(alive()).toBe(false);
  });
});
