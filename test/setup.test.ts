import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';

interface Setup {
  installStamp(root: string): string;
  installedMatches(root: string): boolean;
  pinnedNode(root: string, running?: { execPath: string; version: string }): string;
  modelInPlace(modelsDir: string, model: { name: string; sizeBytes: number; sha256: string }): boolean;
}

const repository = path.dirname(import.meta.dirname);
const setup = (await import(pathToFileURL(path.join(repository, 'scripts', 'setup.mjs')).href)) as Setup;

let root: string;
beforeEach(() => {
  root = mkdtempSync(path.join(os.tmpdir(), 'berth-setup-'));
});
afterEach(() => rmSync(root, { recursive: true }));

function write(file: string, content: unknown): string {
  const target = path.join(root, file);
  mkdirSync(path.dirname(target), { recursive: true });
  writeFileSync(target, typeof content === 'string' ? content : JSON.stringify(content));
  return target;
}

describe('dependencies', () => {
  const here = { os: [process.platform], cpu: [process.arch] };
  const lock = (packages: object): void => void write('package-lock.json', { packages: { '': {}, ...packages } });
  const installed = (packages: object): void => void write('node_modules/.package-lock.json', { packages });

  test('that somebody installed are taken over if they are what the lock file asks for', () => {
    lock({
      'node_modules/a': { version: '1.0.0' },
      'node_modules/b': { version: '2.0.0', optional: true, os: ['aix'], cpu: ['ppc64'] },
    });
    installed({ 'node_modules/a': { version: '1.0.0' } });
    expect(setup.installedMatches(root)).toBe(true);
  });

  test.each([
    ['another version', { 'node_modules/a': { version: '1.0.1' } }],
    ['a package too many', { 'node_modules/a': { version: '1.0.0' }, 'node_modules/z': { version: '1.0.0' } }],
    ['one missing', {}],
  ])('%s: they are installed again', (_, packages) => {
    lock({ 'node_modules/a': { version: '1.0.0' } });
    installed(packages);
    expect(setup.installedMatches(root)).toBe(false);
  });

  test('without the optional package of this very platform (npm --omit=optional) they are not complete', () => {
    lock({ 'node_modules/node-here': { version: '24.0.0', optional: true, ...here } });
    installed({});
    expect(setup.installedMatches(root)).toBe(false);
  });

  test('nothing installed is no match', () => {
    lock({});
    expect(setup.installedMatches(root)).toBe(false);
  });

  test('a changed lock file changes the stamp', () => {
    lock({});
    const before = setup.installStamp(root);
    lock({ 'node_modules/a': { version: '1.0.0' } });
    expect(setup.installStamp(root)).not.toBe(before);
  });
});

describe('Node', () => {
  test('is the pinned one where there is one', () => {
    const pinned = write('node_modules/.bin/node', '');
    expect(setup.pinnedNode(root, { execPath: '/old/node', version: '18.0.0' })).toBe(pinned);
  });

  test('is the running one elsewhere, if it is new enough', () => {
    expect(setup.pinnedNode(root, { execPath: '/some/node', version: '22.18.0' })).toBe('/some/node');
    expect(setup.pinnedNode(root, { execPath: '/some/node', version: '26.1.0' })).toBe('/some/node');
    expect(() => setup.pinnedNode(root, { execPath: '/some/node', version: '22.17.9' })).toThrow('Node 22.18 or newer');
  });
});

test('a model is in place only as the puller left it', () => {
  const model = { name: 'tiny', sizeBytes: 5, sha256: 'abc' };
  expect(setup.modelInPlace(root, model)).toBe(false);
  const { mtimeMs } = statSync(write('tiny.gguf', '12345'));
  expect(setup.modelInPlace(root, model)).toBe(false);
  const note = { sizeBytes: 5, sha256: 'abc', mtimeMillis: Math.trunc(mtimeMs) };
  write('.pulled/tiny.gguf.json', note);
  expect(setup.modelInPlace(root, model)).toBe(true);
  expect(setup.modelInPlace(root, { ...model, sha256: 'def' })).toBe(false);
  write('.pulled/tiny.gguf.json', { ...note, mtimeMillis: 1 });
  expect(setup.modelInPlace(root, model)).toBe(false);
});

test('an unknown command is named', () => {
  const { status, stderr } = spawnSync(process.execPath, [path.join(repository, 'scripts', 'setup.mjs'), 'fly'], {
    encoding: 'utf8',
  });
  expect([status, stderr]).toEqual([1, expect.stringContaining('`fly`')]);
});

describe('bin/berth', () => {
  const launcher = path.join(repository, 'bin', 'berth');

  test('finds its clone and its Node through links, from any folder, and hands on arguments and exit code', () => {
    cpSync(launcher, path.join(root, 'clone with space', 'bin', 'berth'));
    const node = write('clone with space/node_modules/.bin/node', '#!/bin/sh\nprintf "%s|" "$@"\nexit 7\n');
    chmodSync(node, 0o755);
    mkdirSync(path.join(root, 'links'));
    symlinkSync(path.join('..', 'clone with space', 'bin', 'berth'), path.join(root, 'links', 'inner'));
    symlinkSync(path.join(root, 'links', 'inner'), path.join(root, 'outer'));
    const { status, stdout } = spawnSync(path.join(root, 'outer'), ['run', 'a b'], {
      encoding: 'utf8',
      cwd: os.tmpdir(),
    });
    const main = path.join(root, 'clone with space', 'src', 'cli', 'main.ts');
    expect([status, stdout]).toEqual([7, `${main}|run|a b|`]);
  });
});
