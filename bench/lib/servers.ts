/** Starts the servers that are compared: a Berth node as users start it, and llama-server's router. */
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stringify } from 'yaml';

export interface Server {
  readonly name: string;
  readonly url: string;
  readonly adminUrl: string | null;
  readonly pid: number;
  /** Ends it and waits until it is gone; a second TERM after a while, then KILL. */
  stop(): Promise<void>;
}

const ROOT = join(import.meta.dirname, '..', '..');

export async function freePort(): Promise<number> {
  const [port] = await freePorts(1);
  return port as number;
}

/** All are held until the last is found: else two could be the same. */
async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map(async (server) => server.listening || once(server, 'listening')));
  const ports = servers.map((server) => {
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('no port');
    return address.port;
  });
  await Promise.all(
    servers.map(async (server) => {
      server.close();
      await once(server, 'close');
    }),
  );
  return ports;
}

export async function healthy(url: string, path: string, child: ChildProcess, deadlineMillis: number): Promise<void> {
  const deadline = performance.now() + deadlineMillis;
  while (performance.now() < deadline) {
    if (child.exitCode !== null) throw new Error(`${child.spawnfile} ended with ${child.exitCode} before it was ready`);
    try {
      if ((await fetch(url + path)).ok) return;
    } catch {
      // not yet
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`${url} was not ready within ${deadlineMillis} ms`);
}

export function stopper(child: ChildProcess, folder: string | null): () => Promise<void> {
  return async () => {
    if (child.exitCode === null && child.signalCode === null) {
      const gone = once(child, 'exit');
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), 15_000);
      await gone;
      clearTimeout(timer);
    }
    if (folder !== null) rmSync(folder, { recursive: true, force: true });
  };
}

export interface BerthOptions {
  /** What `berth.yaml` holds. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Absent: the usual one, or all that `BERTH_BENCH_ENGINE` names. */
  readonly engine?: string | undefined;
  readonly journal?: string;
  readonly env?: Readonly<Record<string, string>>;
}

export async function startBerth({
  config,
  engine = process.env['BERTH_BENCH_ENGINE'],
  journal,
  env = {},
}: BerthOptions): Promise<Server> {
  const folder = mkdtempSync(join(tmpdir(), 'berth-bench-'));
  const file = join(folder, 'berth.yaml');
  const [port, adminPort] = (await freePorts(2)) as [number, number];
  writeFileSync(file, stringify({ log: { level: 'warn' }, ...config, http: { port, adminPort } }));
  const args = ['src/cli/main.ts', 'serve', '--config', file];
  if (engine !== undefined) args.push('--engine', engine);
  if (journal !== undefined) args.push('--journal', journal);
  const child = spawn(process.execPath, args, {
    cwd: ROOT,
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, BERTH_HOME: folder, ...env },
  });
  const url = `http://127.0.0.1:${port}`;
  const stop = stopper(child, folder);
  try {
    await healthy(url, '/readyz', child, 60_000);
  } catch (error) {
    await stop();
    throw error;
  }
  return { name: 'berth', url, adminUrl: `http://127.0.0.1:${adminPort}`, pid: child.pid ?? 0, stop };
}

interface PeerOptions {
  readonly binary: string;
  readonly threads: number;
  /** Of all sequences together. */
  readonly contextTokens: number;
  readonly parallel: number;
  readonly extra?: readonly string[];
}

async function startPeer(options: PeerOptions, own: Readonly<Record<string, string | number>>): Promise<Server> {
  const { binary, threads, contextTokens, parallel, extra = [] } = options;
  const port = await freePort();
  const all = { ...own, host: '127.0.0.1', port, threads, 'ctx-size': contextTokens, parallel };
  const args = [...Object.entries(all).flatMap(([name, value]) => [`--${name}`, `${value}`]), '--no-webui', ...extra];
  const child = spawn(binary, args, { stdio: ['ignore', 'ignore', 'ignore'] });
  const url = `http://127.0.0.1:${port}`;
  const stop = stopper(child, null);
  try {
    await healthy(url, '/health', child, 60_000);
  } catch (error) {
    await stop();
    throw error;
  }
  return { name: `llama-server -t ${threads}`, url, adminUrl: null, pid: child.pid ?? 0, stop };
}

/** llama-server that starts a process for each model of a folder. */
export const startRouter = ({
  modelsDir,
  modelsMax,
  ...options
}: PeerOptions & { readonly modelsDir: string; readonly modelsMax: number }): Promise<Server> =>
  startPeer(options, { 'models-dir': modelsDir, 'models-max': modelsMax });

/** llama-server with one model, loaded when this resolves. */
export const startLlamaServer = ({
  modelPath,
  ...options
}: PeerOptions & { readonly modelPath: string }): Promise<Server> => startPeer(options, { model: modelPath });

/** A folder of so many models, copies of the given files as separate files, so that no two share pages. */
export function copyModels(
  folder: string,
  count: number,
  sources: readonly string[],
  copy: (from: string, to: string) => void,
): string[] {
  mkdirSync(folder, { recursive: true });
  return Array.from({ length: count }, (_, index) => {
    const name = `m${`${index + 1}`.padStart(2, '0')}`;
    copy(sources[index % sources.length] as string, join(folder, `${name}.gguf`));
    return name;
  });
}
