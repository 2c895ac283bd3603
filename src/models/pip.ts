/**
 * Downloads Python packages with the machine's own pip, which knows the user's index, proxy, certificates and cache. Nothing of
 * a package is run: only wheels are taken (`--only-binary`), and they are read as archives.
 */
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { BerthError } from '../errors.ts';
import type { Bytes } from '../core/ids.ts';

const DOWNLOAD_LIMIT_MILLIS = 2 * 3_600_000;
const SILENCE_LIMIT_MILLIS = 5 * 60_000;
const POLL_MILLIS = 500;
const KEPT_OUTPUT = 32_768;

/** How pip may be called, best first. */
const CALLS: readonly (readonly [string, ...string[]])[] = [
  ['python3', '-m', 'pip'],
  ['pip3'],
  ['pip'],
  ['python', '-m', 'pip'],
];

export interface Requirement {
  readonly name: string;
  readonly version: string | null;
}

export interface PipOptions {
  /** Finished wheels are kept there. */
  readonly folder: string;
  readonly signal: AbortSignal;
  readonly onBytes: (receivedBytes: Bytes, totalBytes: Bytes | null) => void;
}

/** How a wheel's file name starts (the binary distribution format's escaping of the package's name). */
const wheelPrefix = (name: string): string => name.toLowerCase().replaceAll(/[-_.]+/g, '_');

/** The wheel's path: one that is there (of an exact version), else pip's. Throws `not_found`, `download_failed`, `request_cancelled`. */
export async function downloadWheel({ name, version }: Requirement, options: PipOptions): Promise<string> {
  const { folder } = options;
  await mkdir(folder, { recursive: true });
  const there = (await readdir(folder)).find((file) => {
    const [base = '', found] = file.split('-');
    return file.endsWith('.whl') && wheelPrefix(base) === wheelPrefix(name) && found === version;
  });
  if (there !== undefined) return path.join(folder, there);
  // pip writes into a folder of its own: what appears in `folder` is complete.
  const work = await mkdtemp(path.join(folder, '.pip-'));
  try {
    const call = await findPip(options.signal);
    const requirement = version === null ? name : `${name}==${version}`;
    await runPip(call, requirement, work, options);
    const [wheel] = (await readdir(work)).filter((file) => file.endsWith('.whl'));
    if (wheel === undefined) throw new BerthError('download_failed', `pip brought no wheel for ${requirement}`);
    const target = path.join(folder, wheel);
    await rename(path.join(work, wheel), target);
    return target;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function findPip(signal: AbortSignal): Promise<readonly [string, ...string[]]> {
  for (const call of CALLS) {
    const [command, ...args] = call;
    const works = await new Promise<boolean>((resolve) => {
      const child = spawn(command, [...args, '--version'], { stdio: 'ignore', timeout: 30_000, signal });
      child.on('error', () => resolve(false));
      child.on('close', (code) => resolve(code === 0));
    });
    if (works) return call;
    if (signal.aborted) throw new BerthError('request_cancelled', 'the pull was stopped');
  }
  throw new BerthError(
    'download_failed',
    'pip is needed to fetch Python packages: install Python 3 with pip, then pull again',
  );
}

async function runPip(
  [command, ...args]: readonly [string, ...string[]],
  requirement: string,
  work: string,
  { signal, onBytes }: PipOptions,
): Promise<void> {
  const flags = ['--no-deps', '--only-binary=:all:', '--no-input', '--disable-pip-version-check', '--progress-bar=off'];
  const temporary = path.join(work, 'tmp');
  await mkdir(temporary);
  const child = spawn(command, [...args, 'download', ...flags, '--dest', work, requirement], {
    stdio: ['ignore', 'pipe', 'pipe'],
    // Its own process group: stopping it stops what it started.
    detached: true,
    env: { ...process.env, TMPDIR: temporary, PYTHONUNBUFFERED: '1', LC_ALL: 'C.UTF-8' },
  });
  let output = '';
  let lastChange = Date.now();
  let received = 0;
  let why: 'stopped' | 'late' | null = null;
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-KEPT_OUTPUT);
      lastChange = Date.now();
    });
  }
  const end = (reason: 'stopped' | 'late'): void => {
    why ??= reason;
    if (child.pid === undefined) return;
    try {
      process.kill(-child.pid, 'SIGKILL');
    } catch {
      // It is gone already.
    }
  };
  const stop = (): void => end('stopped');
  signal.addEventListener('abort', stop, { once: true });
  if (signal.aborted) stop();
  const started = Date.now();
  // pip shows no bytes to a pipe; the growth of its temporary files does.
  const poll = setInterval(() => {
    void folderBytes(work).then((bytes) => {
      if (bytes > received) {
        lastChange = Date.now();
        received = bytes;
        onBytes(received, announcedBytes(output));
      }
      if (Date.now() - lastChange > SILENCE_LIMIT_MILLIS || Date.now() - started > DOWNLOAD_LIMIT_MILLIS) end('late');
    });
  }, POLL_MILLIS);
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', resolve);
    });
    if (why === 'stopped') throw new BerthError('request_cancelled', 'the pull was stopped; the next one goes on');
    if (why === 'late')
      throw new BerthError(
        'download_failed',
        `pip brought nothing of ${requirement} for ${SILENCE_LIMIT_MILLIS / 60_000} minutes`,
      );
    if (code !== 0) throw pipError(requirement, output);
  } finally {
    clearInterval(poll);
    signal.removeEventListener('abort', stop);
  }
}

function pipError(requirement: string, output: string): BerthError {
  const errors = output.split('\n').filter((line) => line.startsWith('ERROR:'));
  const offline =
    /(NewConnectionError|ConnectTimeout|Name or service not known|Temporary failure in name|ProxyError|Max retries)/.test(
      output,
    );
  if (!offline && errors.some((line) => line.includes('No matching distribution'))) {
    // pip says the same of a package that doesn't exist and, without retries, of an index that doesn't answer.
    return new BerthError(
      'not_found',
      `pip finds no wheel for ${requirement}: check the name, the version, and pip's index`,
      { param: 'source' },
    );
  }
  const last = errors.at(-1)?.slice('ERROR:'.length).trim() ?? output.trim().split('\n').at(-1) ?? 'no reason given';
  return new BerthError(
    'download_failed',
    `pip could not fetch ${requirement}: ${offline ? 'the package index can’t be reached' : last}`,
  );
}

/** `Downloading x.whl (92.9 MB)`: pip counts in thousands and rounds. */
function announcedBytes(output: string): Bytes | null {
  const matches = [...output.matchAll(/\(([\d.]+) (bytes|kB|MB|GB)\)/g)];
  const last = matches.at(-1);
  if (last === undefined) return null;
  const unit = { bytes: 1, kB: 1e3, MB: 1e6, GB: 1e9 }[last[2] ?? ''] ?? 1;
  return Math.round(Number(last[1]) * unit);
}

async function folderBytes(folder: string): Promise<Bytes> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true }).catch(() => []);
  const sizes = entries
    .filter((entry) => entry.isFile())
    .map(async (entry) => (await stat(path.join(entry.parentPath, entry.name)).catch(() => null))?.size ?? 0);
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
}
