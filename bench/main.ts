/**
 * `npm run bench -- NAME… [--json FILE] [--quick] [--peer NAME=PATH]`: runs the named benchmarks one after the other. Exits with 1
 * if a bar is missed. Without a name it lists them.
 */
import { readdirSync } from 'node:fs';
import { parseArgs } from 'node:util';
import type { Bench, BenchArgs, BenchResult } from './harness.ts';
import { table, writeResult } from './harness.ts';

const SHARED = new Set(['main.ts', 'harness.ts']);

function names(): string[] {
  return readdirSync(import.meta.dirname)
    .filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts') && !SHARED.has(file))
    .map((file) => file.slice(0, -'.ts'.length));
}

const open = async (name: string): Promise<Bench> => (await import(`./${name}.ts`)) as Bench;

function parse(): { wanted: readonly string[]; args: BenchArgs; json: string | undefined } {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: 'string' },
      quick: { type: 'boolean', default: false },
      peer: { type: 'string', multiple: true, default: [] },
    },
  });
  const peers = Object.fromEntries(
    values.peer.map((text) => {
      const at = text.indexOf('=');
      if (at < 1) throw new Error(`--peer wants NAME=PATH, not ${JSON.stringify(text)}`);
      return [text.slice(0, at), text.slice(at + 1)];
    }),
  );
  return { wanted: positionals, args: { quick: values.quick, peers }, json: values.json };
}

async function main(): Promise<number> {
  const { wanted, args, json } = parse();
  const known = names();
  const stranger = wanted.find((name) => !known.includes(name));
  if (wanted.length === 0 || stranger !== undefined) {
    if (stranger !== undefined) console.error(`There is no benchmark ${JSON.stringify(stranger)}.`);
    console.log('npm run bench -- NAME… [--json FILE] [--quick] [--peer NAME=PATH]\n');
    for (const name of known) console.log(`  ${name.padEnd(12)} ${(await open(name)).about}`);
    return stranger === undefined ? 0 : 2;
  }
  const results: BenchResult[] = [];
  for (const name of wanted) {
    const bench = await open(name);
    const whole = await bench.run(args);
    // So that it is never published by mistake.
    const measured = args.quick ? { ...whole, builds: { ...whole.builds, quick: 'yes' } } : whole;
    console.log(table(measured));
    results.push(measured);
  }
  if (json !== undefined) writeResult(json, results);
  return results.some(({ rows }) => rows.some(({ pass }) => pass === false)) ? 1 : 0;
}

process.exitCode = await main();
