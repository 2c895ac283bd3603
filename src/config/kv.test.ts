import { expect, test } from 'vitest';
import { kvConfig } from './kv.ts';
import { readMachine } from './machine.ts';
import type { Machine, Volume } from './machine.ts';

const GIB = 2 ** 30;
const nothing = { hostMemory: null, disk: null, folder: '/home/kv', hostFolder: null, minimumTokens: 64 };

function machineWith(volumes: Readonly<Record<string, Volume>>): Machine {
  return {
    totalMemoryBytes: 64 * GIB,
    usableMemoryBytes: 20 * GIB,
    cores: 4,
    home: '/home',
    packageDir: '/home/berth',
    volumeOf: (folder) => volumes[folder] ?? null,
  };
}
const roomy = machineWith({
  '/dev/shm': { freeBytes: 10 * GIB, isMemory: true },
  '/home/kv': { freeBytes: 900 * GIB, isMemory: false },
});

test('without a word, a tenth of the memory and ten gigabytes of a large disk', () => {
  expect(kvConfig(nothing, roomy)).toEqual({
    hostBytes: 2 * GIB,
    hostFolder: expect.stringMatching(/^\/dev\/shm\/berth-[0-9a-f]{16}$/) as string,
    diskBytes: 10 * GIB,
    diskFolder: '/home/kv',
    minimumTokens: 64,
  });
});

test('little is free: half of the memory file system and a tenth of the disk', () => {
  const tight = machineWith({
    '/dev/shm': { freeBytes: GIB, isMemory: true },
    '/home/kv': { freeBytes: 5 * GIB, isMemory: false },
  });
  expect(kvConfig(nothing, tight)).toMatchObject({ hostBytes: GIB / 2, diskBytes: GIB / 2 });
});

test('where /dev/shm is no memory there is no host tier, unless a folder is named', () => {
  const without = machineWith({
    '/dev/shm': { freeBytes: 10 * GIB, isMemory: false },
    '/ram': { freeBytes: 2 * GIB, isMemory: true },
  });
  expect(kvConfig({ ...nothing, hostMemory: GIB }, without)).toMatchObject({ hostBytes: 0, hostFolder: null });
  expect(kvConfig({ ...nothing, hostFolder: '/ram' }, without)).toMatchObject({
    hostBytes: GIB,
    hostFolder: expect.stringMatching(/^\/ram\/berth-/) as string,
  });
});

test('what was set holds, and zero turns a tier off', () => {
  const off = kvConfig({ ...nothing, hostMemory: 0, disk: 0 }, roomy);
  expect(off).toMatchObject({ hostBytes: 0, hostFolder: null, diskBytes: 0 });
  expect(kvConfig({ ...nothing, hostMemory: 5, disk: 7 }, roomy)).toMatchObject({ hostBytes: 5, diskBytes: 7 });
});

test('two nodes on one machine have two folders in memory, one node the same again', () => {
  const first = kvConfig(nothing, roomy).hostFolder;
  expect(kvConfig({ ...nothing, folder: '/other/kv' }, roomy).hostFolder).not.toBe(first);
  expect(kvConfig(nothing, roomy).hostFolder).toBe(first);
});

test('a folder that is not there yet has the volume of the one above', () => {
  const { volumeOf } = readMachine();
  const here = volumeOf?.(import.meta.dirname);
  expect(here?.freeBytes).toBeGreaterThan(0);
  expect(volumeOf?.(`${import.meta.dirname}/no/such/folder`)?.isMemory).toBe(here?.isMemory);
});
