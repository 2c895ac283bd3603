/**
 * `npm run bench -- NAME… [--json FILE] [--quick] [--peer NAME=PATH]`: runs the named benchmarks one after the other; `all` runs every
 * published one, and writes files, table and pictures. Exits with 1 if a bar is missed. Without a name it lists them.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Bench, BenchArgs, BenchResult } from './harness.ts';
import { PEERS, table, writeResult } from './harness.ts';
import { CROSS_PEERS } from './lib/cross-tools.ts';
import { inOrder } from './lib/results.ts';

const SHARED = new Set(['main.ts', 'harness.ts']);
const ALL = 'all';
const RESULTS = join(import.meta.dirname, 'results');

function names(): string[] {
  return readdirSync(import.meta.dirname)
    .filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts') && !SHARED.has(file))
    .map((file) => file.slice(0, -'.ts'.length));
}

const open = async (name: string): Promise<Bench> => (await import(`./${name}.ts`)) as Bench;

interface Wanted {
  readonly names: readonly string[];
  readonly args: BenchArgs;
  readonly json: string | undefined;
  readonly help: boolean;
}

function parse(): Wanted {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: 'string' },
      quick: { type: 'boolean', default: false },
      peer: { type: 'string', multiple: true, default: [] },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  const peers = Object.fromEntries(
    values.peer.map((text) => {
      const at = text.indexOf('=');
      if (at < 1) throw new Error(`--peer wants NAME=PATH, not ${JSON.stringify(text)}`);
      return [text.slice(0, at), text.slice(at + 1)];
    }),
  );
  return { names: positionals, args: { quick: values.quick, peers }, json: values.json, help: values.help };
}

async function usage(): Promise<string> {
  const listed = await Promise.all(names().map(async (name) => `  ${name.padEnd(18)} ${(await open(name)).about}`));
  const peers = [...Object.entries(PEERS), ...Object.entries(CROSS_PEERS).map(([name, { how }]) => [name, how])];
  return [
    'npm run bench -- NAME… [--json FILE] [--quick] [--peer NAME=PATH]',
    'npm run bench -- all [--quick] [--peer NAME=PATH]',
    '',
    '  --json FILE        write the results there too',
    '  --quick            fewer rounds: shows that it runs; such results are never published',
    '  --peer NAME=PATH   a program to compare with, else found on the PATH:',
    ...peers.map(([name, how]) => `                     ${name}: ${how}`),
    '',
    `  ${ALL.padEnd(18)} every published one in turn, some hours; writes bench/results, the README’s table and the pictures`,
    ...listed,
  ].join('\n');
}

/** What is measured with `--quick` says so, so that it is never published by mistake. */
async function measure(name: string, args: BenchArgs): Promise<BenchResult> {
  const bench = await open(name);
  const whole = await bench.run(args);
  const measured = args.quick ? { ...whole, builds: { ...whole.builds, quick: 'yes' } } : whole;
  console.log(table(measured));
  return measured;
}

/** Each is published as soon as it is measured: what fails later takes nothing back. */
async function runAll(args: BenchArgs): Promise<number> {
  const known = names();
  let exit = 0;
  // The headline first: nobody waits hours for it.
  for (const name of new Set(['headline', ...inOrder(RESULTS)])) {
    if (!known.includes(name)) throw new Error(`${name} is published, but there is no bench/${name}.ts`);
    console.error(`${name} …`);
    try {
      const measured = await measure(name, args);
      if (!args.quick) writeResult(join(RESULTS, `${name}.json`), [measured]);
      if (hasMissed(measured)) exit = 1;
    } catch (error) {
      console.error(
        `${name} failed and keeps what was published: ${error instanceof Error ? error.stack : String(error)}`,
      );
      exit = 1;
    }
  }
  if (args.quick) return exit;
  for (const script of ['results.mjs', 'plots.mjs'])
    execFileSync(process.execPath, [join(import.meta.dirname, '..', 'scripts', script)], { stdio: 'inherit' });
  return exit;
}

const hasMissed = ({ rows }: BenchResult): boolean => rows.some(({ pass }) => pass === false);

async function main(): Promise<number> {
  const { names: wanted, args, json, help } = parse();
  const known = names();
  const stranger = wanted.find((name) => name !== ALL && !known.includes(name));
  if (help || wanted.length === 0 || stranger !== undefined) {
    if (stranger !== undefined) console.error(`There is no benchmark ${JSON.stringify(stranger)}.`);
    console.log(await usage());
    return stranger === undefined ? 0 : 2;
  }
  if (wanted.includes(ALL)) {
    if (wanted.length > 1 || json !== undefined)
      throw new Error('`all` stands alone, without --json: each benchmark is written to bench/results');
    return runAll(args);
  }
  const results: BenchResult[] = [];
  for (const name of wanted) results.push(await measure(name, args));
  if (json !== undefined) writeResult(json, results);
  return results.some(hasMissed) ? 1 : 0;
}

process.exitCode = await main();
