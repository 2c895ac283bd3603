/** docs/cli.md, made from the commands and the table of errors. `vitest run --project unit src/cli/reference.test.ts -u` writes it. */
import type { Command } from 'commander';
import { ERRORS } from '../errors.ts';
import type { Io } from './io.ts';
import { buildProgram } from './program.ts';

const INTRO = `# Command line

<!-- Generated from src/cli/program.ts and src/errors.ts; a test holds them equal. -->

\`npm start\` starts a node. Everything else is \`bin/berth COMMAND\` in a clone (or \`npm run berth -- COMMAND\`); it runs on the Node
that npm installed with Berth. Where \`berth\` stands below, that is meant.

    berth run smollm2-135m "Why is the sky blue?"
    cat report.txt | berth run smollm2-135m "Summarise:"
    berth chat smollm2-135m
    berth ps
    berth why smollm2-135m

**Where the node is.** \`run\` and \`chat\` speak to its public API (\`--url\`, else \`BERTH_URL\`, else loopback at \`BERTH_PORT\` or 8420), all
others to its admin API (\`--admin-url\`, else \`BERTH_ADMIN_URL\`, else loopback at \`BERTH_ADMIN_PORT\` or 8421). \`ls\`, \`pull\` and \`rm\` also
work while no node runs: then they act on the models folder themselves, and so they do where \`--models-dir\` names one.

**Output.** Results go to stdout, everything else to stderr. \`--json\` prints the admin API's own JSON, \`pull --json\` and
\`serve --json\` a JSON value a line. An error is a line \`error: …\` and a line that says what to do; with \`--json\` it is
\`{"error":{"code","message","param","advice","exit"}}\` on stderr.

**Columns of \`ps\`.** The first six are Ollama's. \`SIZE\` is the memory that is charged to the model now. \`UNTIL\` is when an idle model
leaves the device: a time, \`Forever\`, \`Loading...\` or \`Stopping...\`. \`TIER\` is where its weights are: \`device\` (computing memory),
\`host\` (asleep: only mapped), \`disk\`. \`RUN\` and \`WAIT\` count requests. A node with several devices has a column \`DEVICE\`.

**Stopping.** The first Ctrl-C (or SIGTERM) lets running requests of \`berth serve\` end, the second ends it at once. A \`run\` or \`chat\`
that is interrupted frees its work on the node within one token. An interrupted \`pull\` goes on where it was when it is run again.
`;

const docsIo: Io = {
  out: () => undefined,
  err: () => undefined,
  stdin: process.stdin,
  stdinIsTty: false,
  stdoutIsTty: false,
  stderrIsTty: false,
  columns: 110,
  env: {},
  cwd: '/',
  onSignal: () => () => undefined,
  exit: () => undefined,
};

/** A group of commands is a section of one after the other. */
const helpOf = (command: Command): string => {
  const each = command.commands.length === 0 ? [command] : command.commands;
  const texts = each.map((one) => `\`\`\`text\n${one.helpInformation().trimEnd()}\n\`\`\`\n`);
  return `## berth ${command.name()}\n\n${texts.join('\n')}`;
};

/** What the exit codes have in common, in words. */
const MEANINGS: Readonly<Record<number, string>> = {
  0: 'It worked.',
  1: 'A bug in Berth.',
  2: 'The command or the request is wrong.',
  3: 'No node answers.',
  4: 'The key is missing or may not do this.',
  5: 'There is no such model or thing.',
  6: 'The node is too busy or stopping: try again.',
  7: 'The model or its engine can’t do it.',
  8: 'It was cancelled.',
  9: 'The configuration is wrong, or its port is taken.',
  10: 'A download failed.',
  130: 'It was ended by a second Ctrl-C, or by a signal that the command doesn’t handle.',
};

function exitCodes(): string {
  const codes = new Map<number, string[]>(Object.keys(MEANINGS).map((code) => [Number(code), []]));
  for (const [name, { exit }] of Object.entries(ERRORS)) codes.set(exit, [...(codes.get(exit) ?? []), `\`${name}\``]);
  const rows = [...codes]
    .toSorted(([a], [b]) => a - b)
    .map(([code, names]) => `| ${code} | ${MEANINGS[code] ?? ''} | ${names.join(', ')} |`);
  return `## Exit codes\n\n| code | meaning | errors |\n|---|---|---|\n${rows.join('\n')}\n`;
}

/** The whole page. */
export function cliPage(): string {
  const { commands } = buildProgram(docsIo);
  return [INTRO, exitCodes(), ...commands.map(helpOf)].join('\n');
}
