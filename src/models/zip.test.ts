import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeZip } from '../../test/make-zip.ts';
import { listZip, readZipEntry, readZipText } from './zip.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'berth-zip-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function write(bytes: Buffer): Promise<string> {
  const file = path.join(folder, 'a.zip');
  await writeFile(file, bytes);
  return file;
}
async function readAll(file: string, name: string): Promise<Buffer> {
  const entry = (await listZip(file)).find((candidate) => candidate.name === name);
  if (entry === undefined) throw new Error(`no ${name}`);
  const chunks: Buffer[] = [];
  for await (const chunk of readZipEntry(file, entry)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

const LONG = Buffer.from('berth '.repeat(100_000));

test('stored, deflated and empty entries are read back', async () => {
  const file = await write(
    makeZip({
      'a/stored': { bytes: LONG, stored: true },
      'a/packed': { bytes: LONG },
      'a/empty': { bytes: Buffer.alloc(0) },
    }),
  );
  expect((await listZip(file)).map(({ name, sizeBytes }) => [name, sizeBytes])).toEqual([
    ['a/stored', LONG.length],
    ['a/packed', LONG.length],
    ['a/empty', 0],
  ]);
  for (const name of ['a/stored', 'a/packed']) expect(await readAll(file, name)).toEqual(LONG);
  expect(await readAll(file, 'a/empty')).toHaveLength(0);
  const [, packed] = await listZip(file);
  if (packed !== undefined) expect(await readZipText(file, packed)).toBe(LONG.toString());
});

test('a damaged byte is noticed', async () => {
  const bytes = makeZip({ x: { bytes: LONG, stored: true } });
  bytes[1_000] = 0;
  await expect(readAll(await write(bytes), 'x')).rejects.toMatchObject({
    code: 'download_failed',
    message: expect.stringContaining('damaged') as string,
  });
  const packed = makeZip({ x: { bytes: LONG } });
  packed.fill(0xff, 40, 80);
  await expect(readAll(await write(packed), 'x')).rejects.toMatchObject({ code: 'download_failed' });
});

test('an entry that holds more than it promises is stopped', async () => {
  const file = await write(makeZip({ x: { bytes: LONG } }));
  const [entry] = await listZip(file);
  if (entry === undefined) throw new Error('no entry');
  const read = async (): Promise<void> => {
    for await (const _ of readZipEntry(file, { ...entry, sizeBytes: 10 }));
  };
  await expect(read()).rejects.toMatchObject({ message: expect.stringContaining('more than the 10 bytes') as string });
});

test('an archive that was cut has no directory', async () => {
  const bytes = makeZip({ x: { bytes: LONG } });
  await expect(listZip(await write(bytes.subarray(0, -30)))).rejects.toMatchObject({
    code: 'download_failed',
    message: expect.stringContaining('directory is missing') as string,
  });
});
