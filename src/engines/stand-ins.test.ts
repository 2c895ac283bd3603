/** Engines whose servers can't run here, and vLLM without its installation: against a stand-in that speaks their documented endpoints. */
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { TINY_LLAMA } from '../../test/support/checkpoint.ts';
import { describeEngine } from '../../test/contract/engine-contract.ts';
import type { ContractWorld } from '../../test/contract/engine-contract.ts';
import { openStory, request, textOf, tokensOf } from '../../test/contract/stories.ts';
import type { Story } from '../../test/contract/stories.ts';
import { modelId, SECOND, tenantId } from '../core/ids.ts';
import { asBerthError } from '../errors.ts';
import type { Adapter, Engine, ModelLaunch } from './engine.ts';
import { createSglangEngine } from './sglang.ts';
import { createTrtllmEngine } from './trtllm.ts';
import { createVllmEngine } from './vllm.ts';

const SERVER = join(import.meta.dirname, '../../test/fixtures/python-server.mjs');
const folder = mkdtempSync(join(tmpdir(), 'berth-stand-ins-'));
afterAll(() => rmSync(folder, { recursive: true }));

const ENV = { PATH: process.env['PATH'], BERTH_VLLM: SERVER, BERTH_SGLANG: SERVER, BERTH_TRTLLM: SERVER };
const MAKERS: Readonly<Record<string, () => Engine>> = {
  vllm: () => createVllmEngine({ env: ENV, platform: 'gpu', deviceBytes: () => null }),
  sglang: () => createSglangEngine({ env: ENV }),
  trtllm: () => createTrtllmEngine({ env: ENV }),
};

const CONFIG = { ...TINY_LLAMA, max_position_embeddings: 512 };

/** A model's folder; `standIn`: what is wrong with its server. */
function makeModel(name: string, standIn: object = {}): string {
  const path = join(folder, name);
  mkdirSync(path, { recursive: true });
  writeFileSync(join(path, 'config.json'), JSON.stringify({ ...CONFIG, stand_in: standIn }));
  writeFileSync(join(path, 'model.safetensors'), 'weights');
  return path;
}

const launchOf = (path: string, change: Partial<ModelLaunch> = {}): ModelLaunch => ({
  modelId: modelId('stand-in'),
  path,
  contextTokens: 256,
  kvTokens: 512,
  parallel: 2,
  batchTokens: 64,
  memoryLimitBytes: 0,
  ...change,
});

function adapterOf(id: string, config: object): Adapter {
  const text = JSON.stringify(config);
  const fingerprint = createHash('sha256').update(text).digest('hex');
  const path = join(folder, `adapter-${fingerprint}`);
  mkdirSync(path, { recursive: true });
  writeFileSync(join(path, 'adapter_config.json'), text);
  writeFileSync(join(path, 'adapter_model.safetensors'), 'weights');
  return { id: modelId(id), path, fingerprint };
}

/** The only child of this process that was started with the model. */
function serverOf({ path }: ModelLaunch): number {
  const own = readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, 'utf8');
  for (const pid of own.trim().split(' '))
    if (readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(path)) return Number(pid);
  throw new Error(`no process has ${path}`);
}

function worldOf(engine: Engine, launch: ModelLaunch): ContractWorld {
  return {
    engine,
    launch,
    missingPath: join(folder, 'missing'),
    corruptPath: join(folder, 'corrupt'),
    kill: (of) => process.kill(serverOf(of), 'SIGKILL'),
    pass: (micros) => sleep(micros / 1000),
    patienceMicros: 20 * SECOND,
  };
}
mkdirSync(join(folder, 'corrupt'));
writeFileSync(join(folder, 'corrupt', 'config.json'), '{"architectures":');

const isLinux = process.platform === 'linux';

for (const [name, make] of isLinux ? Object.entries(MAKERS) : []) {
  describeEngine(`${name}, a stand-in`, () => worldOf(make(), launchOf(makeModel(`${name}-well`))), {
    skips: {
      steps:
        'its steps can’t be seen from outside: a slice ends when the process has been stopped, in the middle of a step',
    },
  });
}

describe.skipIf(!isLinux).each(Object.entries(MAKERS))('%s, a stand-in', (name, make) => {
  let engine: Engine | null = null;
  afterEach(() => engine?.close());
  const open = (standIn: object, change: Partial<ModelLaunch> = {}): Story => {
    engine = make();
    const launch = launchOf(makeModel(`${name}-${Object.values(standIn).join() || 'well'}`, standIn), change);
    return openStory(worldOf(engine, launch), launch);
  };

  it('lets a tenant find what its own prompts began with, and nobody else', async () => {
    const story = open({});
    await story.model.ensureLoaded();
    const of = (id: string, tenant: string) => ({ ...request(id), tenantId: tenantId(tenant) });
    const cached: number[] = [];
    for (const [id, tenant] of [
      ['first', 'a'],
      ['again', 'a'],
      ['other', 'b'],
    ] as const) {
      const answer = story.submit(of(id, tenant));
      await story.finishAll([answer]);
      const last = answer.events.at(-1);
      cached.push(last?.type === 'finished' ? last.usage.cachedTokens : Number.NaN);
    }
    expect(cached[0]).toBe(0);
    // TensorRT-LLM's completions know no salt: there nobody finds anything.
    expect((cached[1] ?? 0) > 0).toBe(name !== 'trtllm');
    expect(cached[2]).toBe(0);
  });

  it('fails an answer that was broken off, though its stream ends as all do', async () => {
    const story = open({ stream: 'aborts' });
    await story.model.ensureLoaded();
    const cut = story.submit(request('cut'));
    await story.finishAll([cut]);
    expect(cut.events.at(-1)).toMatchObject({ type: 'failed', code: 'engine_error' });
    expect(story.seen.deaths).toEqual([]);
  });

  it.runIf(name === 'vllm')('does not believe that it sleeps while its memory stays', async () => {
    const story = open({ sleep: 'keeps' });
    await story.model.ensureLoaded();
    await expect(story.model.ensureAsleep()).rejects.toMatchObject({ code: 'engine_error' });
    const awake = story.submit(request('awake'));
    await story.finishAll([awake]);
    expect(tokensOf(awake.events)).toHaveLength(8);
  });

  it('says why it did not start, in its last words', async () => {
    const story = open({ start: 'ValueError: The KV cache is too small' });
    const error = await story.model.ensureLoaded().catch(asBerthError);
    expect(error).toMatchObject({
      code: 'model_load_failed',
      message: expect.stringContaining('KV cache is too small'),
    });
  });

  it.runIf(name === 'vllm')('listens where nobody but this user can come', async () => {
    const launch = launchOf(makeModel('vllm-reached'));
    engine = make();
    const story = openStory(worldOf(engine, launch), launch);
    await story.model.ensureLoaded();
    const args = readFileSync(`/proc/${serverOf(launch)}/cmdline`, 'utf8').split('\0');
    const socket = args[args.indexOf('--uds') + 1] ?? '';
    expect(statSync(dirname(socket)).mode & 0o777).toBe(0o700);
    expect(args).not.toContain('--port');
    expect(args).not.toContain('--api-key');
  });

  it.runIf(name === 'vllm')('computes with an adapter that a request names, beside those that name none', async () => {
    const story = open({}, { adapterRank: 6 });
    await story.model.ensureLoaded();
    const plain = story.submit(request('plain'));
    const [one, other] = [adapterOf('one', { r: 6, stand_in: 5 }), adapterOf('other', { r: 2, stand_in: 9 })];
    const adapted = [one, one, other].map((adapter, index) => story.submit(request(`adapted-${index}`, { adapter })));
    await story.finishAll([plain, ...adapted]);
    const said = [plain, ...adapted].map(({ events }) => tokensOf(events).join());
    expect(said[1]).toBe(said[2]);
    expect(new Set(said).size).toBe(3);
    // Another content under the same name is another adapter.
    const changed = story.submit(request('changed', { adapter: adapterOf('one', { r: 8, stand_in: 7 }) }));
    await story.finishAll([changed]);
    expect(said).not.toContain(tokensOf(changed.events).join());
  });

  it.runIf(name === 'vllm')('fails a request whose adapter can’t be loaded, and only that one', async () => {
    const story = open({}, { adapterRank: 6 });
    await story.model.ensureLoaded();
    const missing = { ...adapterOf('missing', { r: 1 }), path: join(folder, 'nowhere') };
    const asked = [missing, adapterOf('large', { r: 64 })].map((adapter, index) =>
      story.submit(request(`failing-${index}`, { adapter })),
    );
    const plain = story.submit(request('plain'));
    await story.finishAll([plain, ...asked]);
    expect(asked.map(({ events }) => events.at(-1))).toMatchObject([
      { type: 'failed', code: 'model_file_missing' },
      { type: 'failed', code: 'model_load_failed', message: expect.stringContaining('rank 64') as string },
    ]);
    expect(tokensOf(plain.events)).toHaveLength(8);
  });

  it('takes no argument that is Berth’s', async () => {
    const story = open({}, { args: ['--host', '0.0.0.0'] });
    const error = await story.model.ensureLoaded().catch(asBerthError);
    expect(error).toMatchObject({ code: 'model_load_failed', message: expect.stringContaining('--host') });
  });

  it('tells log-probabilities, and echoes a prompt', async () => {
    const story = open({});
    await story.model.ensureLoaded();
    const likely = story.submit(request('likely', { maxTokens: 2, logprobs: 2 }));
    const tokens = { type: 'tokens', tokens: [105, 106] } as const;
    const echo = request('echoed', { maxTokens: 1, echo: true, input: tokens });
    if (name === 'trtllm') expect(engine?.check(echo)).toMatchObject({ param: 'echo' });
    const echoed = story.submit(name === 'trtllm' ? { ...echo, input: { type: 'text', text: 'hi' } } : echo);
    await story.finishAll([likely, echoed]);
    const logprobs = likely.events.flatMap((event) => (event.type === 'tokens' ? (event.logprobs ?? []) : []));
    expect(logprobs).toHaveLength(2);
    expect(logprobs[0]).toMatchObject({ logprob: -0.5, top: [{ logprob: -0.5 }, { token: 'other' }] });
    expect(textOf(echoed.events)).toMatch(/^hi w\d+$/);
  });

  it('tells calls of tools when they are whole', async () => {
    const parser = name === 'trtllm' ? '--tool_parser' : '--tool-call-parser';
    const story = open({}, { args: [parser, 'hermes'] });
    await story.model.ensureLoaded();
    const messages = [{ role: 'user', content: 'Look it up.' }] as const;
    const tools = [{ name: 'look' }];
    const called = story.submit(request('called', { input: { type: 'chat', messages, tools, toolChoice: 'auto' } }));
    await story.finishAll([called]);
    expect(called.events.map(({ type }) => type)).toEqual(['accepted', 'tokens', 'toolCall', 'finished']);
    expect(called.events[2]).toMatchObject({ call: { name: 'look', arguments: '{"a":1}' } });
  });
});
