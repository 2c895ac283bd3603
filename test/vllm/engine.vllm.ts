/** The engine `vllm` with the real vLLM on a CPU, and a tiny model of random weights. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MILLI, modelId, SECOND, tenantId } from '../../src/core/ids.ts';
import type { Adapter, GenerateRequest, ModelLaunch } from '../../src/engines/engine.ts';
import { createVllmEngine } from '../../src/engines/vllm.ts';
import { describeEngine } from '../contract/engine-contract.ts';
import type { ContractWorld } from '../contract/engine-contract.ts';
import { openStory, request, textOf, tokensOf } from '../contract/stories.ts';
import type { Story } from '../contract/stories.ts';

const model = process.env['BERTH_VLLM_MODEL'];
if (model === undefined) throw new Error('BERTH_VLLM_MODEL names no model: run `npm run test:vllm`');
const folder = mkdtempSync(join(tmpdir(), 'berth-vllm-test-'));
mkdirSync(join(folder, 'corrupt'));
writeFileSync(join(folder, 'corrupt', 'config.json'), '{');
afterAll(() => rmSync(folder, { recursive: true }));

const launchOf = (name: string, args: readonly string[] = []): ModelLaunch => ({
  modelId: modelId(name),
  path: model,
  contextTokens: 512,
  kvTokens: 1024,
  parallel: 2,
  batchTokens: 512,
  memoryLimitBytes: 0,
  args: ['--load-format', 'dummy', ...args],
});

const engine = createVllmEngine({ loadTimeoutMicros: 180 * SECOND });
afterAll(() => engine.close());

/** Process groups whose leader is a child of this process and was started for this model. */
function groupOf({ modelId: id }: ModelLaunch): number {
  const own = readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, 'utf8');
  for (const pid of own.trim().split(' ')) {
    const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    if (words.includes(model as string) && words.includes(id)) return Number(pid);
  }
  throw new Error(`no process serves ${id}`);
}

/** The processes of a group; by what they call themselves. */
const membersOf = (group: number): { pid: number; name: string }[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
        const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
        if (Number(fields[2]) !== group || fields[0] === 'Z') return [];
        return [{ pid: Number(pid), name: readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ') }];
      } catch {
        return [];
      }
    });

const world = (launch: ModelLaunch): ContractWorld => ({
  engine,
  launch,
  missingPath: join(folder, 'missing'),
  corruptPath: join(folder, 'corrupt'),
  kill: (of) => process.kill(groupOf(of), 'SIGKILL'),
  pass: (micros) => sleep(micros / 1000),
  patienceMicros: 180 * SECOND,
});

describeEngine('vLLM on a CPU', () => world(launchOf('contract')), {
  skips: {
    steps:
      'its steps can’t be seen from outside: a slice ends when the process has been stopped, in the middle of a step',
    sleep: 'on a CPU it can’t let go of its memory and live',
    embed: 'the tiny model generates; what embeds is another model',
  },
});

/** Of a model that is loaded while the tests of a group run. */
function loadedStory(launch: ModelLaunch): Story {
  const story = openStory(world(launch), launch);
  beforeAll(async () => {
    await story.model.ensureLoaded();
  });
  afterAll(async () => {
    await story.model.ensureUnloaded();
  });
  return story;
}

/** LoRA weights for the tiny model (`scripts/vllm-model.py`) in the files of PEFT: larger by far than the weights that vLLM makes up. */
function makeAdapter(id: string, scale: number): Adapter {
  const [rank, width] = [8, 64];
  const path = join(folder, `adapter-${id}`);
  mkdirSync(path);
  const tensors = { A: [rank, width], B: [width, rank] };
  const values = new Float32Array(2 * rank * width).map((_, index) => scale * Math.sin(index + scale));
  const bytes = 4 * rank * width;
  const header = Object.entries(tensors).map(([part, shape], index) => [
    `base_model.model.model.layers.0.self_attn.o_proj.lora_${part}.weight`,
    { dtype: 'F32', shape, data_offsets: [index * bytes, (index + 1) * bytes] },
  ]);
  const head = Buffer.from(JSON.stringify(Object.fromEntries(header)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(head.length));
  writeFileSync(join(path, 'adapter_model.safetensors'), Buffer.concat([length, head, Buffer.from(values.buffer)]));
  const config = { peft_type: 'LORA', task_type: 'CAUSAL_LM', r: rank, lora_alpha: 64, target_modules: ['o_proj'] };
  writeFileSync(join(path, 'adapter_config.json'), JSON.stringify({ ...config, bias: 'none' }));
  return { id: modelId(id), path, fingerprint: `${id}${scale}` };
}

describe('vLLM with adapters', () => {
  const launch = { ...launchOf('adapted'), adapterRank: 8 };
  const story = loadedStory(launch);

  it('computes each request with the weights that it names, loaded while the server runs', async () => {
    const [one, other] = [makeAdapter('one', 3), makeAdapter('other', 5)];
    const input = { type: 'text', text: 'The ship left the harbour at dawn and' } as const;
    const ask = (id: string, adapter?: Adapter) =>
      story.submit(request(id, { input, maxTokens: 24, ...(adapter !== undefined && { adapter }) }));
    const before = ask('before');
    await story.finishAll([before]);
    const all = [ask('plain'), ask('one', one), ask('again', one), ask('other', other)];
    await story.finishAll(all);
    const [plain, first, again, second] = all.map(({ events }) => tokensOf(events).join());
    expect(plain).toBe(tokensOf(before.events).join());
    expect(again).toBe(first);
    expect(new Set([plain, first, second]).size).toBe(3);
  });

  it('fails a request whose adapter it refuses, and only that one', async () => {
    const broken = makeAdapter('broken', 1);
    writeFileSync(join(broken.path, 'adapter_model.safetensors'), 'no tensors');
    const asked = [
      story.submit(request('refused', { adapter: broken })),
      story.submit(
        request('missing', { adapter: { ...broken, id: modelId('missing'), path: join(folder, 'nowhere') } }),
      ),
      story.submit(request('sound')),
    ];
    await story.finishAll(asked);
    expect(asked.map(({ events }) => events.at(-1))).toMatchObject([
      { type: 'failed', code: 'model_load_failed', message: expect.stringContaining('adapter broken') as string },
      { type: 'failed', code: 'model_file_missing' },
      { type: 'finished' },
    ]);
    expect(story.seen.deaths).toEqual([]);
  });
});

describe('vLLM, loaded', () => {
  const launch = launchOf('loaded');
  const story = loadedStory(launch);
  const words = (count: number): string => Array.from({ length: count }, (_, index) => `word${index}`).join(' ');

  it('charges what all of its processes hold, near to what was guessed', async () => {
    const { loadedBytes } = await engine.estimate(launch);
    const { memoryBytes } = await story.model.ensureLoaded();
    expect(memoryBytes / loadedBytes).toBeGreaterThan(0.6);
    expect(memoryBytes / loadedBytes).toBeLessThan(1.2);
    expect(membersOf(groupOf(launch)).length).toBeGreaterThan(2);
  });

  it('lets a tenant find what its own prompts began with, and nobody else', async () => {
    const cached: number[] = [];
    for (const [id, tenant] of [
      ['first', 'a'],
      ['again', 'a'],
      ['other', 'b'],
    ] as const) {
      const asked: GenerateRequest = {
        ...request(id, { input: { type: 'text', text: words(60) }, maxTokens: 2 }),
        tenantId: tenantId(tenant),
      };
      const answer = story.submit(asked);
      await story.finishAll([answer]);
      const last = answer.events.at(-1);
      if (last?.type !== 'finished') throw new Error(`ended with ${JSON.stringify(last)}`);
      cached.push(last.usage.cachedTokens);
    }
    expect(cached[0]).toBe(0);
    // Whole blocks of 128 tokens.
    expect(cached[1]).toBeGreaterThanOrEqual(128);
    expect(cached[2]).toBe(0);
  });

  it('says the same across slices of 50 ms as in one', async () => {
    const whole = story.submit(request('whole', { maxTokens: 300 }));
    await story.finishAll([whole]);
    const cut = story.submit(request('cut', { maxTokens: 300 }));
    let slices = 0;
    for (let sliceId = 1; cut.lasts() === 0 && sliceId < 500; sliceId++, slices++)
      await story.sliceOnce({ sliceId, lanes: 1, micros: 50 * MILLI });
    expect(slices).toBeGreaterThan(1);
    expect(tokensOf(cut.events)).toEqual(tokensOf(whole.events));
    expect(textOf(cut.events)).toBe(textOf(whole.events));
  });

  it('chats by the model’s own template, and goes on where it was preempted', async () => {
    const messages = [{ role: 'user', content: 'Name three colours.' }] as const;
    const input = { type: 'chat', messages, tools: [], toolChoice: 'none' } as const;
    const whole = story.submit(request('whole', { input, maxTokens: 12 }));
    await story.finishAll([whole]);
    const tokens = tokensOf(whole.events);
    const rest = story.submit(request('rest', { input, maxTokens: 12, resumeTokens: tokens.slice(0, 5) }));
    await story.finishAll([rest]);
    expect(tokensOf(rest.events)).toEqual(tokens.slice(5));
  });

  it('keeps to a schema, and tells log-probabilities', async () => {
    // Of what a model of random weights would write otherwise, there is no end.
    const schema = { type: 'string', enum: ['alpha', 'beta'] };
    const formed = story.submit(
      request('formed', { format: { type: 'json_schema', schema }, maxTokens: 60, ignoreEos: false }),
    );
    const likely = story.submit(request('likely', { maxTokens: 3, logprobs: 2 }));
    await story.finishAll([formed, likely]);
    expect(['alpha', 'beta']).toContain(JSON.parse(textOf(formed.events)));
    const logprobs = likely.events.flatMap((event) => (event.type === 'tokens' ? (event.logprobs ?? []) : []));
    expect(logprobs).toHaveLength(3);
    for (const { top, logprob, tokenId } of logprobs) {
      expect(top).toHaveLength(2);
      expect(top[0]).toMatchObject({ tokenId, logprob });
    }
  });

  it('is dead when its engine process is, which its server does not say by ending at once', async () => {
    const running = story.submit(request('running', { maxTokens: 400 }));
    story.model.slice({ sliceId: 9_000, lanes: 1, micros: null });
    await story.wait(() => running.types('tokens').length > 0, 'the first token');
    const group = groupOf(launch);
    const core = membersOf(group).find(({ name }) => name.includes('EngineCore'));
    if (core === undefined) throw new Error(`no EngineCore in ${JSON.stringify(membersOf(group))}`);
    process.kill(core.pid, 'SIGKILL');
    await story.wait(() => story.seen.deaths.length > 0, 'the death');
    expect(running.events.at(-1)).toMatchObject({ type: 'failed', code: 'engine_died' });
    await story.wait(() => membersOf(group).length === 0, 'the end of all its processes');
  });
});
