/** The engines of a node, each made when the first model needs it: a node of fake models starts no process. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { BerthConfig, EngineName, ModelConfig } from '../config.ts';
import { berthHome, readMachine } from '../config/machine.ts';
import { gpuBytesOf } from '../config/nvidia.ts';
import type { RemoteConfig } from '../config/remote.ts';
import type { ModelId } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import type { CheckpointFacts } from '../engines/checkpoint.ts';
import { readCheckpoint } from '../engines/checkpoint.ts';
import type { Engine } from '../engines/engine.ts';
import { createFakeEngine } from '../engines/fake.ts';
import { createLlamaServerEngine } from '../engines/llama-server.ts';
import { createLlamaCppEngine } from '../engines/llamacpp/adapter.ts';
import { createSglangEngine } from '../engines/sglang.ts';
import { membersOf } from '../engines/memory.ts';
import { createRemoteEngine } from '../engines/remote.ts';
import { createTrtllmEngine } from '../engines/trtllm.ts';
import { createVllmEngine } from '../engines/vllm.ts';
import type { Log } from '../runtime/log.ts';

export interface Engines {
  /** Of a model that is computed here. */
  of(name: EngineName): Engine;
  /** One for each place: each has its own key and connections. */
  remote(config: RemoteConfig): Engine;
}

export function lazyEngines(config: BerthConfig, log: Log): Engines {
  const { gpu } = config.device;
  const usual = {
    loadTimeoutMicros: config.limits.loadTimeoutMicros,
    log: (model: ModelId | null, line: string): void => log.debug({ model, line }, 'engine'),
  };
  // What such a server holds of the machine's own memory is not what its models share.
  const onGpu = gpu && {
    env: { ...process.env, CUDA_VISIBLE_DEVICES: gpu.uuid },
    deviceBytes: (group: number) => gpuBytesOf(membersOf(group)),
  };
  const makers: Readonly<Record<EngineName, () => Engine>> = {
    llamacpp: () =>
      createLlamaCppEngine({
        ...usual,
        compileCacheFolder: join(berthHome(process.env, readMachine()), 'compile-cache'),
      }),
    'llama-server': () => createLlamaServerEngine(usual),
    vllm: () => createVllmEngine({ ...usual, ...onGpu, platform: gpu === undefined ? 'cpu' : 'gpu' }),
    sglang: () => createSglangEngine({ ...usual, ...onGpu }),
    trtllm: () => createTrtllmEngine({ ...usual, ...onGpu }),
    fake: () => createFakeEngine(),
    // The configuration's reader lets no such model pass.
    remote: () => {
      throw new BerthError('config_invalid', 'A remote model needs `remote: {url: …}`.');
    },
  };
  const made = new Map<string, Engine>();
  const once = (key: string, make: () => Engine): Engine => {
    const engine = made.get(key) ?? make();
    made.set(key, engine);
    return engine;
  };
  return {
    of: (name) => once(name, makers[name]),
    remote: (remote) =>
      once(JSON.stringify(remote), () =>
        createRemoteEngine({
          url: remote.url,
          model: remote.model,
          key: () => keyOf(remote),
          ...(remote.timeout === null ? {} : { timeoutMicros: remote.timeout }),
        }),
      ),
  };
}

/** Read for each request, so that a key can be changed without a restart. It is never shown. */
async function keyOf({ keyEnv, keyFile }: RemoteConfig): Promise<string | null> {
  if (keyEnv === null && keyFile === null) return null;
  const text = keyFile === null ? process.env[keyEnv ?? ''] : await readFile(keyFile, 'utf8').catch(() => undefined);
  const key = text?.trim() ?? '';
  if (key !== '') return key;
  throw new BerthError('engine_error', `The key of a remote model is not there: see ${keyFile ?? `$${keyEnv}`}.`);
}

/** A model that is no GGUF file. `facts` null: it is elsewhere, or its folder can't be read now; its load then says what is wrong. */
export interface Served {
  readonly model: ModelConfig;
  readonly facts: CheckpointFacts | null;
}

export const readServed = (models: readonly ModelConfig[]): Promise<Served[]> =>
  Promise.all(
    models.map(async (model) => ({
      model,
      facts: model.remote === null ? await readCheckpoint(model.source ?? '').catch(() => null) : null,
    })),
  );
