import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { kvEntryId, tenantId } from '../core/ids.ts';
import { writeKvFile } from '../engines/kv-file.ts';
import { openKvFolder } from './files.ts';
import type { KvFolder } from './files.ts';
import { ensureSecret } from './secret.ts';

let root = '';
let warnings: string[] = [];
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'berth-kv-'));
  warnings = [];
});
afterEach(() => {
  chmodSync(root, 0o700);
  rmSync(root, { recursive: true, force: true });
});

const warn = (_: object, message: string): void => void warnings.push(message);
const idOf = (letter: string) => kvEntryId(letter.repeat(22));
const TENANT = 'T'.repeat(22);
const never = new AbortController().signal;

function openIn(name = 'kv'): KvFolder {
  const folder = openKvFolder(join(root, name), warn);
  if (folder === null) throw new Error(warnings.join());
  return folder;
}
/** Writes a whole file as an engine does; `age` in seconds. */
function put(folder: KvFolder, letter: string, age = 0, tenant = TENANT): string {
  folder.ensure(tenant);
  const path = folder.pathOf(tenant, idOf(letter));
  const head = { entryId: idOf(letter), tenantId: tenantId('a'), fingerprint: 'f', engine: 'e', label: {} };
  writeKvFile(path, head, Int32Array.of(1, 2, 3), new Uint8Array(1000));
  const then = new Date(Date.now() - age * 1000);
  utimesSync(path, then, then);
  return path;
}
async function scan(folder: KvFolder, budgetBytes = 1e9) {
  const seen = { totals: [] as number[], files: [] as string[], shed: 0 };
  await folder.scan(
    budgetBytes,
    {
      onTotal: (bytes) => seen.totals.push(bytes),
      onFile: ({ head }) => seen.files.push(head.entryId.slice(0, 1)) > 0,
      onShed: (bytes) => (seen.shed += bytes),
    },
    never,
  );
  return seen;
}

test('folders and files are closed to others', () => {
  const folder = openIn();
  const path = put(folder, 'a');
  const modes = [path, dirname(path), join(root, 'kv')].map((one) => statSync(one).mode & 0o777);
  expect(modes).toEqual([0o600, 0o700, 0o700]);
});

test('a scan tells whole files, the oldest first, and removes what is broken, cut off, or another’s', async () => {
  const folder = openIn();
  put(folder, 'a', 10);
  put(folder, 'b', 20);
  truncateSync(put(folder, 'c'), 900);
  const swapped = put(folder, 'd');
  writeFileSync(folder.pathOf(TENANT, idOf('e')), readFileSync(swapped));
  writeFileSync(folder.pathOf(TENANT, idOf('f')), 'BERTHKV1 is how it begins');
  writeFileSync(`${folder.pathOf(TENANT, idOf('g'))}.part`, 'half');
  writeFileSync(join(root, 'kv', TENANT, 'notes.txt'), 'a person’s own');
  const seen = await scan(folder);
  expect(seen.files).toEqual(['b', 'a', 'd']);
  expect(readdirSync(join(root, 'kv', TENANT)).toSorted()).toEqual(
    [...['a', 'b', 'd'].map((letter) => `${idOf(letter)}.kv`), 'notes.txt'].toSorted(),
  );
  expect((seen.totals[0] ?? 0) - seen.shed).toBe(
    ['a', 'b', 'd'].reduce((sum, letter) => sum + statSync(folder.pathOf(TENANT, idOf(letter))).size, 0),
  );
});

test('over the budget the oldest go first', async () => {
  const folder = openIn();
  const bytes = statSync(put(folder, 'a', 30)).size;
  put(folder, 'b', 20);
  put(folder, 'c', 10);
  const seen = await scan(folder, 2 * bytes + 1);
  expect(seen.files).toEqual(['b', 'c']);
  expect(seen.totals).toEqual([2 * bytes]);
});

test('what is not ours is left alone, even at the end', async () => {
  const folder = openIn('shared');
  writeFileSync(join(root, 'shared', 'other.kv'), 'x');
  mkdirSync(join(root, 'shared', 'project'));
  writeFileSync(join(root, 'shared', 'project', 'data.kv'), 'x');
  put(folder, 'a');
  await scan(folder);
  await folder.close({ remove: true });
  expect(readdirSync(join(root, 'shared')).toSorted()).toEqual(['other.kv', 'project']);
  expect(existsSync(join(root, 'shared', 'project', 'data.kv'))).toBe(true);
});

test('a file is taken in whole, closed to others, and as old as it was', async () => {
  const [host, disk] = [openIn('host'), openIn('disk')];
  const source = put(host, 'a', 100);
  expect(await disk.takeIn(source, TENANT, idOf('a'))).toBe('done');
  const copy = disk.pathOf(TENANT, idOf('a'));
  expect(readFileSync(copy)).toEqual(readFileSync(source));
  expect(statSync(copy).mode & 0o777).toBe(0o600);
  expect(Math.abs(statSync(copy).mtimeMs - statSync(source).mtimeMs)).toBeLessThan(10);
  expect(readdirSync(dirname(copy))).toHaveLength(1);
});

test('moving what is gone is no failure; a folder that can’t be made is one, told once', async () => {
  const [host, disk] = [openIn('host'), openIn('disk')];
  expect(await disk.takeIn(host.pathOf(TENANT, idOf('a')), TENANT, idOf('a'))).toBe('gone');
  const source = put(host, 'a');
  writeFileSync(join(root, 'disk', 'U'.repeat(22)), 'in the way');
  for (let times = 0; times < 3; times++) {
    expect(await disk.takeIn(source, 'U'.repeat(22), idOf('a'))).toBe('failed');
  }
  expect(warnings).toHaveLength(1);
  expect(existsSync(source)).toBe(true);
});

test('removing twice is as good as once', async () => {
  const folder = openIn();
  put(folder, 'a');
  writeFileSync(`${folder.pathOf(TENANT, idOf('a'))}.part`, 'half');
  expect(await folder.remove(TENANT, idOf('a'))).toBe(true);
  expect(await folder.remove(TENANT, idOf('a'))).toBe(true);
  expect(readdirSync(join(root, 'kv', TENANT))).toEqual([]);
  await folder.removeTenant(TENANT);
  expect(existsSync(join(root, 'kv', TENANT))).toBe(false);
  expect(folder.ensure(TENANT)).toBe(true);
});

test('one living node a folder: a second is refused, a dead one’s lock is taken over', async () => {
  const first = openIn();
  expect(openKvFolder(join(root, 'kv'), warn)).toBeNull();
  await first.close({ remove: false });
  const lock = join(root, 'kv', 'lock');
  expect(existsSync(lock)).toBe(false);
  writeFileSync(lock, `${process.ppid}\n`);
  expect(openKvFolder(join(root, 'kv'), warn)).toBeNull();
  expect(warnings.at(-1)).toContain(`another node (process ${process.ppid})`);
  // The same process number, but a process that began at another time.
  if (process.platform === 'linux') {
    writeFileSync(lock, `${process.ppid} 1\n`);
    await openIn().close({ remove: false });
  }
  for (const stale of ['2147483000 5\n', 'nonsense', '']) {
    writeFileSync(lock, stale);
    await openIn().close({ remove: false });
  }
});

test('a link, or a file, in the folder’s place is refused', () => {
  symlinkSync(root, join(root, 'link'));
  writeFileSync(join(root, 'file'), '');
  expect(openKvFolder(join(root, 'link'), warn)).toBeNull();
  expect(openKvFolder(join(root, 'file'), warn)).toBeNull();
  expect(warnings).toHaveLength(2);
});

test('the secret is made once and kept to its owner; without a folder it lasts as long as the process', () => {
  const first = ensureSecret(root, warn);
  expect(first).toHaveLength(32);
  expect(Buffer.from(ensureSecret(root, warn))).toEqual(Buffer.from(first));
  expect(statSync(join(root, 'secret')).mode & 0o777).toBe(0o600);
  expect(Buffer.from(ensureSecret(null, warn))).not.toEqual(Buffer.from(first));
  expect(warnings).toEqual([]);
});
