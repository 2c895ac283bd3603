/** How a runner is started, for the adapter: small heaps, since weights, KV cache and buffers live outside of V8's. */

/** Arguments of node for the runner's process: `spawn(node, [...RUNNER_NODE_ARGS, RUNNER_SCRIPT], { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] })`. */
export const RUNNER_NODE_ARGS: readonly string[] = [
  '--max-old-space-size=128',
  '--max-semi-space-size=2',
  '--v8-pool-size=1',
  '--no-warnings',
];

/**
 * One heap for the runner's two threads, with glibc: what one has freed the other can use, and a sleeping runner holds less
 * (measured: 42 instead of 46 MB with SmolLM2).
 */
export const MALLOC_TUNABLES: Readonly<Record<string, string>> = { GLIBC_TUNABLES: 'glibc.malloc.arena_max=1' };

/**
 * A runner's environment with node's compile cache, which keeps the stripped TypeScript: half the start time, and 30 MB less
 * private memory a runner, since the type stripper is never loaded (measured: 26 instead of 55 MB, 100 instead of 200 ms). The
 * folder holds code that will be run: it must be writable by this user only.
 */
export const withCompileCache = <Environment extends NodeJS.ProcessEnv>(
  environment: Environment,
  folder: string,
): Environment & { NODE_COMPILE_CACHE: string } => ({
  ...environment,
  NODE_COMPILE_CACHE: folder,
});

export const RUNNER_SCRIPT = new URL('./runner.ts', import.meta.url);

/** The worker's heap, in MiB. A long prompt's tokens and a grammar's text are the largest things in it. */
export const WORKER_LIMITS = { maxOldGenerationSizeMb: 128, maxYoungGenerationSizeMb: 4 } as const;
