/** Starts a node as a process of its own, as a user would with `berth serve`, for commands that need one to themselves. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { BerthError } from '../errors.ts';
import { wireError } from './client.ts';
import type { Io } from './io.ts';

export interface ChildNode {
  readonly url: string;
  readonly adminUrl: string;
  /** Lets it end within a deadline, then kills it; resolves when it is gone. Idempotent. */
  stop(): Promise<void>;
}

const READY_MILLIS = 60_000;
/** Longer than the node's own grace for what runs. */
const STOP_MILLIS = 20_000;
/** Of what it writes before it is ready. */
const MOST_CHARACTERS = 64 * 1024;

/** What it writes to stderr is passed on. @throws BerthError the one with which it ended, or node_unreachable: it was not ready in time */
export async function startChildNode(io: Io, args: readonly string[]): Promise<ChildNode> {
  const main = fileURLToPath(new URL('main.ts', import.meta.url));
  const child = spawn(process.execPath, [main, 'serve', '--json', ...args], {
    cwd: io.cwd,
    env: { ...io.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const gone = once(child, 'exit');
  let complaint = '';
  let isReady = false;
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    if (isReady) io.err(text);
    else complaint = (complaint + text).slice(-MOST_CHARACTERS);
  });
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MILLIS);
    await gone.catch(() => undefined);
    clearTimeout(timer);
  };
  // Goes on reading, so that what it prints later does not fill the pipe.
  const lines = createInterface({ input: child.stdout });
  const timer = setTimeout(() => child.kill('SIGKILL'), READY_MILLIS);
  try {
    const first = (await Promise.race([once(lines, 'line'), gone.then(() => null)])) as [string] | null;
    if (first === null) throw lastWord(complaint);
    const { address, adminAddress } = JSON.parse(first[0]) as {
      readonly address: string;
      readonly adminAddress: string;
    };
    isReady = true;
    io.err(complaint);
    return { url: address, adminUrl: adminAddress, stop };
  } catch (error) {
    await stop();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** `berth serve --json` ends with its error as a line of JSON. */
function lastWord(complaint: string): BerthError {
  const line = complaint.trim().split('\n').at(-1) ?? '';
  try {
    const { error } = JSON.parse(line) as { readonly error?: Parameters<typeof wireError>[0] };
    if (error !== undefined) return wireError(error, 500);
  } catch {
    // It ended without a word, or was killed.
  }
  return new BerthError(
    'node_unreachable',
    `the node that was to be started ended before it was ready. ${line}`.trim(),
  );
}
