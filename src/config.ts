/**
 * The node's configuration: berth.yaml, the environment, flags, and for the rest what the machine offers. Strongest first:
 * flags, `BERTH_…` variables, berth.yaml, neighbours' variables (`OLLAMA_…`, `HF_TOKEN`), defaults.
 */
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { modelId, tenantId } from './core/ids.ts';
import type { Bytes, Micros, ModelId, TenantId } from './core/ids.ts';
import { BerthError } from './errors.ts';
import { berthHome, readMachine } from './config/machine.ts';
import { withBases } from './config/adapters.ts';
import type { AdapterConfig } from './config/adapters.ts';
import { devicesOf, deviceWarnings } from './config/devices.ts';
import type { DeviceConfig } from './config/devices.ts';
import { kvConfig } from './config/kv.ts';
import type { KvConfig } from './config/kv.ts';
import type { Machine } from './config/machine.ts';
import { GPU_ENGINES, OPTIONS } from './config/options.ts';
import type { ENGINES, Option, OptionPath, OptionValues } from './config/options.ts';
import { describe, noSuchDevice, parseConfig } from './config/parse.ts';
import type { ConfigFile, ModelEntry } from './config/parse.ts';
import { tenantFrom, UNLIMITED } from './config/tenants.ts';
import type { OverflowConfig } from './config/overflow.ts';
import type { RemoteConfig } from './config/remote.ts';
import type { LimitsConfig, PriceConfig, TenantConfig } from './config/tenants.ts';

/** Embeddings wait so long for company: long enough to meet those of the same burst, too short to be noticed. */
const EMBED_WINDOW_MICROS = 3_000;

export type Slo = 'latency' | 'balanced' | 'throughput';
export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'silent';
export type EngineName = (typeof ENGINES)[number];

export interface ModelConfig {
  readonly id: ModelId;
  /** An absolute path, a pull source (`pypi:…`, `hf:…`, `https://…`), or null: the file called `id` in the models folder. */
  readonly source: string | null;
  readonly aliases: readonly string[];
  /** null: see `launchTokens`. */
  readonly contextTokens: number | null;
  readonly parallel: number;
  /** null: see `launchTokens`. */
  readonly kvTokens: number | null;
  readonly batchTokens: number;
  readonly pinned: boolean;
  /** -1: for ever. */
  readonly keepAliveMicros: Micros;
  readonly embedWindowMicros: Micros;
  readonly slo: Slo;
  /** null: the node's. */
  readonly engine: EngineName | null;
  /** null: any that its engine computes on. */
  readonly device: string | null;
  readonly args: readonly string[];
  /** Which other model computes it, with which LoRA weights; null: it is a model itself. */
  readonly adapter: AdapterConfig | null;
  /** Where it is computed; null: here. */
  readonly remote: RemoteConfig | null;
  /** Who answers when it can't; null: nobody. */
  readonly overflow: OverflowConfig | null;
  /** Nobody else sees it; null: everybody may. */
  readonly tenants: readonly TenantId[] | null;
  /** Of each tenant's use of it. */
  readonly limits: LimitsConfig;
  readonly price: PriceConfig | null;
}

export interface BerthConfig {
  /** BERTH_HOME, absolute: where the node's database lies. */
  readonly home: string;
  /** At least one. */
  readonly devices: readonly DeviceConfig[];
  /** Absolute. */
  readonly modelsDir: string;
  /** As the file lists them; models that only lie in the models folder get `defaultModel`. */
  readonly models: readonly ModelConfig[];
  readonly tenants: readonly TenantConfig[];
  readonly defaults: {
    readonly contextTokens: number;
    readonly parallel: number;
    readonly batchTokens: number;
    readonly slo: Slo;
  };
  readonly limits: {
    /** Waiting requests, per model. */
    readonly queueRequests: number;
    readonly queueTimeoutMicros: Micros;
    readonly bodyBytes: Bytes;
    readonly loadTimeoutMicros: Micros;
  };
  readonly residency: {
    readonly minimumStayMicros: Micros;
    /** -1: for ever. */
    readonly keepAliveMicros: Micros;
    /** -1: for ever. */
    readonly sleepForMicros: Micros;
    readonly patienceMicros: Micros;
  };
  readonly kv: KvConfig;
  readonly http: {
    readonly host: string;
    readonly port: number;
    readonly adminHost: string;
    readonly adminPort: number;
    readonly apiKeys: readonly string[];
    readonly adminKey: string | null;
    readonly allowedHosts: readonly string[];
    readonly origins: readonly string[];
  };
  readonly pull: { readonly hubUrl: string | null; readonly hubToken: string | null };
  readonly log: { readonly level: LogLevel };
}

/** Texts of flags, by the setting that they stand for. */
export type ConfigFlags = Partial<Record<OptionPath, string>>;
export type Environment = Readonly<Record<string, string | undefined>>;

export interface ConfigRequest {
  /** The file; null: none is read. undefined: `BERTH_CONFIG`, else berth.yaml here, else berth.yaml in BERTH_HOME, else none. */
  readonly path?: string | null | undefined;
  readonly flags?: ConfigFlags;
  /** Of models that name none (`berth serve --engine`); null: llamacpp. One that takes no GGUF files is that of folders only. */
  readonly engine?: EngineName | null;
  readonly env?: Environment;
  readonly cwd?: string;
  readonly machine?: Machine;
}

export interface LoadedConfig {
  readonly config: BerthConfig;
  readonly path: string | null;
  /** Things that work but are probably not meant, a line each. */
  readonly warnings: readonly string[];
}

/** Finds, reads, checks and completes the configuration. Throws one `config_invalid` that lists all that is wrong. */
export function loadConfig(request: ConfigRequest = {}): LoadedConfig {
  const env = request.env ?? process.env;
  const cwd = request.cwd ?? process.cwd();
  const machine = request.machine ?? readMachine();
  const path = request.path === undefined ? findConfig(env, cwd, machine) : request.path && resolve(cwd, request.path);
  const file: ConfigFile =
    path === null ? { values: {}, models: [], tenants: [], devices: [] } : parseConfig(readText(path), basename(path));
  const warnings: string[] = [];
  const values = mergeValues(file.values, request.flags ?? {}, env, warnings);
  const folder = path === null ? cwd : dirname(path);
  const config = assemble(values, file, { folder, env, machine, engine: request.engine ?? null });
  warnings.push(...deviceWarnings(config.devices, machine));
  if ((values['kv.hostMemory'] ?? 0) > 0 && config.kv.hostFolder === null) {
    warnings.push('kv.hostMemory is given, but /dev/shm is not in memory here: name a `kv.hostFolder` that is');
  }
  return { config, path, warnings };
}

function findConfig(env: Environment, cwd: string, machine: Machine): string | null {
  const named = env['BERTH_CONFIG'];
  if (named !== undefined && named !== '') return resolve(cwd, named);
  const places = [join(cwd, 'berth.yaml'), join(berthHome(env, machine), 'berth.yaml')];
  return places.find((place) => existsSync(place)) ?? null;
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new BerthError('config_invalid', `${path} can't be read: ${(error as Error).message}`, { cause: error });
  }
}

function mergeValues(
  file: Partial<OptionValues>,
  flags: ConfigFlags,
  env: Environment,
  warnings: string[],
): OptionValues {
  const problems: string[] = [];
  const values: Record<string, unknown> = {};
  for (const [path, option] of Object.entries(OPTIONS) as [OptionPath, Option<unknown>][]) {
    const attempt = (where: string, text: string | undefined, complaints: string[]): unknown => {
      if (text === undefined || text === '') return undefined;
      const value = option.kind.read(text, 'text');
      if (value === undefined) {
        complaints.push(`${where}: expected ${option.kind.expected}, received ${describe(text, option.secret)}`);
      }
      return value;
    };
    let value = attempt(option.flag?.replace(/^-\w, /, '').split(' ')[0] ?? path, flags[path], problems);
    if (option.env !== undefined) value ??= attempt(`environment ${option.env}`, env[option.env], problems);
    value ??= file[path];
    // What was set for a neighbour must not stop Berth: a value that means nothing here is passed over, with a warning.
    for (const name of option.fallbackEnv ?? [])
      value ??= attempt(`environment ${name} is ignored`, env[name], warnings);
    values[path] = value ?? option.default;
  }
  if (problems.length > 0) throw new BerthError('config_invalid', problems.join('\n'));
  return values as OptionValues;
}

interface Surroundings {
  readonly folder: string;
  readonly env: Environment;
  readonly machine: Machine;
  readonly engine: EngineName | null;
}

function assemble(values: OptionValues, file: ConfigFile, around: Surroundings): BerthConfig {
  const need = <Path extends OptionPath>(path: Path): NonNullable<OptionValues[Path]> => {
    const value = values[path];
    if (value === null || value === undefined) throw new BerthError('internal', `the option ${path} has no default`);
    return value;
  };
  const { machine, folder, env } = around;
  const home = resolve(berthHome(env, machine));
  const place = (path: string | null): string | null => (path === null ? null : localPath(path, folder, machine));
  const config: BerthConfig = {
    home,
    devices: [],
    modelsDir: place(values.modelsDir) ?? join(home, 'models'),
    models: [],
    tenants: file.tenants.map(tenantFrom),
    defaults: {
      contextTokens: need('defaults.context'),
      parallel: need('defaults.parallel'),
      batchTokens: need('defaults.batch'),
      slo: need('defaults.slo'),
    },
    limits: {
      queueRequests: need('limits.queue'),
      queueTimeoutMicros: need('limits.queueTimeout'),
      bodyBytes: need('limits.bodyBytes'),
      loadTimeoutMicros: need('limits.loadTimeout'),
    },
    residency: {
      minimumStayMicros: need('residency.minimumStay'),
      keepAliveMicros: need('residency.keepAlive'),
      sleepForMicros: need('residency.sleepFor'),
      patienceMicros: need('residency.patience'),
    },
    kv: kvConfig(
      {
        hostMemory: values['kv.hostMemory'],
        disk: values['kv.disk'],
        folder: place(values['kv.folder']) ?? join(home, 'kv'),
        hostFolder: place(values['kv.hostFolder']),
        minimumTokens: need('kv.minimumTokens'),
      },
      machine,
    ),
    http: {
      host: need('http.host'),
      port: need('http.port'),
      adminHost: need('http.adminHost'),
      adminPort: need('http.adminPort'),
      apiKeys: need('http.apiKeys'),
      adminKey: values['http.adminKey'],
      allowedHosts: need('http.allowedHosts'),
      origins: need('http.origins'),
    },
    pull: { hubUrl: values['pull.hubUrl'], hubToken: values['pull.hubToken'] },
    log: { level: need('log.level') },
  };
  const models = withBases(file.models.map((entry) => modelFrom(entry, config, around)));
  const short = {
    kind: need('device.kind'),
    gpu: values['device.gpu'],
    memory: values['device.memory'],
    lanes: values['device.lanes'],
  };
  const wantsGpu = models.some(({ engine: name }) => name !== null && GPU_ENGINES.has(name));
  const devices = devicesOf(short, file.devices, wantsGpu, machine);
  const ids = devices.map(({ id }) => id);
  for (const { id, device } of models) {
    if (device !== null && !ids.includes(device))
      throw new BerthError('config_invalid', `models.${id}.device: ${noSuchDevice(device, ids)}`, {
        param: `models.${id}.device`,
      });
  }
  return { ...config, devices, models };
}

/** The engine of all models can be one that takes no files: those are llamacpp's then. */
function engineFrom({ values }: ModelEntry, usual: EngineName | null): EngineName | null {
  const { engine, remote, source } = values;
  if (typeof engine === 'string') return engine;
  if (remote !== undefined && remote !== null) return 'remote';
  const isFolder = typeof source === 'string' && !isPullSource(source) && !/\.gguf$/i.test(source);
  return usual !== null && GPU_ENGINES.has(usual) && isFolder ? usual : null;
}

function modelFrom(entry: ModelEntry, config: BerthConfig, { folder, machine, engine }: Surroundings): ModelConfig {
  const { id, values } = entry;
  const source = values.source ?? null;
  const remote = values.remote ?? null;
  const usual = defaultModel(
    config,
    id,
    source === null || isPullSource(source) ? source : localPath(source, folder, machine),
  );
  return {
    ...usual,
    aliases: values.aliases ?? [],
    contextTokens: values.context ?? null,
    parallel: values.parallel ?? usual.parallel,
    kvTokens: values.kv ?? null,
    batchTokens: values.batch ?? usual.batchTokens,
    pinned: values.pin ?? false,
    keepAliveMicros: values.keepAlive ?? usual.keepAliveMicros,
    embedWindowMicros: values.embedWindow ?? EMBED_WINDOW_MICROS,
    slo: values.slo ?? usual.slo,
    engine: engineFrom(entry, engine),
    device: values.device ?? null,
    args: values.args ?? [],
    adapter:
      typeof values.base === 'string' && typeof values.adapter === 'string'
        ? { base: values.base.toLowerCase(), path: localPath(values.adapter, folder, machine) }
        : null,
    remote: remote && {
      ...remote,
      keyFile: remote.keyFile === null ? null : localPath(remote.keyFile, folder, machine),
    },
    overflow: values.overflow ?? null,
    tenants: values.tenants?.map(tenantId) ?? null,
    limits: values.limits ?? UNLIMITED,
    price: values.price ?? null,
  };
}

/** The configuration of a model that berth.yaml doesn't list: one that just lies in the models folder. */
export function defaultModel(
  config: Pick<BerthConfig, 'defaults' | 'residency'>,
  id: string,
  source: string | null,
): ModelConfig {
  return {
    id: modelId(id.toLowerCase()),
    source,
    aliases: [],
    contextTokens: null,
    parallel: config.defaults.parallel,
    kvTokens: null,
    batchTokens: config.defaults.batchTokens,
    pinned: false,
    keepAliveMicros: config.residency.keepAliveMicros,
    embedWindowMicros: EMBED_WINDOW_MICROS,
    slo: config.defaults.slo,
    engine: null,
    device: null,
    args: [],
    adapter: null,
    remote: null,
    overflow: null,
    tenants: null,
    limits: UNLIMITED,
    price: null,
  };
}

/** Is it a GGUF file? The models of other engines are folders, or elsewhere; adapters are none. */
export const isFile = ({ engine, adapter }: Pick<ModelConfig, 'engine' | 'adapter'>): boolean =>
  adapter === null && (engine === null || engine === 'llamacpp' || engine === 'llama-server' || engine === 'fake');

/** What the catalogue needs of the listed models that are files: each with a file or a pull source. */
export function catalogueEntries(config: BerthConfig): { id: string; source: string; aliases: readonly string[] }[] {
  return config.models.filter(isFile).map(({ id, source, aliases }) => ({
    id,
    aliases,
    source: source ?? join(config.modelsDir, `${id}.gguf`),
  }));
}

/**
 * Context and KV cache that a model is launched with: what it names, else the smaller of the default and what it was trained
 * for (null: unknown); a KV cache of twice the context, so that several requests fit.
 */
export function launchTokens(
  model: Pick<ModelConfig, 'contextTokens' | 'kvTokens'>,
  defaults: Pick<BerthConfig['defaults'], 'contextTokens'>,
  trainedContextTokens: number | null,
): { readonly contextTokens: number; readonly kvTokens: number } {
  const usual = Math.min(trainedContextTokens ?? defaults.contextTokens, defaults.contextTokens);
  const contextTokens = model.contextTokens ?? usual;
  return { contextTokens, kvTokens: Math.max(contextTokens, model.kvTokens ?? 2 * contextTokens) };
}

/** Is this something to download, rather than a path? */
export const isPullSource = (source: string): boolean => /^(pypi|hf|https?):/.test(source);

function localPath(path: string, folder: string, machine: Machine): string {
  return path === '~' || path.startsWith('~/') ? join(machine.home, path.slice(1)) : resolve(folder, path);
}
