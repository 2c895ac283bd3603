/**
 * A node that is killed can't end the processes of its engines. `setpriv` sees to it that a process group's leader ends with the node, but
 * not those that the leader started, and if they are frozen they stay for ever, with all of their memory. So somebody outside of the
 * group waits for the node's end: a shell, which reads from a pipe whose other end only the node has.
 */
import { spawn } from 'node:child_process';

const SHELL = '/bin/sh';
const WAIT_AND_KILL = 'read -r line; kill -s KILL -- "-$1"';

/** From now on the group ends with this process, however that ends. The result takes it back. Nothing where there is no such shell. */
export function reapWithNode(group: number): () => void {
  if (process.platform === 'win32') return () => {};
  const reaper = spawn(SHELL, ['-c', WAIT_AND_KILL, 'berth-reaper', String(group)], {
    // Of its own, so that a Ctrl-C in the terminal, which ends nodes politely, does not end it.
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
    env: {},
  });
  reaper.on('error', () => {});
  reaper.stdin.on('error', () => {});
  reaper.unref();
  return () => void reaper.kill('SIGKILL');
}
