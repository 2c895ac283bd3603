import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { pathToFileURL } from 'node:url';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { reapWithNode } from './reaper.ts';

const all: ChildProcess[] = [];
afterEach(() => {
  for (const child of all.splice(0)) child.kill('SIGKILL');
});

/** Sleeps in a group of its own. */
function sleeper(): ChildProcess {
  const child = spawn('sleep', ['60'], { detached: true, stdio: 'ignore' });
  all.push(child);
  return child;
}

describe.skipIf(process.platform === 'win32')('a group that is to end with its node', () => {
  it('ends, though it is stopped and the node was killed', async () => {
    const victim = sleeper();
    const ended = once(victim, 'exit');
    const url = pathToFileURL(join(import.meta.dirname, 'reaper.ts')).href;
    const code = `(await import(${JSON.stringify(url)})).reapWithNode(${victim.pid}); console.log('guarded'); setInterval(() => {}, 1000);`;
    const node = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', 'pipe', 'inherit'] });
    all.push(node);
    await once(node.stdout, 'data');
    victim.kill('SIGSTOP');
    node.kill('SIGKILL');
    expect(await ended).toEqual([null, 'SIGKILL']);
  });

  it('is left alone when that was taken back', async () => {
    const victim = sleeper();
    const other = sleeper();
    reapWithNode(victim.pid ?? 0)();
    // Whoever comes later has seen the first one's shell end.
    const release = reapWithNode(other.pid ?? 0);
    release();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect([victim.exitCode, victim.signalCode, other.exitCode, other.signalCode]).toEqual([null, null, null, null]);
  });
});
