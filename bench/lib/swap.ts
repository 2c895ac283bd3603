/** llama-swap over llama-server, with as many models at once as the others have. */
import { spawn } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stringify } from 'yaml';
import type { Server } from './servers.ts';
import { freePort, healthy, stopper } from './servers.ts';

export interface SwapOptions {
  readonly binary: string;
  /** The server that it starts for each model. */
  readonly llamaServer: string;
  readonly modelsDir: string;
  readonly names: readonly string[];
  /** Models at once. */
  readonly modelsMax: number;
  readonly threads: number;
  /** Of all sequences of a model together. */
  readonly contextTokens: number;
  readonly parallel: number;
}

/** The first of the ports that it gives to its servers. */
const FIRST_PORT = 15_800;
/** It answers 429 beyond 10 requests a model if nobody says otherwise; the others let them wait. */
const CONCURRENCY_LIMIT = 10_000;

/**
 * It has no “at most so many”, but groups of which each keeps one model: as many groups as there is room for, the models dealt out
 * by popularity, so that the most popular ones are in different groups. (A matrix of any 6 of 24 would have 134,596 sets.)
 */
export function swapConfig({ names, modelsMax, ...options }: SwapOptions): object {
  const command = (name: string): string =>
    [
      `${options.llamaServer} --host 127.0.0.1 --port \${PORT}`,
      `--model ${join(options.modelsDir, name)}.gguf`,
      `--threads ${options.threads} --ctx-size ${options.contextTokens} --parallel ${options.parallel} --no-webui`,
    ].join(' ');
  const groups = Array.from({ length: modelsMax }, (_, group) => [
    `g${group + 1}`,
    { swap: true, exclusive: false, members: names.filter((_name, rank) => rank % modelsMax === group) },
  ]);
  return {
    healthCheckTimeout: 120,
    startPort: FIRST_PORT,
    models: Object.fromEntries(
      names.map((name) => [name, { cmd: command(name), concurrencyLimit: CONCURRENCY_LIMIT }]),
    ),
    groups: Object.fromEntries(groups) as object,
  };
}

export async function startSwap(options: SwapOptions): Promise<Server> {
  const folder = mkdtempSync(join(tmpdir(), 'berth-swap-'));
  const file = join(folder, 'config.yaml');
  writeFileSync(file, stringify(swapConfig(options)));
  const url = `http://127.0.0.1:${await freePort()}`;
  const child = spawn(options.binary, ['--config', file, '--listen', new URL(url).host], { stdio: 'ignore' });
  const stop = stopper(child, folder);
  try {
    await healthy(url, '/health', child, 60_000);
  } catch (error) {
    await stop();
    throw error;
  }
  return { name: `llama-swap -t ${options.threads}`, url, adminUrl: null, pid: child.pid ?? 0, stop };
}
