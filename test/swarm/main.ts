/** `npm run swarm`: runs seeds of the swarm; a failing one prints the command that repeats it. `--help` tells the options. */
import { parseArgs } from 'node:util';
import { run } from './scenario.ts';

const USAGE = `npm run swarm -- [--runs N] [--from N]   so many seeds in a row, else 1,000; from this one on, else from 1
npm run swarm -- --seed N                this seed only, and what came of it

  --seeds N   another name of --runs`;
const USUAL_RUNS = 1_000;
const MOST_FAILURES = 20;

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    runs: { type: 'string' },
    seeds: { type: 'string' },
    from: { type: 'string' },
    help: { type: 'boolean', short: 'h', default: false },
  },
});

/** @throws if it is no whole number */
function whole(option: 'seed' | 'runs' | 'seeds' | 'from'): number | null {
  const text = values[option];
  if (text === undefined) return null;
  if (/^\d+$/.test(text)) return Number(text);
  throw new Error(`--${option} wants a whole number, not ${JSON.stringify(text)}`);
}

function runSeeds(first: number, runs: number): number {
  let failures = 0;
  for (let seed = first; seed < first + runs && failures < MOST_FAILURES; seed++) {
    try {
      const result = run(seed);
      if (runs === 1) console.log(JSON.stringify(result, null, 2));
    } catch (thrown) {
      failures++;
      console.error(
        `npm run swarm -- --seed ${seed}\n  ${thrown instanceof Error ? (runs === 1 ? thrown.stack : thrown.message) : String(thrown)}`,
      );
    }
  }
  return failures;
}

if (values.help) console.log(USAGE);
else {
  const only = whole('seed');
  const runs = only === null ? (whole('runs') ?? whole('seeds') ?? USUAL_RUNS) : 1;
  const failures = runSeeds(only ?? whole('from') ?? 1, runs);
  console.log(`${runs} runs, ${failures} failed`);
  process.exitCode = failures > 0 ? 1 : 0;
}
