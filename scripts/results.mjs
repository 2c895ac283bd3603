/**
 * Writes the README's table of results from `bench/results/*.json`: `node_modules/.bin/node scripts/results.mjs`.
 * With `--check` it changes nothing and exits with 1 if the table is out of date.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { readResults, resultsBlock, withBlock } from '../bench/lib/results.ts';

const readme = fileURLToPath(new URL('../README.md', import.meta.url));
const results = readResults(fileURLToPath(new URL('../bench/results', import.meta.url)));
const before = readFileSync(readme, 'utf8');
const after = withBlock(before, resultsBlock(results));
if (process.argv.includes('--check')) {
  if (after !== before) console.error('The README’s results are out of date: run scripts/results.mjs.');
  process.exitCode = after === before ? 0 : 1;
} else {
  writeFileSync(readme, after);
  console.log(`README.md has the results of ${results.map(({ name }) => name).join(', ') || 'no benchmark yet'}.`);
}
