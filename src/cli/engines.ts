/** The engines of a node, each made when the first model needs it: a node of fake models starts no process. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { BerthConfig, EngineName, ModelConfig } from '../config.ts';
import { isFile } from '../config.ts';
import { berthHome, readMachine } from '../config/machine.ts';
import type { DeviceConfig } from '../config/devices.ts';
import { gpuBytesOf } from '../config/nvidia.ts';
import type { RemoteConfig } from '../config/remote.ts';
import type { ModelId } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import type { AdapterFacts } from '../engines/adapters.ts';
import { readAdapter } from '../engines/adapters.ts';
import type { CheckpointFacts } from '../engines/checkpoint.ts';
import { readCheckpoint } from '../engines/checkpoint.ts';
import type { Engine } from '../engines/engine.ts';
import { createFakeEngine } from '../engines/fake.ts';
import { createStarts } from '../engines/http-engine.ts';
import { createLlamaServerEngine } from '../engines/llama-server.ts';
import { createLlamaCppEngine } from '../engines/llamacpp/adapter.ts';
import { createSglangEngine } from '../engines/sglang.ts';
import { membersOf } from '../engines/memory.ts';
import { createRemoteEngine } from '../engines/remote.ts';
import { createTrtllmEngine } from '../engines/trtllm.ts';
import { createVllmEngine } from '../engines/vllm.ts';
import type { Log } from '../runtime/log.ts';

export interface Engines {
  /** Of a model that is computed on this device. Each device has engines of its own: another GPU is another environment. */
  of(name: EngineName, device: DeviceConfig): Engine;
  /** One for each place: each has its own key and connections. */
  remote(config: RemoteConfig): Engine;
}

export function lazyEngines(config: BerthConfig, log: Log): Engines {
  const usual = {
    loadTimeoutMicros: config.limits.loadTimeoutMicros,
    log: (model: ModelId | null, line: string): void => log.debug({ model, line }, 'engine'),
  };
  const compileCacheFolder = join(berthHome(process.env, readMachine()), 'compile-cache');
  const hasGpus = config.devices.some(({ gpu }) => gpu !== undefined);
  // Servers of all devices start one after the other: what their starts share is the machine.
  const starts = createStarts();
  const make = (name: EngineName, { gpu }: DeviceConfig): Engine => {
    // What is computed on the CPU of a node with GPUs must not be seen on one.
    const env = hasGpus ? { ...process.env, CUDA_VISIBLE_DEVICES: gpu?.uuid ?? '' } : process.env;
    // What a server holds of the machine's own memory is not what the models of a GPU share.
    const deviceBytes = gpu && { deviceBytes: (group: number) => gpuBytesOf(membersOf(group)) };
    const server = { ...usual, env, starts, ...deviceBytes };
    switch (name) {
      case 'llamacpp':
        return createLlamaCppEngine({ ...usual, env, compileCacheFolder });
      case 'llama-server':
        return createLlamaServerEngine({ ...usual, env });
      case 'vllm':
        return createVllmEngine({ ...server, platform: gpu === undefined ? 'cpu' : 'gpu' });
      case 'sglang':
        return createSglangEngine(server);
      case 'trtllm':
        return createTrtllmEngine(server);
      case 'fake':
        return createFakeEngine();
      case 'remote':
        // The configuration's reader lets no such model pass.
        throw new BerthError('config_invalid', 'A remote model needs `remote: {url: …}`.');
      default:
        return name satisfies never;
    }
  };
  const made = new Map<string, Engine>();
  const once = (key: string, create: () => Engine): Engine => {
    const engine = made.get(key) ?? create();
    made.set(key, engine);
    return engine;
  };
  return {
    of: (name, device) => once(`${name} ${device.id}`, () => make(name, device)),
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

/** An adapter of a model. `facts` null: its folder can't be read now; its requests then say what is wrong. */
interface ServedAdapter {
  readonly model: ModelConfig;
  readonly path: string;
  readonly facts: AdapterFacts | null;
}

/** A model that is no GGUF file. `facts` null: it is elsewhere, or its folder can't be read now; its load then says what is wrong. */
export interface Served {
  readonly model: ModelConfig;
  readonly facts: CheckpointFacts | null;
  readonly adapters: readonly ServedAdapter[];
}

export function readServed(models: readonly ModelConfig[]): Promise<Served[]> {
  const adaptersOf = (base: ModelConfig): Promise<ServedAdapter[]> =>
    Promise.all(
      models.flatMap((model) => {
        const { adapter } = model;
        if (adapter === null || adapter.base !== (base.id as string)) return [];
        return readAdapter(adapter.path)
          .catch(() => null)
          .then((facts) => ({ model, path: adapter.path, facts }));
      }),
    );
  return Promise.all(
    models
      .filter((model) => model.adapter === null && !isFile(model))
      .map(async (model) => ({
        model,
        facts: model.remote === null ? await readCheckpoint(model.source ?? '').catch(() => null) : null,
        adapters: await adaptersOf(model),
      })),
  );
}
