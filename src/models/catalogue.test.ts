import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { TINY_METADATA, tinyGguf } from '../../test/tiny-gguf.ts';
import { createCatalogue } from './catalogue.ts';
import type { Catalogue, CatalogueOptions } from './catalogue.ts';
import { checkName, idOfFile } from './folder.ts';
import { pull } from './pull.ts';

let modelsDir: string;
beforeEach(async () => {
  modelsDir = await mkdtemp(path.join(os.tmpdir(), 'berth-catalogue-'));
});
afterEach(() => rm(modelsDir, { recursive: true }));

async function put(file: string, bytes: Uint8Array = tinyGguf()): Promise<string> {
  const target = path.join(modelsDir, file);
  await mkdir(path.dirname(target), { recursive: true });
  await writeFile(target, bytes);
  return target;
}
async function opened(options: Partial<CatalogueOptions> = {}): Promise<Catalogue> {
  const catalogue = createCatalogue({ modelsDir, ...options });
  await catalogue.refresh();
  return catalogue;
}
const ids = (catalogue: Catalogue): string[] => catalogue.list().map(({ id }) => id);

describe('a folder without configuration', () => {
  test('each .gguf file is a model, one level deep; the rest is left alone', async () => {
    for (const file of [
      'Tiny.Q4.gguf',
      'team/My Model.GGUF',
      'team/deep/no.gguf',
      '.partial/x.gguf',
      'mmproj-tiny.gguf',
      'notes.txt',
    ])
      await put(file);
    const catalogue = await opened();
    expect(ids(catalogue)).toEqual(['tiny.q4', 'my-model']);
    expect(catalogue.find('TINY.q4:latest')).toMatchObject({
      configured: false,
      pulled: false,
      problem: null,
      facts: { architecture: 'llama' },
    });
  });

  test('that isn’t there has no models', async () => {
    expect(ids(await opened({ modelsDir: path.join(modelsDir, 'none') }))).toEqual([]);
  });

  test('a broken file is listed with its problem, and the others go on', async () => {
    await put('good.gguf');
    await put('bad.gguf', tinyGguf().subarray(0, 200));
    await put('lora.gguf', tinyGguf({ metadata: { ...TINY_METADATA, 'general.type': 'adapter' } }));
    const catalogue = await opened();
    expect(catalogue.find('good').problem).toBeNull();
    expect(catalogue.find('bad').problem).toMatchObject({ code: 'model_file_invalid' });
    expect(catalogue.find('lora').problem).toMatchObject({ message: expect.stringContaining('adapter') as string });
  });

  test('files of one name in two folders get two ids', async () => {
    for (const file of ['tiny.gguf', 'team/tiny.gguf']) await put(file);
    expect(ids(await opened())).toEqual(['tiny', 'team-tiny']);
  });

  test('the parts of a split model are one model; a missing part is named', async () => {
    for (const part of ['1', '2']) await put(`big-0000${part}-of-00002.gguf`);
    await put('half-00002-of-00002.gguf');
    const catalogue = await opened();
    expect(ids(catalogue)).toEqual(['big', 'half']);
    expect(catalogue.find('big')).toMatchObject({
      problem: null,
      facts: { tensorBytes: 256 },
      fileBytes: 2 * tinyGguf().length,
    });
    expect(catalogue.find('big').path).toMatch(/big-00001-of-00002\.gguf$/);
    expect(catalogue.find('half').problem).toMatchObject({
      code: 'model_file_missing',
      message: expect.stringContaining('half-00001-of-00002.gguf') as string,
    });
  });
});

describe('configured models', () => {
  test('come first, with aliases; one file may serve several ids', async () => {
    const file = await put('a.gguf');
    const models = [
      { id: 'Chat', source: file, aliases: ['gpt-x'] },
      { id: 'copy', source: path.relative(modelsDir, file) },
      { id: 'later', source: 'pypi:later==1' },
    ];
    const catalogue = await opened({ models, baseDir: modelsDir });
    expect(ids(catalogue)).toEqual(['chat', 'copy', 'later', 'a']);
    expect(catalogue.find('GPT-X').id).toBe('chat');
    expect(catalogue.find('copy').path).toBe(file);
    expect(catalogue.find('later').problem).toMatchObject({ code: 'model_file_missing' });
  });

  test('that name a file of the folder by its own id list it once', async () => {
    await put('team/a.gguf');
    expect(ids(await opened({ models: [{ id: 'a', source: 'team/a.gguf' }], baseDir: modelsDir }))).toEqual(['a']);
  });

  test('may not share a name', () => {
    const models = [
      { id: 'a', source: 'a.gguf', aliases: ['b'] },
      { id: 'B', source: 'b.gguf' },
    ];
    expect(() => createCatalogue({ modelsDir, models })).toThrow(
      expect.objectContaining({ code: 'config_invalid' }) as Error,
    );
  });

  test('an unknown name is told so', async () => {
    const catalogue = await opened();
    expect(() => catalogue.find('nobody')).toThrow(expect.objectContaining({ code: 'model_not_found' }) as Error);
  });
});

describe('a refresh', () => {
  test('tells what came, went and changed', async () => {
    const [gone, changed] = [await put('gone.gguf'), await put('changed.gguf')];
    await put('same.gguf');
    const catalogue = await opened();
    await rm(gone);
    await put('new.gguf');
    await put('changed.gguf', tinyGguf({ metadata: { ...TINY_METADATA, 'general.name': 'Other' } }));
    expect(await catalogue.refresh()).toEqual({ added: ['new'], removed: ['gone'], changed: ['changed'] });
    await utimes(changed, 1, 1);
    expect(await catalogue.refresh()).toEqual({ added: [], removed: [], changed: ['changed'] });
    expect(await catalogue.refresh()).toEqual({ added: [], removed: [], changed: [] });
  });

  test('asked for many times at once looks at most twice', async () => {
    const catalogue = await opened();
    await put('new.gguf');
    const diffs = await Promise.all(Array.from({ length: 20 }, () => catalogue.refresh()));
    expect(new Set(diffs).size).toBeLessThanOrEqual(2);
    expect(ids(catalogue)).toEqual(['new']);
  });

  test('follows added and replaced entries', async () => {
    const file = await put('a.gguf');
    const catalogue = await opened();
    expect(await catalogue.add({ id: 'twin', source: file })).toMatchObject({ added: ['twin'] });
    expect(await catalogue.configure([])).toMatchObject({ removed: ['twin'] });
  });
});

describe('removal', () => {
  test('deletes what was pulled, with its note', async () => {
    const source = await put('elsewhere/origin.gguf');
    await pull(source, { modelsDir, name: 'pulled' });
    const catalogue = await opened();
    expect(catalogue.find('pulled')).toMatchObject({ pulled: true, source, sha256: await catalogue.digest('origin') });
    expect(await catalogue.remove('pulled')).toMatchObject({ removed: ['pulled'] });
    expect(await readdir(path.join(modelsDir, '.pulled'))).toEqual([]);
    expect(ids(catalogue)).toEqual(['origin']);
  });

  test('leaves everything else, and says why', async () => {
    const mine = await put('mine.gguf');
    const { path: pulled } = await pull(mine, { modelsDir, name: 'pulled' });
    const catalogue = await opened();
    await expect(catalogue.remove('mine')).rejects.toMatchObject({
      code: 'invalid_request',
      message: expect.stringContaining('not pulled by Berth') as string,
    });
    await catalogue.add({ id: 'other', source: pulled });
    await expect(catalogue.remove('pulled')).rejects.toMatchObject({
      message: expect.stringContaining('other uses the same file') as string,
    });
    await catalogue.configure([{ id: 'pulled', source: pulled }]);
    await expect(catalogue.remove('pulled')).rejects.toMatchObject({
      message: expect.stringContaining('configuration') as string,
    });
    expect(await readdir(modelsDir)).toEqual(expect.arrayContaining(['mine.gguf', 'pulled.gguf']));
  });

  test('a pulled file that somebody changed since is theirs', async () => {
    const { path: pulled } = await pull(await put('elsewhere/x.gguf'), { modelsDir });
    await utimes(pulled, 1, 1);
    const catalogue = await opened();
    await expect(catalogue.remove('x')).rejects.toMatchObject({ code: 'invalid_request' });
  });
});

test('any file name gives an id that is a valid name and a plain file name', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), (text) => {
      const id = idOfFile(`${text}.gguf`);
      expect(checkName(id)).toBe(id);
      expect(path.basename(id)).toBe(id);
    }),
  );
});
