/** The engine `vllm` with the real vLLM on a CPU, and a tiny model of random weights. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MILLI, modelId, SECOND, tenantId } from '../../src/core/ids.ts';
import type { GenerateRequest, ModelLaunch } from '../../src/engines/engine.ts';
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

describe('vLLM, loaded', () => {
  const launch = launchOf('loaded');
  let story: Story;
  beforeAll(async () => {
    story = openStory(world(launch), launch);
    await story.model.ensureLoaded();
  });
  afterAll(async () => {
    await story.model.ensureUnloaded();
  });
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
