/**
 * `npm run bench -- NAME… [--json FILE] [--quick] [--peer NAME=PATH]`: runs the named benchmarks one after the other; `all` runs every
 * published one, and writes files, table and pictures. Exits with 1 if a bar is missed or a benchmark fails, with 2 if the command line
 * can't be understood. Without a name it lists them.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Bench, BenchArgs, BenchResult } from './harness.ts';
import { table, writeResult } from './harness.ts';
import { howToGetHere, passedOver, withInstalledVllm } from './lib/all.ts';
import { KNOWN_PEERS, readPeers } from './lib/peers.ts';
import { inOrder, readResults } from './lib/results.ts';

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

/** @throws Error, made for people */
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
  const { quick, json, help } = values;
  if (positionals.includes(ALL) && (positionals.length > 1 || json !== undefined))
    throw new Error('`all` stands alone, without --json: each benchmark is written to bench/results');
  return { names: positionals, args: { quick, peers: readPeers(values.peer) }, json, help };
}

async function usage(): Promise<string> {
  const listed = await Promise.all(names().map(async (name) => `  ${name.padEnd(18)} ${(await open(name)).about}`));
  return [
    'npm run bench -- NAME… [--json FILE] [--quick] [--peer NAME=PATH]',
    'npm run bench -- all [--quick] [--peer NAME=PATH]',
    '',
    '  --json FILE        write the results there too',
    '  --quick            fewer rounds: shows that it runs; such results are never published',
    '  --peer NAME=PATH   a program to compare with, else found on the PATH (vllm: below .berth):',
    ...Object.entries(KNOWN_PEERS).map(([name, how]) => `                     ${name}: ${how}`),
    '',
    `  ${ALL.padEnd(18)} every published one that can run here, some hours; writes bench/results, tables and pictures`,
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
async function runAll(asked: BenchArgs): Promise<number> {
  const args = withInstalledVllm(asked);
  const known = names();
  // The headline first: nobody waits hours for it.
  const wanted = [...new Set(['headline', ...inOrder(RESULTS)])];
  const stranger = wanted.find((name) => !known.includes(name));
  if (stranger !== undefined) throw new Error(`${stranger} is published, but there is no bench/${stranger}.ts`);
  // What is measured with --quick replaces nothing.
  const skipped = passedOver(wanted, args.quick ? [] : readResults(RESULTS), howToGetHere(args));
  for (const [name, reason] of skipped) console.error(`${name} is passed over: ${reason}`);
  let exit = 0;
  for (const name of wanted.filter((one) => !skipped.has(one))) {
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

/** null: it can't be understood, which is said. */
function understood(): Wanted | null {
  try {
    return parse();
  } catch (error) {
    console.error((error as Error).message);
    return null;
  }
}

async function main(): Promise<number> {
  const asked = understood();
  if (asked === null) return 2;
  const { names: wanted, args, json, help } = asked;
  const known = names();
  const stranger = wanted.find((name) => name !== ALL && !known.includes(name));
  if (help || wanted.length === 0 || stranger !== undefined) {
    if (stranger !== undefined) console.error(`There is no benchmark ${JSON.stringify(stranger)}.`);
    console.log(await usage());
    return stranger === undefined ? 0 : 2;
  }
  if (wanted.includes(ALL)) return runAll(args);
  const results: BenchResult[] = [];
  for (const name of wanted) results.push(await measure(name, args));
  if (json !== undefined) writeResult(json, results);
  return results.some(hasMissed) ? 1 : 0;
}

process.exitCode = await main();
