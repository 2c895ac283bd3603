/** What the pages say about files is so. */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '..');
const pages = ['README.md', 'CHANGELOG.md', ...globSync('docs/**/*.md', { cwd: root })];
const read = (page: string): string => readFileSync(join(root, page), 'utf8');

test('docs/architecture.md names every file of the core, and no other', () => {
  const page = read('docs/architecture.md');
  const section = page.slice(page.indexOf('## The core, file by file'), page.indexOf('## Where a model is'));
  const rows = [...section.matchAll(/^\| `(\w+)` \|/gm)].map(([, name]) => name);
  const data = [...section.slice(section.indexOf('Beside them')).matchAll(/`(\w+)`/g)].map(([, name]) => name);
  const files = globSync('*.ts', { cwd: join(root, 'src/core') })
    .filter((file) => !file.endsWith('.test.ts'))
    .map((file) => file.slice(0, -'.ts'.length));
  expect(new Set([...rows, ...data])).toEqual(new Set(files));
});

test.each(pages)('the links of %s lead somewhere', (page) => {
  const targets = [...read(page).matchAll(/\]\((?!https?:|#)([^)#\s]+)/g)].map(([, target]) => target ?? '');
  const dead = targets.filter((target) => !existsSync(join(root, dirname(page), target)));
  expect(dead).toEqual([]);
});

test.each(pages)('the source files that %s names are there', (page) => {
  const named = [...read(page).matchAll(/`((?:src|test|bench|scripts|core|bin)\/[\w./-]+\.(?:ts|mjs))`/g)].map(
    ([, file]) => (file?.startsWith('core/') ? `src/${file}` : (file ?? '')),
  );
  expect(named.filter((file) => !existsSync(join(root, file)))).toEqual([]);
});
