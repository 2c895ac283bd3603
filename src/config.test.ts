import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { complaint, folder, load, machine } from '../test/support/config.ts';
import { launchTokens } from './config.ts';

test('without a file everything comes from the machine', () => {
  const { config, warnings } = load(null);
  expect(config.devices).toEqual([{ id: 'cpu', memoryBytes: 35_000, lanes: 4 }]);
  expect(config.modelsDir).toBe('/home/somebody/berth/.berth/models');
  expect(config.http).toMatchObject({ host: '127.0.0.1', port: 8420, adminPort: 8421, apiKeys: [] });
  expect(config.limits).toMatchObject({ queueRequests: 512, queueTimeoutMicros: 300e6 });
  expect(config.residency).toMatchObject({ keepAliveMicros: 300e6, sleepForMicros: 3600e6 });
  expect(config.kv).toMatchObject({
    diskFolder: '/home/somebody/berth/.berth/kv',
    hostFolder: null,
    minimumTokens: 64,
  });
  expect(config.models).toEqual([]);
  expect(warnings).toEqual([]);
});

test('KV folders and budgets: relative to the file, off by zero, and a host tier without a place is told', () => {
  const yaml = 'kv: {disk: 0, folder: ./cache, hostMemory: 1MiB, hostFolder: ./ram}\n';
  const ram = expect.stringMatching(/ram\/berth-[0-9a-f]{16}$/) as string;
  expect(load(yaml).config.kv).toMatchObject({ diskBytes: 0, diskFolder: join(folder, 'cache'), hostFolder: ram });
  expect(load('', { env: { BERTH_KV_DISK: '3GiB', BERTH_KV_FOLDER: '/k' } }).config.kv).toMatchObject({
    diskBytes: 3 * 2 ** 30,
    diskFolder: '/k',
  });
  expect(load('kv: {hostMemory: 1MiB}').warnings).toEqual([expect.stringContaining('kv.hostMemory is given')]);
});

test('installed as a package, the models lie in the home folder; BERTH_HOME overrules both', () => {
  const installed = { ...machine, packageDir: '/usr/lib/node_modules/berth' };
  expect(load(null, { machine: installed }).config.modelsDir).toBe('/home/somebody/.berth/models');
  expect(load(null, { env: { BERTH_HOME: '/data' } }).config.modelsDir).toBe('/data/models');
});

test('the example is valid, and names every section', () => {
  const example = readFileSync(new URL('../berth.example.yaml', import.meta.url), 'utf8');
  const { config } = load(example);
  expect(config.devices).toEqual([{ id: 'cpu', memoryBytes: 6 * 2 ** 30, lanes: 4 }]);
  expect(config.models.map((model) => model.id)).toEqual(['smollm2-135m', 'gemma3-270m']);
  expect(config.models[0]).toMatchObject({
    aliases: ['small', 'gpt-3.5-turbo'],
    pinned: true,
    kvTokens: 8192,
    source: null,
  });
  expect(config.models[1]).toMatchObject({ source: join(folder, 'models/gemma3-270m.gguf'), keepAliveMicros: 1800e6 });
});

test('models as a list and as a mapping mean the same', () => {
  const listed = load('models:\n  - id: a\n    source: ./a.gguf\n    context: 512\n  - id: b\n');
  const named = load('models:\n  a:\n    source: ./a.gguf\n    context: 512\n  b:\n');
  expect(named.config).toEqual(listed.config);
  expect(load('models:\n  a: hf:org/repo:a.gguf\n').config.models[0]?.source).toBe('hf:org/repo:a.gguf');
});

test('an empty file, and a section whose lines are all commented out, are no error', () => {
  expect(load('').config).toEqual(load(null).config);
  expect(load('models:\ndevice:\n  # lanes: 2\n').config).toEqual(load(null).config);
});

test('all errors are told, in the order of the file, with line, field, and what was expected', () => {
  const yaml = [
    'device:',
    '  memory: 0',
    '  lanes: -2',
    'models:',
    '  - id: a',
    '    contxt: 4096',
    '    parallel: "4"',
    '  - id: b',
    '    aliases: [a]',
    '    context: 2048',
    '    kv: 1024',
    'prot: 80',
    'port: 80',
    'http: 3',
  ].join('\n');
  expect(complaint(yaml)).toEqual([
    'berth.yaml:2 device.memory: expected a size such as 6GiB, 512MiB or a number of bytes, at least 1, received 0',
    'berth.yaml:3 device.lanes: expected a whole number from 1 to 4096, received -2',
    'berth.yaml:6 models.0.contxt: unknown field; did you mean `context`?',
    'berth.yaml:7 models.0.parallel: expected a whole number from 1 to 256, received "4"',
    'berth.yaml:9 models.1.aliases.0: the name a is taken by the model a',
    'berth.yaml:11 models.1.kv: expected at least the context (2048), received 1024',
    'berth.yaml:12 prot: unknown field; known here: models, tenants, devices, device, defaults, limits, residency, kv, http, pull, log, modelsDir',
    'berth.yaml:13 port: unknown field; did you mean `http.port`?',
    'berth.yaml:14 http: expected a mapping of fields, received 3',
  ]);
});

test('a name means one model', () => {
  const yaml =
    'models:\n  - id: a\n    aliases: [b]\n  - id: b\n  - id: a\n    kv: 1\n    context: 2\n  - id: "no spaces"\n';
  expect(complaint(yaml)).toEqual([
    'berth.yaml:3 models.0.aliases.0: the name b is taken by the model b',
    'berth.yaml:5 models.2.id: the name a is taken by the model a',
    'berth.yaml:6 models.2.kv: expected at least the context (2), received 1',
    expect.stringMatching(/^berth.yaml:8 models\.3\.id: expected a name of letters, digits, dots/),
  ]);
});

test.each([
  ['device: [', /berth\.yaml:1: no valid YAML/],
  ['device:\n  lanes: 1\n  lanes: 2\n', /berth\.yaml:3: no valid YAML: .*unique/],
  ['- 1\n', /expected a mapping of fields, received a list/],
  ['models: 3\n', /berth\.yaml:1 models: expected a list or a mapping of models, received 3/],
  ['models:\n  a: 7\n', /berth\.yaml:2 models\.a: expected a mapping of fields, received 7/],
  ['models:\n  - id:\n', /berth\.yaml:2 models\.0\.id: expected a name .*received nothing/],
  ['models:\n  - source: x\n', /berth\.yaml:2 models\.0\.id: expected a name/],
])('%j is refused', (yaml, message) => expect(complaint(yaml).join('\n')).toMatch(message));

test('a key is never shown', () => {
  expect(complaint('http:\n  apiKeys: 12345678\n')[0]).toContain('received a number');
});

test('flags are stronger than BERTH_, that than the file, that than neighbours’ variables', () => {
  const env = { BERTH_PORT: '2', OLLAMA_KEEP_ALIVE: '1m', OLLAMA_NUM_PARALLEL: '2' };
  const yaml = 'http: {port: 3}\nresidency: {keepAlive: 2m}\n';
  const { config } = load(yaml, { flags: { 'http.port': '1' }, env });
  expect(config.http.port).toBe(1);
  expect(config.residency.keepAliveMicros).toBe(120e6);
  expect(config.defaults.parallel).toBe(2);
  expect(load(yaml, { env }).config.http.port).toBe(2);
  expect(load('', { env: { ...env, OLLAMA_KEEP_ALIVE: '-1' } }).config.residency.keepAliveMicros).toBe(-1);
});

test('a wrong variable of ours is an error, a neighbour’s is passed over with a warning', () => {
  expect(complaint('', { env: { BERTH_PORT: 'http' }, flags: { 'device.lanes': '0' } })).toEqual([
    '--lanes: expected a whole number from 1 to 4096, received "0"',
    'environment BERTH_PORT: expected a whole number from 0 to 65535, received "http"',
  ]);
  const { config, warnings } = load('', { env: { OLLAMA_NUM_PARALLEL: '0' } });
  expect(config.defaults.parallel).toBe(4);
  expect(warnings).toEqual([expect.stringContaining('OLLAMA_NUM_PARALLEL is ignored')]);
});

test('more lanes than cores, or more memory than there is, works with a warning', () => {
  expect(load('device: {lanes: 5, memory: 60000}').warnings).toEqual([
    expect.stringContaining('device.lanes is 5'),
    expect.stringContaining('device.memory is 60000'),
  ]);
});

test('a file that was named must exist; berth.yaml in the folder is found by itself', () => {
  expect(complaint('', { path: '/no/such.yaml' })[0]).toContain('/no/such.yaml can’t be read'.replace('’', "'"));
  load('device: {lanes: 3}');
  expect(load(null, { path: undefined }).config.devices[0]?.lanes).toBe(3);
  expect(load(null, { path: undefined, cwd: '/' }).path).toBeNull();
});

test('context and KV of a launch follow the model’s training where nobody said otherwise', () => {
  const unsaid = { contextTokens: null, kvTokens: null };
  expect(launchTokens(unsaid, { contextTokens: 4096 }, 2048)).toEqual({ contextTokens: 2048, kvTokens: 4096 });
  expect(launchTokens(unsaid, { contextTokens: 4096 }, 32_768)).toEqual({ contextTokens: 4096, kvTokens: 8192 });
  expect(launchTokens({ contextTokens: 512, kvTokens: null }, { contextTokens: 4096 }, null)).toEqual({
    contextTokens: 512,
    kvTokens: 1024,
  });
});

describe('tenants', () => {
  test('have limits, models and a share; a model may be theirs alone, and cost something', () => {
    const { config } = load(
      [
        'tenants:',
        '  acme:',
        '    weight: 2',
        '    models: [smol*]',
        '    limits: {requestsPerMinute: 60, tokensPerMinute: 10K, concurrency: 4, budget: 1.5M/month}',
        '  quiet:',
        'models:',
        '  m: {tenants: [acme, other], limits: {budget: 5/total}, price: {input: 0.5, output: 1}}',
      ].join('\n'),
    );
    expect(config.tenants).toEqual([
      {
        id: 'acme',
        name: 'acme',
        weight: 2,
        models: ['smol*'],
        limits: {
          requestsPerMinute: 60,
          tokensPerMinute: 10_000,
          concurrency: 4,
          queue: null,
          budget: { tokens: 1_500_000, window: 'month' },
        },
        isolation: 'strict',
        disabled: false,
      },
      expect.objectContaining({ id: 'quiet', weight: 1, models: null }),
    ]);
    expect(config.models[0]).toMatchObject({
      tenants: ['acme', 'other'],
      limits: { concurrency: null, budget: { tokens: 5, window: 'total' } },
      price: { input: 0.5, cached: 0.5, output: 1 },
    });
  });

  test('that are wrong say where', () => {
    const yaml = [
      'tenants:',
      '  Acme: {}',
      '  good:',
      '    wieght: 2',
      '    limits: {budget: 5M/week}',
      'models:',
      '  m: {tenants: [No Good], price: {input: -1, output: 2}}',
    ].join('\n');
    expect(complaint(yaml)).toEqual([
      'berth.yaml:2 tenants.Acme: expected a short name of lower-case letters, digits, - and _, received "Acme"',
      'berth.yaml:4 tenants.good.wieght: unknown field; did you mean `weight`?',
      expect.stringMatching(
        /^berth\.yaml:5 tenants\.good\.limits: expected a mapping of requestsPerMinute,.*, received a mapping$/,
      ),
      expect.stringMatching(/^berth\.yaml:7 models\.m\.price: expected a mapping of input/),
      'berth.yaml:7 models.m.tenants.0: expected a short name of lower-case letters, digits, - and _, received "No Good"',
    ]);
  });
});

const gpu = (index: number) => ({
  index,
  uuid: `GPU-${index}`,
  name: 'H100',
  memoryBytes: 80_000,
  freeBytes: 70_000,
});
const withGpus = (...gpus: ReturnType<typeof gpu>[]) => ({ machine: { ...machine, gpus: () => gpus } });
const served = 'models: {big: {engine: vllm, source: ./big}}';

test('a GPU is the device where a model wants one, and where it is asked for', () => {
  const withGpu = withGpus(gpu(0));
  const only = { id: 'gpu0', memoryBytes: 72_000, lanes: 1, gpu: gpu(0) };
  expect(load(served, withGpu).config.devices).toEqual([only]);
  for (const [yaml, rest] of [
    [`${served}\ndevice: {kind: cpu}`, withGpu],
    [served, {}],
    ['models: {small: ./small.gguf}', withGpu],
  ] as const) {
    expect(load(yaml, rest).config.devices).toEqual([{ id: 'cpu', memoryBytes: 35_000, lanes: 4 }]);
  }
  expect(load('device: {kind: nvidia}', withGpu).config.devices).toEqual([only]);
  expect(() => load('device: {kind: nvidia}')).toThrow(/no NVIDIA GPU 0/);
  expect(() => load('device: {kind: nvidia, gpu: 1}', withGpu)).toThrow(/no NVIDIA GPU 1/);
});

describe('several devices', () => {
  test('are all GPUs that there are, unless one is named', () => {
    const two = withGpus(gpu(0), gpu(1));
    const ids = (yaml: string): string[] => load(yaml, two).config.devices.map(({ id }) => id);
    expect(ids(served)).toEqual(['gpu0', 'gpu1']);
    expect(ids(`${served}\ndevice: {gpu: 1}`)).toEqual(['gpu1']);
    expect(ids('device: {kind: nvidia}')).toEqual(['gpu0']);
    expect(load(`${served}\ndevice: {memory: 60000}`, two).config.devices).toMatchObject([
      { memoryBytes: 60_000, lanes: 1 },
      { memoryBytes: 60_000, lanes: 1 },
    ]);
  });

  test('are listed, and those of the CPU share what it has', () => {
    const yaml = `devices: [{id: a}, {id: b, lanes: 1}, {id: fast, gpu: 1, memory: 70000}]\nmodels: {m: {source: ./m.gguf, device: b}}`;
    const { config, warnings } = load(yaml, withGpus(gpu(0), gpu(1)));
    expect(config.devices).toEqual([
      { id: 'a', memoryBytes: 17_500, lanes: 2 },
      { id: 'b', memoryBytes: 17_500, lanes: 1 },
      { id: 'fast', memoryBytes: 70_000, lanes: 1, gpu: gpu(1) },
    ]);
    expect(config.models[0]?.device).toBe('b');
    expect(warnings).toEqual([]);
    expect(load('devices: [{id: a, lanes: 3}, {id: b, lanes: 3, memory: 60000}]').warnings).toEqual([
      expect.stringContaining('lanes of all devices of the CPU together are 6'),
      expect.stringContaining('memory of all devices of the CPU together is'),
    ]);
  });

  test('that can’t be meant are told with their lines', () => {
    const yaml = [
      'devices:',
      '  - id: gpu0',
      '    gpu: 0',
      '  - id: gpu0',
      '    gpus: 1',
      '  - id: Third one',
      '    kind: nvidia',
      'models:',
      '  m: {source: ./m.gguf, device: gpu7}',
      '  r: {remote: {url: "https://there.example/v1"}, device: gpu0}',
    ].join('\n');
    expect(complaint(yaml)).toEqual([
      'berth.yaml:4 devices.1.id: the id gpu0 is taken by another device',
      'berth.yaml:5 devices.1.gpus: unknown field; did you mean `gpu`?',
      'berth.yaml:6 devices.2.id: expected a short name of lower-case letters, digits, - and _, received "Third one"',
      'berth.yaml:6 devices.2: GPU 0 is another device already',
      'berth.yaml:9 models.m.device: there is no device "gpu7": this node has gpu0, gpu0, Third one',
      'berth.yaml:10 models.r.device: a model that is computed elsewhere is on no device here',
    ]);
    expect(complaint('devices: [{id: a}, {id: b}]\ndevice: {lanes: 2}')[0]).toMatch(/^device\.lanes: .*leave out/);
    expect(complaint('devices: [{id: a}]', { flags: { 'device.memory': '1GiB' } })[0]).toMatch(/^device\.memory:/);
    expect(complaint('models: {m: {source: ./m.gguf, device: gpu0}}')).toEqual([
      'models.m.device: there is no device "gpu0": this node has cpu',
    ]);
  });
});

test('an engine for all models is that of folders; files stay with llamacpp, and what is elsewhere stays there', () => {
  const yaml = `models: {folder: {source: ./big}, file: {source: ./small.gguf}, named: {source: ./x, engine: sglang}, bare: {}}`;
  const engines = (engine: 'vllm' | 'llama-server') =>
    load(yaml, { engine }).config.models.map(({ engine: name }) => name);
  expect(engines('vllm')).toEqual(['vllm', null, 'sglang', null]);
  expect(engines('llama-server')).toEqual([null, null, 'sglang', null]);
});
