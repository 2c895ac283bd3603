import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { readAdapter } from './adapters.ts';

const root = mkdtempSync(join(tmpdir(), 'berth-adapters-'));
afterAll(() => rmSync(root, { recursive: true }));

function adapter(config: string, weights: string | null = 'weights'): string {
  const folder = mkdtempSync(join(root, 'a-'));
  writeFileSync(join(folder, 'adapter_config.json'), config);
  if (weights !== null) writeFileSync(join(folder, 'adapter_model.safetensors'), weights);
  return folder;
}

test('its rank is the largest of its layers’, and another content is another fingerprint', async () => {
  const facts = await readAdapter(adapter('{"r": 8, "rank_pattern": {"q_proj": 32}}'));
  expect(facts).toMatchObject({ rank: 32, bytes: 7 });
  expect((await readAdapter(adapter('{"r": 8}', 'other weights'))).fingerprint).not.toBe(facts.fingerprint);
});

test.each([
  ['a folder that is not there', () => join(root, 'nowhere'), 'model_file_missing', /no adapter_config\.json/],
  ['no weights', () => adapter('{"r": 8}', null), 'model_file_missing', /has no weights/],
  ['no rank', () => adapter('{"peft_type": "LORA"}'), 'model_file_invalid', /names no rank/],
  ['no JSON', () => adapter('r = 8'), 'model_file_invalid', /names no rank/],
])('%s is told', async (_, make, code, message) => {
  await expect(readAdapter(make())).rejects.toMatchObject({ code, message: expect.stringMatching(message) as string });
});
