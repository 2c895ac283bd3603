/** How `vllm serve` is started: its command line and its environment (the documentation of vLLM 0.32; docs/engines.md). */
import { existsSync, readdirSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Bytes } from '../core/ids.ts';
import { MIB } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import type { CheckpointFacts } from './checkpoint.ts';
import type { ModelLaunch } from './engine.ts';
import type { ServerCommand, ServerPlace } from './http-dialect.ts';
import type { Environment, Program } from './programs.ts';
import { childEnvironment, findProgram, hasOption, ownArgs } from './programs.ts';

export type Platform = 'cpu' | 'gpu';

export const VLLM: Program = {
  name: 'vllm',
  variable: 'BERTH_VLLM',
  advice:
    'Install it into a virtual environment and name its program with BERTH_VLLM (docs/engines.md says how), or use `engine: llamacpp`, which needs nothing.',
};

/** Berth's to make: where it listens, who may ask, what is computed at once, and whose cache is whose. */
const OUR_ARGS =
  /^(--host|--port|--uds|--api-key|--served-model-name|--model|--ssl-.*|--root-path|--middleware|--max-model-len|--max-num-seqs|--scheduling-policy|--scheduler-cls|--enable-sleep-mode|--enable-log-requests|--enable-log-outputs|--enable-lora|--lora-modules|--max-lora-rank|--api-server-count|--headless|--config)(=|$)/;
const VLLM_ENV = /^(VLLM_\w+|TORCH\w*|HF_HOME|HF_HUB_CACHE|XDG_CACHE_HOME|MKL_\w+|KVCACHED_\w+|ENABLE_KVCACHED)$/;
const OUR_ENV =
  /^(VLLM_API_KEY|VLLM_HOST_IP|VLLM_RPC_BASE_PATH|VLLM_SERVER_DEV_MODE|VLLM_DEBUG_LOG_API_SERVER_RESPONSE|VLLM_ALLOW_RUNTIME_LORA_UPDATING)$/;

/** A frozen step is no hung step: the server's own watchdog must not end it. A day and more. */
const WATCHDOG_SECONDS = 100_000;
/** What `--max-lora-rank` may be. */
const LORA_RANKS = [1, 8, 16, 32, 64, 128, 256, 320, 512];
/** Adapters that one step may compute at once; each has room on the device. */
const LORAS_AT_ONCE = 4;
/** Tokens of a block of KV, by what it runs on. */
const BLOCK_TOKENS: Readonly<Record<Platform, number>> = { cpu: 128, gpu: 16 };

/** Keys and values of `kvTokens` in whole blocks, and the block that stands for nothing. null: the model does not say. */
export function kvBytes(facts: CheckpointFacts, launch: ModelLaunch, platform: Platform): Bytes | null {
  if (facts.kvBytesPerToken === null) return null;
  const block = BLOCK_TOKENS[platform];
  return (Math.ceil(launch.kvTokens / block) + 1) * block * facts.kvBytesPerToken;
}

/** Throws `model_load_failed` for arguments that Berth makes, `engine_mismatch` where there is no program. */
export function vllmCommand(
  launch: ModelLaunch,
  facts: CheckpointFacts,
  place: ServerPlace,
  env: Environment,
  platform: Platform,
): ServerCommand {
  const own = ownArgs(launch, OUR_ARGS);
  const command = findProgram(VLLM, env);
  const listens =
    place.socketPath === null ? ['--host', '127.0.0.1', '--port', String(place.port)] : ['--uds', place.socketPath];
  const bytes = kvBytes(facts, launch, platform);
  const saysKv = [
    '--kv-cache-memory-bytes',
    '--kv-cache-memory',
    '--gpu-memory-utilization',
    '--num-gpu-blocks-override',
  ].some((name) => hasOption(own, name));
  // Without a size it takes 0.92 of the memory, and fails where that is not free.
  if (bytes === null && !saysKv) {
    throw new BerthError(
      'model_load_failed',
      'The model’s config.json does not say how large its KV cache is: add `args: [--kv-cache-memory-bytes, 2G]` to its entry.',
    );
  }
  const args = [
    'serve',
    launch.path,
    '--served-model-name',
    launch.modelId,
    ...listens,
    '--max-model-len',
    String(launch.contextTokens),
    '--max-num-seqs',
    String(launch.parallel),
    // A model that embeds reads each text at once.
    ...(facts.generates && !hasOption(own, '--max-num-batched-tokens')
      ? ['--max-num-batched-tokens', String(Math.max(launch.batchTokens, launch.parallel))]
      : []),
    ...(bytes === null || saysKv ? [] : ['--kv-cache-memory-bytes', String(bytes)]),
    '--scheduling-policy',
    'priority',
    '--generation-config',
    'vllm',
    '--enable-prompt-tokens-details',
    '--disable-uvicorn-access-log',
    // Compiling takes minutes of a CPU, and is not kept.
    ...(platform === 'cpu' ? ['--enforce-eager'] : ['--enable-sleep-mode']),
    ...loraArgs(launch.adapterRank, own),
    ...own,
  ];
  return { command, args, env: vllmEnvironment(command, place, env, platform, launch.adapterRank !== undefined) };
}

/** Which adapters there are is said when they are asked for: a new one needs no other start, as long as its rank fits. */
function loraArgs(rank: number | undefined, own: readonly string[]): string[] {
  if (rank === undefined) return [];
  const most = LORA_RANKS.find((allowed) => allowed >= rank) ?? Math.max(...LORA_RANKS);
  const atOnce = hasOption(own, '--max-loras') ? [] : ['--max-loras', String(LORAS_AT_ONCE)];
  return ['--enable-lora', '--max-lora-rank', String(most), ...atOnce];
}

function vllmEnvironment(
  command: string,
  { folder, apiKey }: ServerPlace,
  env: Environment,
  platform: Platform,
  hasAdapters: boolean,
): Record<string, string> {
  const passed = childEnvironment(env, VLLM_ENV, OUR_ENV);
  const preload = platform === 'cpu' ? preloadable(command) : [];
  return {
    VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS: String(WATCHDOG_SECONDS),
    // One thread that no core is reserved for: the number can't be changed later, and it may be granted one lane only.
    // Nothing is compiled on the way either: the first log-probabilities would wait for a C++ compiler, a quarter of a minute.
    ...(platform === 'cpu'
      ? { VLLM_CPU_OMP_THREADS_BIND: 'nobind', OMP_NUM_THREADS: '1', TORCHDYNAMO_DISABLE: '1' }
      : {}),
    ...(preload.length === 0 ? {} : { LD_PRELOAD: preload.join(':') }),
    ...passed,
    VLLM_API_KEY: apiKey,
    // Its processes' own sockets, beside the one that it listens on.
    VLLM_RPC_BASE_PATH: folder,
    // `/sleep` is among the endpoints for development; who can reach the socket is this user.
    ...(platform === 'gpu' ? { VLLM_SERVER_DEV_MODE: '1' } : {}),
    ...(hasAdapters ? { VLLM_ALLOW_RUNTIME_LORA_UPDATING: 'True' } : {}),
    VLLM_NO_USAGE_STATS: '1',
    DO_NOT_TRACK: '1',
    HF_HUB_OFFLINE: '1',
    TRANSFORMERS_OFFLINE: '1',
    NO_COLOR: '1',
    VLLM_LOGGING_COLOR: '0',
  };
}

/** The allocator and the OpenMP that vLLM's documentation asks to preload on a CPU, as far as they are there. */
export function preloadable(command: string): string[] {
  const found: string[] = [];
  for (const folder of ['/usr/lib', '/usr/lib/x86_64-linux-gnu', '/usr/lib/aarch64-linux-gnu', '/usr/lib64']) {
    const name = list(folder).find((file) => /^libtcmalloc_minimal\.so\.\d+$/.test(file));
    if (name === undefined) continue;
    found.push(join(folder, name));
    break;
  }
  const openMp = join(dirname(dirname(realOf(command))), 'lib', 'libiomp5.so');
  if (existsSync(openMp)) found.push(openMp);
  // The loader splits the list at both.
  return found.filter((path) => !/[:\s]/.test(path));
}

const list = (folder: string): string[] => {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
};
const realOf = (path: string): string => {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
};

/** Bytes of its processes without weights and KV: interpreters, libraries' data, buffers (measured on a CPU, docs/engines.md). */
export const SERVER_BYTES: Readonly<Record<Platform, Bytes>> = { cpu: 2_000 * MIB, gpu: 1_536 * MIB };
