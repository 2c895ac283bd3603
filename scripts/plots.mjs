/**
 * Draws docs/img/NAME.svg from the published bench/results/NAME.json: `node_modules/.bin/node scripts/plots.mjs`. With two folders
 * it reads results from the first and draws into the second.
 */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { plot } from '../bench/lib/plot.ts';
import { readResults } from '../bench/lib/results.ts';

const [
  from = fileURLToPath(new URL('../bench/results', import.meta.url)),
  to = fileURLToPath(new URL('../docs/img', import.meta.url)),
] = process.argv.slice(2);
const drawn = [];
for (const result of readResults(from)) {
  const picture = await plot(result);
  if (picture === null) continue;
  writeFileSync(path.join(to, `${result.name}.svg`), picture);
  drawn.push(`${result.name}.svg`);
}
console.log(`Drawn: ${drawn.join(', ') || 'nothing; no result with a picture is published yet'}.`);
