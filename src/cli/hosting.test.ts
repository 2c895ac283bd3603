import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { loadConfig } from '../config.ts';
import type { BerthConfig } from '../config.ts';
import { createFakeEngine } from '../engines/fake.ts';
import { configurationOf } from './hosting.ts';

const folder = mkdtempSync(join(tmpdir(), 'berth-hosting-'));
afterAll(() => rmSync(folder, { recursive: true }));

const gpu = (index: number) => ({
  index,
  uuid: `GPU-${index}`,
  name: 'H100',
  memoryBytes: 80_000,
  freeBytes: 80_000,
});
const machine = {
  totalMemoryBytes: 100_000,
  usableMemoryBytes: 100_000,
  cores: 4,
  home: '/home/somebody',
  packageDir: '/home/somebody/berth',
  gpus: () => [gpu(0), gpu(1)],
};

const configOf = (yaml: string): BerthConfig => {
  const path = join(folder, 'berth.yaml');
  writeFileSync(path, yaml);
  return loadConfig({ path, env: {}, cwd: folder, machine }).config;
};

/** Which models each device lists. */
function listed(config: BerthConfig, made: string[] = []): Record<string, string[]> {
  const { devices, order } = configurationOf({
    config,
    found: [],
    // Files and folders are hosted alike.
    served: config.models.map((model) => ({ model, facts: null, adapters: [] })),
    engines: {
      of: (name, { id }) => {
        made.push(`${name} ${id}`);
        return createFakeEngine();
      },
      remote: () => createFakeEngine(),
    },
    usualEngine: null,
    tenants: [],
  });
  expect(order).toEqual(config.models.map(({ id }) => id));
  return Object.fromEntries(devices.map(({ id, models }) => [id, models.map((model) => model.id)]));
}
const MODELS = `
models:
  big: {engine: vllm, source: ./big}
  small: {engine: llamacpp, source: ./small.gguf}
  mine: {engine: vllm, source: ./mine, device: last}
  odd: {engine: llamacpp, source: ./odd.gguf, device: first}
  far: {remote: {url: 'https://there.example/v1'}}
`;

test('a model may be on all devices of the kind that its engine computes on, or on the one that it names', () => {
  const yaml = `devices: [{id: first, gpu: 0}, {id: last, gpu: 1}, {id: cpu}]${MODELS}`;
  expect(listed(configOf(yaml))).toEqual({
    first: ['big', 'odd', 'far'],
    last: ['big', 'mine'],
    cpu: ['small'],
  });
});

test('where all devices are of one kind, all engines compute there', () => {
  expect(listed(configOf(`devices: [{id: first}, {id: last}]${MODELS}`))).toEqual({
    first: ['big', 'small', 'odd', 'far'],
    last: ['big', 'small', 'mine'],
  });
});

test('each device has an engine of its own', () => {
  const made: string[] = [];
  listed(configOf(`devices: [{id: first}, {id: last}]${MODELS}`), made);
  expect(new Set(made)).toEqual(new Set(['vllm first', 'vllm last', 'llamacpp first', 'llamacpp last']));
});
