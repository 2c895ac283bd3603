/** Joins all parts into a running node. Nothing is decided here. */
import { cpus } from 'node:os';
import type { BerthConfig, ModelConfig, Slo } from '../config.ts';
import { catalogueEntries, defaultModel, isFile, isPullSource, launchTokens } from '../config.ts';
import { watchConfig } from '../config/watch.ts';
import { DEFAULT_TENANT, MIB, MILLI, SECOND, modelId } from '../core/ids.ts';
import type { Micros } from '../core/ids.ts';
import { asBerthError } from '../errors.ts';
import type { Engine } from '../engines/engine.ts';
import { listenGateway } from '../gateway/listen.ts';
import type { GuardOptions } from '../gateway/options.ts';
import type { Catalogue, CatalogueModel } from '../models/catalogue.ts';
import { createCatalogue } from '../models/catalogue.ts';
import type { OnProgress } from '../models/progress.ts';
import { pull } from '../models/pull.ts';
import { createClock } from '../runtime/clock.ts';
import type { HostedSpec } from '../runtime/hosted.ts';
import { openJournal } from '../runtime/journal.ts';
import type { Log } from '../runtime/log.ts';
import { createLog } from '../runtime/log.ts';
import type { KvTiers } from '../runtime/kv-desk.ts';
import { BerthNode } from '../runtime/node.ts';
import type { NodeConfiguration } from '../runtime/node.ts';
import type { RunningNode, StartOptions } from '../runtime/start-types.ts';
import type { Engines, Served } from './engines.ts';
import { lazyEngines, readServed } from './engines.ts';
import { openTenancy } from './tenancy.ts';
import type { Tenancy } from './tenancy.ts';
import { version } from './version.ts';

/** What `slo` promises: first token within, and between two tokens. They order work and bound turns. */
const GOALS: Readonly<Record<Slo, { readonly ttftGoalMicros: Micros; readonly interTokenGoalMicros: Micros }>> = {
  latency: { ttftGoalMicros: 500 * MILLI, interTokenGoalMicros: 50 * MILLI },
  balanced: { ttftGoalMicros: 2 * SECOND, interTokenGoalMicros: 200 * MILLI },
  throughput: { ttftGoalMicros: 10 * SECOND, interTokenGoalMicros: SECOND },
};

/** The models folder is looked at so often, for files that came or went. */
const REFRESH_MILLIS = 5_000;
/** What runs may finish for so long when the node is stopped. */
const GRACE_MICROS = 10 * SECOND;

export async function startNode(options: StartOptions): Promise<RunningNode> {
  const log = createLog(options.logLevel);
  const clock = createClock();
  const journal =
    options.journalPath === null
      ? null
      : openJournal(options.journalPath, (error) =>
          log.error({ reason: error.message }, 'the journal can’t be written'),
        );
  const node = new BerthNode({
    clock,
    log,
    journal,
    kv: kvTiers(options.config),
    version,
    operatorDeadlineMicros: options.config.limits.loadTimeoutMicros,
  });
  const tenancy = openTenancy(options.config, node, log, () => void apply().catch(() => {}));
  const engines = lazyEngines(options.config, log);
  let config = options.config;
  const catalogue = createCatalogue({ modelsDir: config.modelsDir, models: catalogueEntries(config) });
  await catalogue.refresh();
  const apply = async (): Promise<void> => {
    const served = await readServed(config.models.filter((model) => !isFile(model)));
    await node.configure(configurationOf(config, catalogue, served, engines, options, tenancy));
  };
  await apply();

  const listening = await listenGateway({
    node,
    host: options.host,
    port: options.port,
    adminHost: options.adminHost,
    adminPort: options.adminPort,
    allowUnauthenticated: options.allowUnauthenticated,
    gateway: {
      ...guards(config),
      auth: tenancy.auth,
      keyed: tenancy.keyed(),
      gate: tenancy.gate,
      batches: tenancy.batches,
      limits: { bodyBytes: config.limits.bodyBytes },
      log,
    },
    admin: {
      ...guards(config),
      ...(config.http.adminKey === null ? {} : { adminKey: config.http.adminKey }),
      log,
      tenancy: tenancy.admin,
      metrics: tenancy.metrics,
      pull: async (source, name, onProgress, signal) => {
        const { id } = await pullModel(config, source, name, onProgress, signal);
        await catalogue.refresh();
        await apply();
        return { id };
      },
      remove: async (id) => {
        await node.stop(id, DEFAULT_TENANT, { force: true });
        await catalogue.remove(id);
        await apply();
      },
    },
  }).catch(async (error: unknown) => {
    await node.close(0);
    tenancy.close();
    throw error;
  });

  const watch =
    options.configPath === null
      ? null
      : await watchConfig(
          options.configPath,
          ({ config: changed, warnings }) => {
            config = changed;
            tenancy.declare(changed);
            for (const warning of warnings) log.warn(warning);
            catalogue
              .configure(catalogueEntries(config))
              .then(apply)
              .then(() => log.info('the changed configuration is in force'))
              .catch((error: unknown) => refuse(asBerthError(error).message));
          },
          (error) => refuse(error.message),
          { flags: options.flags },
        );
  const refuse = (message: string): void => {
    node.configRefused(message);
    log.error({ reason: message }, 'the changed configuration is refused, the old one stays in force');
  };
  const refresh = setInterval(() => {
    catalogue.refresh().then(
      async ({ added, removed, changed }) => (added.length + removed.length + changed.length > 0 ? apply() : undefined),
      (error: unknown) => log.warn({ reason: asBerthError(error).message }, 'the models folder can’t be read'),
    );
  }, REFRESH_MILLIS).unref();
  const pulls = new AbortController();
  pullMissing(config, catalogue, log, apply, pulls.signal);

  let stopping: Promise<void> | null = null;
  const stop = async (): Promise<void> => {
    clearInterval(refresh);
    pulls.abort();
    await watch?.close();
    await Promise.all([node.close(GRACE_MICROS), listening.close(GRACE_MICROS / MILLI)]);
    tenancy.close();
  };
  return {
    address: listening.url,
    adminAddress: listening.adminUrl,
    node,
    keyed: tenancy.keyed(),
    stop: () => (stopping ??= stop()),
  };
}

/** An empty list is left out: the listener then has its own rule, by where it listens. */
const guards = ({ http }: BerthConfig): GuardOptions => ({
  ...(http.allowedHosts.length === 0 ? {} : { allowedHosts: http.allowedHosts }),
  ...(http.origins.length === 0 ? {} : { allowedOrigins: http.origins }),
});

function kvTiers({ kv }: BerthConfig): KvTiers | null {
  const host =
    kv.hostFolder === null || kv.hostBytes === 0 ? null : { folder: kv.hostFolder, budgetBytes: kv.hostBytes };
  const disk = kv.diskBytes === 0 ? null : { folder: kv.diskFolder, budgetBytes: kv.diskBytes };
  return host === null && disk === null ? null : { host, disk, minimumTokens: kv.minimumTokens };
}

const pullModel = (
  config: BerthConfig,
  source: string,
  name: string | undefined,
  onProgress: OnProgress,
  signal: AbortSignal,
): ReturnType<typeof pull> =>
  pull(source, {
    modelsDir: config.modelsDir,
    ...(name === undefined ? {} : { name }),
    onProgress,
    signal,
    ...(config.pull.hubUrl === null ? {} : { hubUrl: config.pull.hubUrl }),
    ...(config.pull.hubToken === null ? {} : { token: config.pull.hubToken }),
  });

/** Models that berth.yaml names by a pull source and that are not there yet are fetched, one after the other. */
function pullMissing(
  config: BerthConfig,
  catalogue: Catalogue,
  log: Log,
  apply: () => Promise<void>,
  signal: AbortSignal,
): void {
  const missing = config.models.filter(
    (model) =>
      isFile(model) &&
      model.source !== null &&
      isPullSource(model.source) &&
      catalogue.find(model.id).fingerprint === null,
  );
  const next = async (): Promise<void> => {
    for (const { id, source } of missing) {
      if (signal.aborted) return;
      log.info({ model: id, source }, 'pulling');
      await pullModel(config, source ?? '', id, () => {}, signal);
      await catalogue.refresh();
      await apply();
    }
  };
  next().catch((error: unknown) => log.error({ reason: asBerthError(error).message }, 'a model could not be pulled'));
}

function configurationOf(
  config: BerthConfig,
  catalogue: Catalogue,
  served: readonly Served[],
  engines: Engines,
  options: StartOptions,
  tenancy: Tenancy,
): NodeConfiguration {
  const configured = new Map(config.models.map((model) => [model.id as string, model]));
  const found = catalogue.list();
  const fakeOnly = options.engine === 'fake' && found.length + served.length === 0;
  const demos = fakeOnly ? ['fake-small', 'fake-large'] : [];
  const models = [
    ...demos.map((id) => demoSpec(id, config, engines.of('fake'))),
    ...found
      .filter(isServable)
      .map((model) =>
        specOf(model, configured.get(model.id) ?? defaultModel(config, model.id, null), config, engines, options),
      ),
    ...served.map((model) => servedSpec(model, config, engines)),
  ];
  const { memoryBytes, lanes } = config.device;
  return {
    device: {
      memoryBytes,
      lanes,
      overheadBytes: models.reduce((most, { engine }) => Math.max(most, engine.overheadBytes), 0),
    },
    deviceName: config.device.gpu?.name ?? cpus()[0]?.model ?? 'CPU',
    limits: {
      queuePerModel: config.limits.queueRequests,
      requests: 20 * config.limits.queueRequests,
      queueTimeoutMicros: config.limits.queueTimeoutMicros,
    },
    residency: { ...config.residency, drainMicros: 2 * SECOND },
    tenants: tenancy.specs(),
    models,
  };
}

/** Adapters and projectors lie in the same folders as models, but nobody can talk to them. */
const isServable = ({ facts }: CatalogueModel): boolean => facts === null || facts.type === 'model';

function specOf(
  found: CatalogueModel,
  model: ModelConfig,
  config: BerthConfig,
  engines: Engines,
  options: StartOptions,
): HostedSpec {
  const { facts } = found;
  const engine = engines.of(model.engine ?? options.engine ?? 'llamacpp');
  const tokens = launchTokens(model, config.defaults, facts?.trainedContextTokens ?? null);
  return {
    id: found.id,
    aliases: found.aliases,
    engine,
    launch: {
      modelId: found.id,
      path: found.path,
      ...tokens,
      parallel: model.parallel,
      batchTokens: model.batchTokens,
      memoryLimitBytes: config.device.memoryBytes,
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
function servedSpec({ model, facts }: Served, config: BerthConfig, engines: Engines): HostedSpec {
  const { remote } = model;
  const tokens = launchTokens(model, config.defaults, facts?.trainedContextTokens ?? null);
  const args = remote === null ? model.args : [remote.model ?? '', remote.keyEnv ?? '', remote.keyFile ?? ''];
  return {
    id: model.id,
    aliases: model.aliases,
    engine: remote === null ? engines.of(model.engine ?? 'vllm') : engines.remote(remote),
    launch: {
      modelId: model.id,
      path: remote === null ? (model.source ?? '') : remote.url,
      ...tokens,
      parallel: model.parallel,
      batchTokens: model.batchTokens,
      // A GPU's budget says nothing of the machine's memory.
      memoryLimitBytes: remote === null && config.device.gpu === undefined ? config.device.memoryBytes : 0,
      args,
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
  };
}

/** For `berth serve --engine fake` in an empty folder: something to talk to. */
function demoSpec(id: string, config: BerthConfig, engine: Engine): HostedSpec {
  const { contextTokens, parallel, batchTokens, slo } = config.defaults;
  return {
    id: modelId(id),
    aliases: [],
    engine,
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
