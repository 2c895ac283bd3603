import { mkdtemp, rm, utimes, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { gguf as parseWithLibrary, GGMLFileQuantizationType, GGMLQuantizationType } from '@huggingface/gguf';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { TINY_METADATA, tinyGguf } from '../../test/tiny-gguf.ts';
import { FILE_TYPES, TENSOR_TYPES } from './gguf-types.ts';
import { readGguf } from './gguf.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'berth-gguf-'));
});
afterAll(() => rm(folder, { recursive: true }));

let files = 0;
async function write(bytes: Uint8Array): Promise<string> {
  files += 1;
  const file = path.join(folder, `${files}.gguf`);
  await writeFile(file, bytes);
  return file;
}
const invalid = (reason: string | RegExp): object =>
  expect.objectContaining({ code: 'model_file_invalid', message: expect.stringMatching(reason) as string });

describe('the facts of a file', () => {
  test('are those of its header', async () => {
    const file = await write(tinyGguf());
    expect(await readGguf(file)).toMatchObject({
      architecture: 'llama',
      type: 'model',
      name: 'Tiny',
      parameters: 32,
      quantization: 'F32',
      trainedContextTokens: 512,
      layers: 2,
      heads: 2,
      kvHeads: 1,
      keyLength: 4,
      valueLength: 4,
      kvElementsPerToken: 2 * 1 * (4 + 4),
      vocabTokens: 3,
      chatTemplate: false,
      tensorBytes: 128,
    });
  });

  test('are those that the library finds', async () => {
    const file = await write(tinyGguf());
    const { metadata, tensorInfos } = await parseWithLibrary(file, { allowLocalFile: true });
    expect((metadata as Record<string, unknown>)['general.name']).toBe('Tiny');
    expect(tensorInfos).toHaveLength(2);
  });

  test('count the KV heads of each layer, where the layers differ', async () => {
    const file = await write(tinyGguf({ metadata: { ...TINY_METADATA, 'llama.attention.head_count_kv': [2, 0] } }));
    expect(await readGguf(file)).toMatchObject({ kvHeads: 2, kvElementsPerToken: 2 * (4 + 4) });
  });

  test('name the quantisation that holds most bytes, where the file names none', async () => {
    const { 'general.file_type': _, ...metadata } = TINY_METADATA;
    const tensors = [
      { name: 'big', shape: [64, 2], type: 8, bytes: 136 },
      { name: 'small', shape: [8], bytes: 32 },
    ];
    expect(await readGguf(await write(tinyGguf({ metadata, tensors })))).toMatchObject({
      quantization: 'Q8_0',
      tensorBytes: 168,
    });
  });

  test('are read again when the file changed, and only then', async () => {
    const file = await write(tinyGguf());
    const first = await readGguf(file);
    expect(await readGguf(file)).toBe(first);
    await utimes(file, 1, 1);
    expect(await readGguf(file)).not.toBe(first);
  });
});

describe('a file that can’t be used says why', () => {
  test('it is missing', async () => {
    await expect(readGguf(path.join(folder, 'none.gguf'))).rejects.toMatchObject({ code: 'model_file_missing' });
  });

  test('it is a folder', async () => {
    await expect(readGguf(folder)).rejects.toEqual(invalid('no file'));
  });

  test('it is something else', async () => {
    const file = await write(Buffer.from('<!doctype html><title>Please log in</title>'));
    await expect(readGguf(file)).rejects.toEqual(invalid('letters GGUF'));
  });

  test.each([
    [1, 'version 1'],
    [4, 'version 4'],
    [0x03000000, 'big-endian'],
  ])('it has the version %i', async (version, reason) => {
    await expect(readGguf(await write(tinyGguf({ version })))).rejects.toEqual(invalid(reason));
  });

  test('it is shorter than its tensors: both sizes are named', async () => {
    const whole = tinyGguf();
    const file = await write(whole.subarray(0, -1));
    await expect(readGguf(file)).rejects.toEqual(
      invalid(new RegExp(`has ${whole.length - 1} bytes, its tensors need ${whole.length}`)),
    );
  });

  test('a tensor has a type that nobody knows', async () => {
    const file = await write(tinyGguf({ tensors: [{ name: 'odd', shape: [32], type: 99, bytes: 32 }] }));
    await expect(readGguf(file)).rejects.toEqual(invalid('tensor odd has the type 99'));
  });

  test('the header lies about its lengths', async () => {
    const bytes = tinyGguf();
    bytes.writeBigUInt64LE(2n ** 60n, 24);
    await expect(readGguf(await write(bytes))).rejects.toEqual(invalid('which no file can have'));
    bytes.writeBigUInt64LE(2n ** 40n, 24);
    await expect(readGguf(await write(bytes))).rejects.toEqual(invalid('the most is'));
  });

  test('it was cut anywhere', async () => {
    const whole = tinyGguf();
    await fc.assert(
      fc.asyncProperty(fc.nat({ max: whole.length - 1 }), async (length) => {
        await expect(readGguf(await write(whole.subarray(0, length)))).rejects.toMatchObject({
          code: 'model_file_invalid',
        });
      }),
      { numRuns: 50 },
    );
  });

  test('damaged bytes never crash the reader', async () => {
    const whole = tinyGguf();
    await fc.assert(
      fc.asyncProperty(fc.nat({ max: whole.length - 1 }), fc.nat({ max: 255 }), async (at, value) => {
        const bytes = Buffer.from(whole);
        bytes[at] = value;
        const code = await readGguf(await write(bytes)).then(
          () => 'fine',
          (error: unknown) => (error as { code?: string }).code,
        );
        expect(['fine', 'model_file_invalid']).toContain(code);
      }),
      { numRuns: 100 },
    );
  });
});

describe('the tables', () => {
  test('name tensor types as the library does', () => {
    const theirs = Object.entries(GGMLQuantizationType).filter(([, id]) => typeof id === 'number');
    for (const [name, id] of theirs) expect([id, TENSOR_TYPES.get(Number(id))?.name]).toEqual([id, name]);
  });

  test('name file types as the library does', () => {
    for (const [id, name] of FILE_TYPES) {
      const theirs = GGMLFileQuantizationType[id];
      if (theirs !== undefined) expect(name).toBe(theirs);
    }
  });
});
