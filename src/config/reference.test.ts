import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { MODEL_OPTIONS } from './model-options.ts';
import { OPTIONS } from './options.ts';
import type { Option } from './options.ts';
import { TENANT_OPTIONS } from './tenants.ts';
import { configurationPage } from './reference.ts';

test('docs/configuration.md is what the table says (write it with -u)', async () => {
  await expect(configurationPage()).toMatchFileSnapshot('../../docs/configuration.md');
});

const all = Object.entries({ ...OPTIONS, ...MODEL_OPTIONS, ...TENANT_OPTIONS }) as [string, Option<unknown>][];

test.each(all)('%s: its default is a value of its kind, or it says what holds instead', (_, option) => {
  if (option.default === null) expect(option.otherwise).toMatch(/\w/);
  else if (typeof option.default !== 'number') expect(option.kind.read(option.default, 'file')).toEqual(option.default);
  else expect(option.kind.read(option.kind.show(option.default), 'text')).toEqual(option.default);
});

test('no flag and no variable stands for two settings', () => {
  const names = all.flatMap(([, { flag, env, fallbackEnv = [] }]) =>
    [...(flag?.split(/[ ,]+/).filter((part) => part.startsWith('-')) ?? []), env ?? [], fallbackEnv].flat(),
  );
  expect(names.toSorted()).toEqual([...new Set(names)].toSorted());
});

test('the example shows every section', () => {
  const example = readFileSync(new URL('../../berth.example.yaml', import.meta.url), 'utf8');
  for (const section of ['device', 'modelsDir', 'models', 'tenants', 'limits', 'residency', 'kv', 'http', 'log']) {
    expect(example).toMatch(new RegExp(`^${section}:`, 'm'));
  }
});
