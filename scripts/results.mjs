/**
 * Writes the tables of results from `bench/results/*.json`, a short one into README.md and the whole into docs/results.md:
 * `node_modules/.bin/node scripts/results.mjs`.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { readResults, resultsBlock, summaryBlock, withBlock } from '../bench/lib/results.ts';

const results = readResults(fileURLToPath(new URL('../bench/results', import.meta.url)));
for (const [page, block] of [
  ['README.md', summaryBlock(results)],
  ['docs/results.md', resultsBlock(results)],
]) {
  const file = fileURLToPath(new URL(`../${page}`, import.meta.url));
  writeFileSync(file, withBlock(readFileSync(file, 'utf8'), block));
}
console.log(`The tables have the results of ${results.map(({ name }) => name).join(', ') || 'no benchmark yet'}.`);
