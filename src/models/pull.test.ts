import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { startFakeHub } from '../../test/fake-hub.ts';
import type { FakeHub } from '../../test/fake-hub.ts';
import { TINY_METADATA, tinyGguf } from '../../test/tiny-gguf.ts';
import type { PullProgress } from './progress.ts';
import { parseSource, pull } from './pull.ts';
import type { PullOptions } from './pull.ts';

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
/** A quarter of a megabyte, so that it travels in several pieces. */
const MODEL = tinyGguf({ tensors: [{ name: 'w', shape: [65_536], bytes: 262_144 }] });
const LIMITS = { backoffMillis: 1, fruitlessAttempts: 3, stallMillis: 5_000 };

let hub: FakeHub;
let modelsDir: string;
beforeEach(async () => {
  vi.stubEnv('HF_TOKEN', '').stubEnv('HF_ENDPOINT', '');
  modelsDir = await mkdtemp(path.join(os.tmpdir(), 'berth-pull-'));
  hub = await startFakeHub({
    'Tiny-Q4_K_M.gguf': MODEL,
    'Tiny-Q8_0.gguf': tinyGguf(),
    'mmproj-F16.gguf': tinyGguf(),
    'README.md': Buffer.from('hi'),
  });
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await hub.close();
  await rm(modelsDir, { recursive: true });
});

const options = (more: Partial<PullOptions> = {}): PullOptions => ({
  modelsDir,
  hubUrl: hub.url,
  limits: LIMITS,
  ...more,
});
const models = async (): Promise<string[]> => (await readdir(modelsDir)).filter((file) => file.endsWith('.gguf'));
const leftovers = (): Promise<string[]> => readdir(path.join(modelsDir, '.partial'));
const ranges = (): (string | null)[] =>
  hub.requests.filter(({ path: at }) => at.startsWith('/files/')).map(({ range }) => range);

/** Progress that settles promises: `reached(n)` when n bytes were received. */
function milestones(): { onProgress: (progress: PullProgress) => void; reached: (bytes: number) => Promise<void> } {
  const waiting: { bytes: number; resolve: () => void }[] = [];
  return {
    onProgress: ({ receivedBytes }) => {
      for (const { bytes, resolve } of waiting) if (receivedBytes >= bytes) resolve();
    },
    reached: (bytes) => new Promise((resolve) => waiting.push({ bytes, resolve })),
  };
}

describe('from a hub', () => {
  test('the preferred file is chosen, proven and published with a note', async () => {
    const seen: PullProgress[] = [];
    const pulled = await pull('hf:org/tiny', options({ onProgress: (progress) => seen.push(progress) }));
    expect(pulled).toMatchObject({
      id: 'tiny-q4_k_m',
      sizeBytes: MODEL.length,
      sha256: sha256(MODEL),
      alreadyThere: false,
    });
    expect(await readFile(pulled.path)).toEqual(MODEL);
    expect(await leftovers()).toEqual([]);
    expect(new Set(seen.map(({ phase }) => phase))).toEqual(new Set(['resolving', 'downloading', 'verifying', 'done']));
    const last = seen.findLast(({ phase }) => phase === 'downloading');
    expect(last).toMatchObject({ receivedBytes: MODEL.length, totalBytes: MODEL.length });
  });

  test('a second pull fetches nothing', async () => {
    await pull('hf:org/tiny', options());
    const before = ranges().length;
    expect(await pull('hf:org/tiny', options())).toMatchObject({ alreadyThere: true, sha256: sha256(MODEL) });
    expect(ranges()).toHaveLength(before);
  });

  test('a connection that is cut goes on where it broke', async () => {
    const { onProgress, reached } = milestones();
    hub.faults.push(
      { cutAfterBytes: 100_000, cutWhen: reached(100_000) },
      { cutAfterBytes: 50_000, cutWhen: reached(150_000) },
    );
    await pull('hf:org/tiny', options({ onProgress }));
    expect(ranges()).toEqual([null, 'bytes=100000-', 'bytes=150000-']);
    expect(await readFile(path.join(modelsDir, 'tiny-q4_k_m.gguf'))).toEqual(MODEL);
  });

  test('a pull that was stopped goes on in the next one', async () => {
    hub.faults.push({ cutAfterBytes: 100_000, cutWhen: Promise.withResolvers<void>().promise });
    const control = new AbortController();
    const onProgress = ({ receivedBytes }: PullProgress): void => {
      if (receivedBytes > 0) control.abort();
    };
    await expect(pull('hf:org/tiny', options({ signal: control.signal, onProgress }))).rejects.toMatchObject({
      code: 'request_cancelled',
    });
    expect(await models()).toEqual([]);
    const { size } = await stat(path.join(modelsDir, '.partial', 'tiny-q4_k_m.gguf.part'));
    await pull('hf:org/tiny', options());
    expect(ranges().at(-1)).toBe(`bytes=${size}-`);
    expect(await readFile(path.join(modelsDir, 'tiny-q4_k_m.gguf'))).toEqual(MODEL);
  });

  test('a busy server is asked again, a failing one not for ever', async () => {
    hub.faults.push({ status: 503 }, { status: 429 });
    await pull('hf:org/tiny:Q8_0', options());
    hub.faults.push({ status: 503 }, { status: 503 }, { status: 503 }, { status: 503 });
    await expect(pull('hf:org/tiny', options())).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.stringContaining('503') as string,
    });
  });

  test('another content than promised is refused and leaves nothing', async () => {
    hub.lies.set('Tiny-Q4_K_M.gguf', '0'.repeat(64));
    await expect(pull('hf:org/tiny', options())).rejects.toMatchObject({ code: 'checksum_mismatch' });
    expect([await models(), await leftovers()]).toEqual([[], []]);
  });

  test.each([
    ['hf:org/tiny:Q2_K', 'not_found', /Tiny-Q4_K_M\.gguf, Tiny-Q8_0\.gguf/],
    ['hf:org/none', 'not_found', /org\/none/],
    ['hf:nonsense', 'invalid_request', /hf:ORG\/REPO/],
    ['hf:org/tiny:../secret', 'invalid_request', /hf:ORG\/REPO/],
  ])('%s: %s', async (source, code, message) => {
    await expect(pull(source, options())).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message) as string,
    });
  });

  test('several files that fit are listed', async () => {
    hub.files.set('other/Tiny2-Q4_K_M.gguf', MODEL);
    await expect(pull('hf:org/tiny', options())).rejects.toMatchObject({
      code: 'invalid_request',
      message: expect.stringMatching(/several that fit: .*Tiny-Q4_K_M/) as string,
    });
    expect(await pull('hf:org/tiny:other/Tiny2-Q4_K_M.gguf', options())).toMatchObject({ id: 'tiny2-q4_k_m' });
  });

  test('the token of the environment opens a private repository; without it the message names HF_TOKEN', async () => {
    hub.token = 'hf_secret';
    await expect(pull('hf:org/tiny', options())).rejects.toMatchObject({
      code: 'forbidden',
      message: expect.stringContaining('HF_TOKEN') as string,
    });
    vi.stubEnv('HF_TOKEN', 'hf_secret').stubEnv('HF_ENDPOINT', hub.url);
    await pull('hf:org/tiny', { modelsDir, limits: LIMITS });
    expect(await models()).toEqual(['tiny-q4_k_m.gguf']);
    expect(await readFile(path.join(modelsDir, '.pulled', 'tiny-q4_k_m.gguf.json'), 'utf8')).not.toContain('hf_secret');
  });

  test('too little room on the disk is said before a byte is fetched', async () => {
    await expect(pull('hf:org/tiny', options({ freeBytes: () => Promise.resolve(1_000) }))).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.stringMatching(/not enough room .* 1000 are free/) as string,
    });
    expect(await leftovers()).toEqual([]);
  });
});

describe('from an address', () => {
  test('is resumed under the guard of its ETag, and starts again when the file changed', async () => {
    const source = `${hub.url}/files/Tiny-Q4_K_M.gguf`;
    const { onProgress, reached } = milestones();
    const once = options({ onProgress, limits: { ...LIMITS, attempts: 1 } });
    hub.faults.push({ cutAfterBytes: 100_000, cutWhen: reached(100_000) });
    await expect(pull(source, once)).rejects.toMatchObject({ code: 'download_failed' });
    const changed = tinyGguf({
      metadata: { ...TINY_METADATA, 'general.name': 'Second' },
      tensors: [{ name: 'w', shape: [65_536], bytes: 262_144 }],
    });
    hub.files.set('Tiny-Q4_K_M.gguf', changed);
    await pull(source, options());
    expect(await readFile(path.join(modelsDir, 'tiny-q4_k_m.gguf'))).toEqual(changed);
    expect(ranges()).toEqual([null, 'bytes=100000-']);
  });

  test('a checksum in the address is proven', async () => {
    const source = `${hub.url}/files/Tiny-Q8_0.gguf`;
    await expect(pull(`${source}#sha256=${'1'.repeat(64)}`, options())).rejects.toMatchObject({
      code: 'checksum_mismatch',
    });
    await pull(`${source}#sha256=${sha256(tinyGguf())}`, options({ name: 'Eight' }));
    expect(await models()).toEqual(['eight.gguf']);
  });

  test('what is no model never appears', async () => {
    await expect(pull(`${hub.url}/files/README.md`, options())).rejects.toMatchObject({ code: 'model_file_invalid' });
    hub.files.set('cut.gguf', MODEL.subarray(0, 5_000));
    await expect(pull(`${hub.url}/files/cut.gguf`, options())).rejects.toMatchObject({
      code: 'model_file_invalid',
      message: expect.stringMatching(/cut\.gguf: the file is cut short: it has 5000 bytes/) as string,
    });
    expect([await models(), await leftovers()]).toEqual([[], []]);
  });

  test('404 is not asked for twice', async () => {
    await expect(pull(`${hub.url}/files/none.gguf`, options())).rejects.toMatchObject({ code: 'not_found' });
    expect(hub.requests).toHaveLength(1);
  });

  test.each([
    'http://example.com/x.gguf',
    'https://me:secret@example.com/x.gguf',
    'ftp://example.com/x.gguf',
    'https://',
    '',
  ])('%s is refused', (source) => {
    expect(() => parseSource(source)).toThrow(expect.objectContaining({ code: 'invalid_request' }) as Error);
  });

  test('a query, which may hold a signature, is not kept', () => {
    expect(parseSource('https://example.com/x.gguf?sig=secret')).toMatchObject({ label: 'https://example.com/x.gguf' });
  });
});

describe('from a path', () => {
  let file: string;
  beforeEach(async () => {
    await mkdir(path.join(modelsDir, 'elsewhere'));
    file = path.join(modelsDir, 'elsewhere', 'My Model.gguf');
    await writeFile(file, MODEL);
  });

  test('is copied under a clean name', async () => {
    expect(await pull(file, options())).toMatchObject({ id: 'my-model', sha256: sha256(MODEL) });
    expect(await models()).toEqual(['my-model.gguf']);
  });

  test('may be linked', async () => {
    const { path: target } = await pull(file, options({ link: true, name: 'linked' }));
    await expect(readFile(target)).resolves.toEqual(MODEL);
    await rm(file);
    await expect(readFile(target)).rejects.toThrow('ENOENT');
  });

  test('is refused when it is missing or damaged', async () => {
    await expect(pull(path.join(modelsDir, 'none.gguf'), options())).rejects.toMatchObject({
      code: 'model_file_missing',
    });
    await writeFile(file, MODEL.subarray(0, 1_000));
    await expect(pull(file, options())).rejects.toMatchObject({ code: 'model_file_invalid' });
  });

  test('never replaces a file that Berth did not bring', async () => {
    await writeFile(path.join(modelsDir, 'mine.gguf'), 'precious');
    await expect(pull(file, options({ name: 'mine' }))).rejects.toMatchObject({ code: 'invalid_request' });
    expect(await readFile(path.join(modelsDir, 'mine.gguf'), 'utf8')).toBe('precious');
  });

  test.each(['../evil', 'a/b', '.hidden', 'a b', '', 'x'.repeat(200)])('the name %j is refused', async (name) => {
    await expect(pull(file, options({ name }))).rejects.toMatchObject({ code: 'invalid_request', param: 'name' });
  });
});

describe('several at once', () => {
  test('two pulls of one source share one download', async () => {
    const both = await Promise.all([pull('hf:org/tiny', options()), pull('hf:org/tiny', options())]);
    expect(both[0]).toEqual(both[1]);
    expect(ranges()).toHaveLength(1);
  });

  test('one that leaves does not stop the other', async () => {
    const control = new AbortController();
    const left = pull('hf:org/tiny', options({ signal: control.signal }));
    const stays = pull('hf:org/tiny', options());
    control.abort();
    await expect(left).rejects.toMatchObject({ code: 'request_cancelled' });
    await expect(stays).resolves.toMatchObject({ alreadyThere: false });
  });

  test('two sources for one name: the second is told who holds it', async () => {
    const first = pull('hf:org/tiny:Q8_0', options({ name: 'same' }));
    const second = pull(`${hub.url}/files/Tiny-Q4_K_M.gguf`, options({ name: 'same' }));
    const outcomes = await Promise.allSettled([first, second]);
    expect(outcomes.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected']);
    expect(outcomes.find(({ status }) => status === 'rejected')).toMatchObject({ reason: { code: 'invalid_request' } });
  });

  test('a lock of a process that is gone is taken over, one of a process that lives is not', async () => {
    await mkdir(path.join(modelsDir, '.partial'), { recursive: true });
    const lock = path.join(modelsDir, '.partial', 'tiny-q8_0.gguf.lock');
    await writeFile(lock, String(process.ppid));
    await expect(pull('hf:org/tiny:Q8_0', options())).rejects.toMatchObject({
      message: expect.stringContaining(`process ${process.ppid}`) as string,
    });
    await writeFile(lock, '999999999');
    await pull('hf:org/tiny:Q8_0', options());
    expect(await leftovers()).toEqual([]);
  });

  test('a link in place of the models folder is followed', async () => {
    const alias = path.join(modelsDir, 'alias');
    await mkdir(path.join(modelsDir, 'real'));
    await symlink(path.join(modelsDir, 'real'), alias);
    await pull('hf:org/tiny', options({ modelsDir: alias }));
    expect(await readdir(path.join(modelsDir, 'real'))).toContain('tiny-q4_k_m.gguf');
  });
});
