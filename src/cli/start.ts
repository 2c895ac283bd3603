/** Joins all parts into a running node. Nothing is decided here. */
import type { BerthConfig } from '../config.ts';
import { catalogueEntries, isFile, isPullSource } from '../config.ts';
import { watchConfig } from '../config/watch.ts';
import { DEFAULT_TENANT, MILLI, SECOND } from '../core/ids.ts';
import { asBerthError, BerthError } from '../errors.ts';
import { listenGateway } from '../gateway/listen.ts';
import type { GuardOptions } from '../gateway/options.ts';
import type { Catalogue } from '../models/catalogue.ts';
import { createCatalogue } from '../models/catalogue.ts';
import type { OnProgress } from '../models/progress.ts';
import { pull } from '../models/pull.ts';
import { createClock } from '../runtime/clock.ts';
import { openJournal } from '../runtime/journal.ts';
import type { Log } from '../runtime/log.ts';
import { createLog } from '../runtime/log.ts';
import type { KvTiers } from '../runtime/kv-desk.ts';
import { BerthNode } from '../runtime/node.ts';
import type { RunningNode, StartOptions } from '../runtime/start-types.ts';
import { lazyEngines, readServed } from './engines.ts';
import { configurationOf } from './hosting.ts';
import { openTenancy } from './tenancy.ts';
import { version } from './version.ts';

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
    const served = await readServed(config.models);
    const found = catalogue.list();
    await node.configure(
      configurationOf({ config, found, served, engines, usualEngine: options.engine, tenants: tenancy.specs() }),
    );
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
        if (node.model(id, DEFAULT_TENANT).parent !== undefined)
          throw new BerthError('forbidden', `${id} is an adapter: take it out of berth.yaml.`);
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
            if (devicesOf(changed) !== devicesOf(config)) return refuse(OTHER_DEVICES);
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
          { flags: options.flags, engine: options.engine },
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

const OTHER_DEVICES = 'devices: other ones than the node has are taken with its next start only';

/** Which they are, apart from what they may use. */
const devicesOf = ({ devices }: BerthConfig): string => devices.map(({ id, gpu }) => `${id} ${gpu?.uuid}`).join();

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
