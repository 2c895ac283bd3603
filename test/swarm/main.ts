/** `npm run swarm -- [--seed N] [--runs N] [--from N]`: runs seeds of the swarm; a failing one prints the command that repeats it. */
import { parseArgs } from 'node:util';
import { run } from './scenario.ts';

const { values } = parseArgs({
  options: { seed: { type: 'string' }, runs: { type: 'string' }, from: { type: 'string' } },
});
const first = Number(values.seed ?? values.from ?? 1);
const runs = values.seed === undefined ? Number(values.runs ?? 1_000) : 1;
let failures = 0;
for (let seed = first; seed < first + runs; seed++) {
  try {
    const result = run(seed);
    if (runs === 1) console.log(JSON.stringify(result, null, 2));
  } catch (thrown) {
    failures++;
    console.error(
      `npm run swarm -- --seed ${seed}\n  ${thrown instanceof Error ? (runs === 1 ? thrown.stack : thrown.message) : String(thrown)}`,
    );
    if (failures >= 20) break;
  }
}
console.log(`${runs} runs, ${failures} failed`);
process.exitCode = failures > 0 ? 1 : 0;
