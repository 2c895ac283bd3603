import { expect, test } from 'vitest';
import { ERRORS } from '../errors.ts';
import { cliPage } from './reference.ts';

test('docs/cli.md is what the commands say (write it with -u)', async () => {
  await expect(cliPage()).toMatchFileSnapshot('../../docs/cli.md');
});

test('every exit code has a meaning', () => {
  const rows = cliPage().match(/^\| \d+ \|.*$/gm) ?? [];
  const meanings = new Map(rows.map((row) => [Number(row.split('|')[1]), row.split('|')[2]?.trim() ?? '']));
  for (const { exit } of Object.values(ERRORS)) expect(meanings.get(exit)).toMatch(/\w/);
});
