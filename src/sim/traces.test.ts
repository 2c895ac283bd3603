import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { Mapping } from './arrivals.ts';
import { linesOf, readTrace } from './traces.ts';

const folder = mkdtempSync(join(tmpdir(), 'berth-traces-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const file = (text: string): string => {
  const path = join(folder, 'trace');
  writeFileSync(path, text);
  return path;
};
const MAPPING: Mapping = { models: 4, tenants: 2, zipf: 1, seed: 1 };
const read = (text: string) => [...readTrace(file(text), MAPPING)];

describe('a trace', () => {
  it('of Aegaeon names its models', () => {
    const text =
      'Request Time,Model Name,Input Length,Output Length\n00:00:00.418,synth_model_08,168,416\n00:01:02.253,synth_model_14,438,88\n';
    expect(read(text)).toMatchObject([
      { at: 418_000, model: 'synth_model_08', promptTokens: 168, outputTokens: 416 },
      { at: 62_253_000, model: 'synth_model_14', promptTokens: 438, outputTokens: 88 },
    ]);
  });

  it('of Azure starts with its first row, and is given models and tenants', () => {
    const text =
      'TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 23:59:59.9799600,4808,10\r\n2023-11-17 00:00:00.0799600,318,0\r\n';
    const rows = read(text);
    expect(rows).toMatchObject([
      { at: 0, promptTokens: 4_808 },
      { at: 100_000, outputTokens: 1 },
    ]);
    for (const { model, tenant } of rows) expect([model, tenant].join()).toMatch(/^model-00[0-3],tenant-0[01]$/);
    expect(read(text)).toEqual(rows);
  });

  it('of Mooncake has blocks', () => {
    const text = '{"timestamp": 27, "input_length": 600, "output_length": 6, "hash_ids": [0, 1]}';
    expect(read(text)).toMatchObject([{ at: 27_000, promptTokens: 600, outputTokens: 6, blocks: [0, 1] }]);
  });

  it.each([
    ['', /is no trace that is known/],
    ['hello', /is no trace that is known/],
    [
      'TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9,many,10',
      /trace:2 is no row of a trace of this kind \(azure\)/,
    ],
    [
      '{"timestamp": 5, "input_length": 1, "output_length": 1}\n{"timestamp": 4, "input_length": 1, "output_length": 1}',
      /:2 is earlier/,
    ],
    ['{"timestamp": 5, "input_length": 1, "output_length": 1}\n{"timesta', /:2 is no row/],
  ])('that can’t be read is told with its line: %j', (text, message) => expect(() => read(text)).toThrow(message));

  it('that is not there is told', () => expect(() => [...linesOf(join(folder, 'none'))]).toThrow(/can’t be opened/));
});

it('lines are whole however the file falls into pieces', () => {
  const lines = Array.from({ length: 3_000 }, (_, index) => 'é'.repeat(index % 97));
  expect([...linesOf(file(lines.join('\n') + '\n'))]).toEqual(lines);
});
