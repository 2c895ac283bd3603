/** docs/api.md and the schemas name the same fields. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { HARMLESS, chatSchema, completionSchema, embeddingSchema } from '../../src/gateway/openai/schema.ts';

const page = readFileSync(new URL('../../docs/api.md', import.meta.url), 'utf8');
const named = (text: string): string[] =>
  [...text.matchAll(/^\| ((?:`[a-z_]+`(?:, )?)+) \|/gm)].flatMap(([, cell]) =>
    [...(cell ?? '').matchAll(/[a-z_]+/g)].map(String),
  );

test('every field of a request is in the tables, and nothing else is', () => {
  const fields = new Set(
    [chatSchema, completionSchema, embeddingSchema].flatMap((schema) => Object.keys(schema.shape)),
  );
  // Named in another field's row.
  for (const field of ['suffix', 'best_of']) fields.delete(field);
  const parameters = page.slice(page.indexOf('## Parameters'), page.indexOf('## Headers'));
  expect(named(parameters).toSorted()).toEqual([...fields].toSorted());
});

test('the harmless ones are in their own table', () => {
  const table = page.slice(page.indexOf('change nothing:'), page.indexOf('## Headers'));
  expect(named(table).toSorted()).toEqual(Object.keys(HARMLESS).toSorted());
});
