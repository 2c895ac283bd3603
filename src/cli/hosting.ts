/** The models of a node as its devices are to host them: what berth.yaml says, what the files say, and the engines. */
import { cpus } from 'node:os';
import type { BerthConfig, EngineName, ModelConfig, Slo } from '../config.ts';
import { defaultModel, launchTokens } from '../config.ts';
import type { DeviceConfig } from '../config/devices.ts';
import { GPU_ENGINES } from '../config/options.ts';
import type { TenantSpec } from '../core/events.ts';
import { MIB, MILLI, SECOND, modelId } from '../core/ids.ts';
import type { Micros, ModelId } from '../core/ids.ts';
import type { CatalogueModel } from '../models/catalogue.ts';
import type { DeviceConfiguration } from '../runtime/device.ts';
import type { AdapterSpec, HostedSpec } from '../runtime/hosted.ts';
import type { NodeConfiguration } from '../runtime/node.ts';
import type { Engines, Served } from './engines.ts';

/** What `slo` promises: first token within, and between two tokens. They order work and bound turns. */
const GOALS: Readonly<Record<Slo, { readonly ttftGoalMicros: Micros; readonly interTokenGoalMicros: Micros }>> = {
  latency: { ttftGoalMicros: 500 * MILLI, interTokenGoalMicros: 50 * MILLI },
  balanced: { ttftGoalMicros: 2 * SECOND, interTokenGoalMicros: 200 * MILLI },
  throughput: { ttftGoalMicros: 10 * SECOND, interTokenGoalMicros: SECOND },
};

export interface Hosting {
  readonly config: BerthConfig;
  /** The models that are files. */
  readonly found: readonly CatalogueModel[];
  /** Those that are not. */
  readonly served: readonly Served[];
  readonly engines: Engines;
  /** Of models that name none; null: llamacpp. */
  readonly usualEngine: EngineName | null;
  readonly tenants: readonly TenantSpec[];
}

/** A model, and what it is on a device; null: it can't be there. */
interface Candidate {
  readonly id: ModelId;
  on(device: DeviceConfig): HostedSpec | null;
}

export function configurationOf(hosting: Hosting): NodeConfiguration {
  const { config, tenants } = hosting;
  const candidates = candidatesOf(hosting);
  return {
    devices: config.devices.map((device): DeviceConfiguration => {
      const models = candidates.flatMap((candidate) => candidate.on(device) ?? []);
      return {
        id: device.id,
        name: device.gpu?.name ?? cpus()[0]?.model ?? 'CPU',
        device: {
          memoryBytes: device.memoryBytes,
          lanes: device.lanes,
          overheadBytes: models.reduce((most, { engine }) => Math.max(most, engine.overheadBytes), 0),
        },
        models,
      };
    }),
    order: candidates.map(({ id }) => id),
    limits: {
      queuePerModel: config.limits.queueRequests,
      requests: 20 * config.limits.queueRequests,
      queueTimeoutMicros: config.limits.queueTimeoutMicros,
    },
    residency: { ...config.residency, drainMicros: 2 * SECOND },
    tenants,
  };
}

function candidatesOf({ config, found, served, engines, usualEngine }: Hosting): Candidate[] {
  const configured = new Map(config.models.map((model) => [model.id as string, model]));
  const fakeOnly = usualEngine === 'fake' && found.length + served.length === 0;
  const demos = fakeOnly ? ['fake-small', 'fake-large'] : [];
  // One that takes no files is the engine of folders only.
  const engineOfFiles = usualEngine === null || GPU_ENGINES.has(usualEngine) ? 'llamacpp' : usualEngine;
  return [
    ...demos.map((id) => ({ id: modelId(id), on: (device: DeviceConfig) => demoSpec(id, config, device, engines) })),
    ...found.filter(isServable).map((file): Candidate => {
      const model = configured.get(file.id) ?? defaultModel(config, file.id, null);
      const engine = model.engine ?? engineOfFiles;
      const on = (device: DeviceConfig): HostedSpec | null =>
        mayBeOn(model, engine, device, config.devices) ? specOf(file, model, engine, config, device, engines) : null;
      return { id: file.id, on };
    }),
    ...served.map((one): Candidate => {
      const { model } = one;
      const engine = model.engine ?? 'vllm';
      const on = (device: DeviceConfig): HostedSpec | null =>
        mayBeOn(model, engine, device, config.devices) ? servedSpec(one, engine, config, device, engines) : null;
      return { id: model.id, on };
    }),
  ];
}

/**
 * May the model be computed on this device? On the one that it names. Else: where there are GPUs and parts of the CPU, engines that compute
 * on a GPU have the GPUs, and all others the CPU; what is computed elsewhere is listed by the first device.
 */
export function mayBeOn(
  model: Pick<ModelConfig, 'device' | 'remote'>,
  engine: EngineName,
  device: DeviceConfig,
  all: readonly DeviceConfig[],
): boolean {
  if (model.remote !== null) return device === all[0];
  if (model.device !== null) return device.id === model.device;
  const fit = all.filter(({ gpu }) => (gpu !== undefined) === GPU_ENGINES.has(engine));
  return fit.length === 0 || fit.includes(device);
}

/** Adapters and projectors lie in the same folders as models, but nobody can talk to them. */
const isServable = ({ facts }: CatalogueModel): boolean => facts === null || facts.type === 'model';

function specOf(
  found: CatalogueModel,
  model: ModelConfig,
  engine: EngineName,
  config: BerthConfig,
  device: DeviceConfig,
  engines: Engines,
): HostedSpec {
  const { facts } = found;
  const tokens = launchTokens(model, config.defaults, facts?.trainedContextTokens ?? null);
  return {
    id: found.id,
    aliases: found.aliases,
    engine: engines.of(engine, device),
    launch: {
      modelId: found.id,
      path: found.path,
      ...tokens,
      parallel: model.parallel,
      batchTokens: model.batchTokens,
      memoryLimitBytes: device.memoryBytes,
    },
    pinned: model.pinned,
    keepAliveMicros: model.keepAliveMicros,
    embedWindowMicros: model.embedWindowMicros,
    ...GOALS[model.slo],
    source: found.source,
    createdSeconds: found.modifiedSeconds,
    fileBytes: found.fileBytes,
    digest: found.sha256 ?? found.fingerprint,
    details: {
      format: 'gguf',
      architecture: facts?.architecture ?? null,
      parameters: facts?.parameters ?? null,
      quantization: facts?.quantization ?? null,
      trainedContextTokens: facts?.trainedContextTokens ?? null,
      chatTemplate: facts?.chatTemplate ?? false,
    },
    fingerprint: found.fingerprint ?? '',
  };
}

/** A model that is no GGUF file: a folder, or one that is computed elsewhere. */
function servedSpec(
  { model, facts, adapters }: Served,
  engine: EngineName,
  config: BerthConfig,
  device: DeviceConfig,
  engines: Engines,
): HostedSpec {
  const { remote } = model;
  const tokens = launchTokens(model, config.defaults, facts?.trainedContextTokens ?? null);
  const args = remote === null ? model.args : [remote.model ?? '', remote.keyEnv ?? '', remote.keyFile ?? ''];
  return {
    id: model.id,
    aliases: model.aliases,
    engine: remote === null ? engines.of(engine, device) : engines.remote(remote),
    launch: {
      modelId: model.id,
      path: remote === null ? (model.source ?? '') : remote.url,
      ...tokens,
      parallel: model.parallel,
      batchTokens: model.batchTokens,
      // A GPU's budget says nothing of the machine's memory.
      memoryLimitBytes: remote === null && device.gpu === undefined ? device.memoryBytes : 0,
      args,
      ...(adapters.length > 0 && { adapterRank: Math.max(...adapters.map(({ facts: seen }) => seen?.rank ?? 1)) }),
    },
    // What holds nothing need never make room.
    pinned: model.pinned || remote !== null,
    keepAliveMicros: model.keepAliveMicros,
    embedWindowMicros: model.embedWindowMicros,
    ...GOALS[model.slo],
    source: remote === null ? (model.source ?? '') : remote.url,
    createdSeconds: facts?.modifiedSeconds ?? 0,
    fileBytes: facts?.weightBytes ?? 0,
    digest: null,
    details: {
      format: remote === null ? 'safetensors' : 'remote',
      architecture: facts?.architecture ?? null,
      parameters: null,
      quantization: null,
      trainedContextTokens: facts?.trainedContextTokens ?? null,
      chatTemplate: facts?.chatTemplate ?? remote !== null,
    },
    fingerprint: facts?.fingerprint ?? '',
    isElsewhere: remote !== null,
    adapters: adapters.map(adapterSpec),
  };
}

const adapterSpec = ({ model: { id, aliases }, path, facts }: Served['adapters'][number]): AdapterSpec => ({
  id,
  aliases,
  adapter: { id, path, fingerprint: facts?.fingerprint ?? '' },
  source: path,
  createdSeconds: facts?.modifiedSeconds ?? 0,
  fileBytes: facts?.bytes ?? 0,
});

/** For `berth serve --engine fake` in an empty folder: something to talk to. */
function demoSpec(id: string, config: BerthConfig, device: DeviceConfig, engines: Engines): HostedSpec {
  const { contextTokens, parallel, batchTokens, slo } = config.defaults;
  return {
    id: modelId(id),
    aliases: [],
    engine: engines.of('fake', device),
    launch: {
      modelId: modelId(id),
      path: id,
      contextTokens,
      kvTokens: 2 * contextTokens,
      parallel,
      batchTokens,
      memoryLimitBytes: 0,
    },
    pinned: false,
    keepAliveMicros: config.residency.keepAliveMicros,
    embedWindowMicros: 3 * MILLI,
    ...GOALS[slo],
    source: 'fake',
    createdSeconds: Math.floor(Date.now() / 1000),
    fileBytes: 100 * MIB,
    digest: null,
    details: {
      format: 'fake',
      architecture: 'fake',
      parameters: null,
      quantization: null,
      trainedContextTokens: null,
      chatTemplate: true,
    },
    fingerprint: '',
  };
}
