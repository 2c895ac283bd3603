/** Models of berth.yaml that others stand behind: adapters and their bases, overflows. */
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { complaint, folder, load } from '../../test/support/config.ts';
import { isFile } from '../config.ts';

test('a model may name another one that answers when it can’t', () => {
  const { config } = load('models:\n  a: {overflow: B}\n  b: {}\n  c: {overflow: {to: b, after: 2s}}\n');
  expect(config.models.map(({ id, overflow }) => [id, overflow])).toEqual([
    ['a', { to: 'b', after: null }],
    ['b', null],
    ['c', { to: 'b', after: 2e6 }],
  ]);
  const wrong =
    'models:\n  a: {overflow: a}\n  b: {overflow: none}\n  c: {overflow: d}\n  d: {overflow: e}\n  e: {overflow: {after: 1s}}\n';
  expect(() => load(wrong)).toThrow(
    [
      'berth.yaml:2 models.a.overflow: a model can’t answer instead of itself',
      'berth.yaml:3 models.b.overflow: no model here is called none: list it under `models`',
      'berth.yaml:4 models.c.overflow: d has an overflow itself: requests are handed on once only',
    ].join('\n'),
  );
  expect(() => load(wrong)).toThrow(/berth\.yaml:6 models\.e\.overflow: expected the id of a model, or a mapping/);
});

describe('an adapter', () => {
  const base = 'base: {engine: vllm, source: ./big, tenants: [acme], price: {input: 1, output: 2}}';

  test('is a name for its base with weights of its own, and as private', () => {
    const { config } = load(
      `models:\n  ${base}\n  sql: {base: Base, adapter: ./sql, aliases: [query]}\n  open: {base: base, adapter: /there, tenants: [other]}`,
    );
    expect(config.models).toMatchObject([
      { id: 'base', adapter: null },
      { id: 'sql', adapter: { base: 'base', path: join(folder, 'sql') }, tenants: ['acme'], price: { input: 1 } },
      { id: 'open', adapter: { base: 'base', path: '/there' }, tenants: ['other'] },
    ]);
    expect(config.models.map(isFile)).toEqual([false, false, false]);
  });

  test('that can’t be meant is told with its line', () => {
    const yaml = [
      'models:',
      `  ${base}`,
      '  lone: {adapter: ./x}',
      '  bare: {base: base}',
      '  odd: {base: base, adapter: ./x, context: 4096}',
      '  lost: {base: nobody, adapter: ./x}',
      '  second: {base: odd, adapter: ./x}',
    ].join('\n');
    expect(complaint(yaml)).toEqual([
      'berth.yaml:3 models.lone.adapter: an adapter needs a `base`: the model that it adapts',
      'berth.yaml:4 models.bare.base: a model with a `base` needs an `adapter`: the folder of its LoRA weights',
      expect.stringMatching(/^berth\.yaml:5 models\.odd\.context: an adapter is run as its base is/),
      'berth.yaml:6 models.lost.base: no model here is called nobody',
      'berth.yaml:7 models.second.base: odd is an adapter itself',
    ]);
    expect(complaint('models: {base: {source: ./x.gguf}, sql: {base: base, adapter: ./sql}}')).toEqual([
      'models.sql.base: adapters need a base of the engine vllm, and base has llamacpp',
    ]);
  });
});
