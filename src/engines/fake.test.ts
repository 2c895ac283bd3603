import { describe, expect, it } from 'vitest';
import { describeEngine } from '../../test/contract/engine-contract.ts';
import { openStory, request, textOf, tokensOf } from '../../test/contract/stories.ts';
import { createVirtualTimer } from '../../test/virtual-timer.ts';
import { modelId, SECOND } from '../core/ids.ts';
import { createFakeEngine } from './fake.ts';
import type { ModelLaunch } from './engine.ts';
import type { FakeCosts, FakeEngine } from './fake.ts';

const launch: ModelLaunch = {
  modelId: modelId('fake'),
  path: '/sound.gguf',
  contextTokens: 256,
  kvTokens: 512,
  parallel: 4,
  batchTokens: 64,
  memoryLimitBytes: 0,
};

function makeWorld(costs: Partial<FakeCosts> = {}) {
  const timer = createVirtualTimer();
  const engine: FakeEngine = createFakeEngine({
    timer,
    costs,
    fileIs: (path) => (path === '/missing.gguf' ? 'missing' : path === '/corrupt.gguf' ? 'invalid' : 'sound'),
  });
  return {
    engine,
    timer,
    launch,
    missingPath: '/missing.gguf',
    corruptPath: '/corrupt.gguf',
    kill: (of: ModelLaunch) => engine.faults.crash(of.modelId),
    pass: (micros: number) => timer.advance(micros),
    patienceMicros: 60 * SECOND,
  };
}

describeEngine('the fake engine', () => makeWorld());

describe('the fake engine', () => {
  it('takes the time that its costs say', async () => {
    const world = makeWorld({
      loadMicros: 1000,
      prefillMicrosPerToken: 10,
      stepMicros: 100,
      stepMicrosPerSequence: 5,
      speedup: (lanes) => lanes,
    });
    const { model, until, submit, seen, finishAll } = openStory(world, launch);
    expect(await until(model.ensureLoaded())).toMatchObject({ micros: 1000 });
    const text = 'one two three four five six seven eight nine ten';
    const both = ['a', 'b'].map((id) => submit(request(id, { input: { type: 'text', text }, maxTokens: 3 })));
    await finishAll(both);
    // A prefill step of 20 tokens gives each its first token, then two decode steps of two sequences.
    expect(seen.slices[0]).toMatchObject({ steps: 3, prefillTokens: 20, computeMicros: 20 * 10 + 2 * (100 + 2 * 5) });
    expect(seen.slices[0]?.wallMicros).toBe(seen.slices[0]?.computeMicros);
    expect(both[0]?.events.at(-1)).toMatchObject({
      usage: { promptTokens: 10, prefillMicros: 100, decodeMicros: 110 },
    });
  });

  it('prefills a long prompt in chunks, beside those who decode', async () => {
    const world = makeWorld();
    const { model, until, submit, seen, sliceOnce } = openStory(world, launch);
    await until(model.ensureLoaded());
    submit(request('long', { input: { type: 'tokens', tokens: Array(150).fill(1) }, maxTokens: 2 }));
    for (const sliceId of [1, 2, 3, 4]) await sliceOnce({ sliceId, lanes: 1, micros: 1 });
    expect(seen.slices.map((report) => report.prefillTokens)).toEqual([64, 64, 22, 0]);
  });

  it('never runs more than fit, and starves nobody', async () => {
    const world = makeWorld();
    const { model, until, submit, finishAll } = openStory(world, { ...launch, parallel: 2, kvTokens: 300 });
    await until(model.ensureLoaded());
    const all = Array.from({ length: 9 }, (_, i) => submit(request(`r${i}`, { maxTokens: i % 3 === 0 ? 200 : 5 })));
    await finishAll(all);
    expect(all.map((one) => tokensOf(one.events).length)).toEqual([200, 5, 5, 200, 5, 5, 200, 5, 5]);
  });

  it('says the same to the same prompt and something else to another', async () => {
    const world = makeWorld();
    const { model, until, submit, finishAll } = openStory(world, launch);
    await until(model.ensureLoaded());
    const ask = (id: string, text: string) =>
      submit(request(id, { input: { type: 'text', text }, ignoreEos: false, maxTokens: null }));
    const all = [ask('a', 'good morning'), ask('b', 'good morning'), ask('c', 'good night')];
    await finishAll(all);
    const [a, b, c] = all.map((one) => textOf(one.events));
    expect(a).toBe(b);
    expect(a).not.toBe(c);
    expect(all[0]?.events.at(-1)).toMatchObject({ reason: 'stop', usage: { outputTokens: 128 } });
  });

  it('answers with JSON of the schema, and with the tool that it must call', async () => {
    const world = makeWorld();
    const { model, until, submit, finishAll } = openStory(world, launch);
    await until(model.ensureLoaded());
    const schema = {
      type: 'object',
      properties: { name: { type: 'string' }, size: { type: 'integer' }, kind: { enum: ['a', 'b'] } },
    };
    const json = submit(request('json', { format: { type: 'json_schema', schema }, maxTokens: null }));
    const tool = submit(
      request('tool', {
        input: {
          type: 'chat',
          messages: [{ role: 'user', content: 'What is the weather in Bergen?' }],
          tools: [{ name: 'weather', parameters: { type: 'object', properties: { city: { type: 'string' } } } }],
          toolChoice: 'required',
        },
        maxTokens: null,
      }),
    );
    await finishAll([json, tool]);
    expect(JSON.parse(textOf(json.events))).toEqual({ name: expect.any(String), size: 7, kind: 'a' });
    expect(textOf(tool.events)).toBe('');
    expect(tool.events.at(-2)).toMatchObject({ type: 'toolCall', call: { name: 'weather' } });
    expect(tool.events.at(-1)).toMatchObject({ reason: 'tool_calls' });
  });

  it('fails, is slow and crashes on demand', async () => {
    const world = makeWorld();
    const { model, until, submit, seen, sliceOnce } = openStory(world, launch);
    world.engine.faults.failNextLoad(launch.modelId, 'model_load_failed', 'out of memory');
    await expect(until(model.ensureLoaded())).rejects.toMatchObject({
      code: 'model_load_failed',
      message: 'out of memory',
    });
    world.engine.faults.slowNextLoad(launch.modelId, 5 * SECOND);
    expect((await until(model.ensureLoaded())).micros).toBeGreaterThan(5 * SECOND);
    world.engine.faults.crashAfterSteps(launch.modelId, 2, 'out of memory');
    const doomed = submit(request('doomed', { maxTokens: 50 }));
    await sliceOnce({ sliceId: 1, lanes: 1, micros: 1 });
    model.slice({ sliceId: 2, lanes: 1, micros: null });
    await world.timer.settle();
    expect(doomed.events.at(-1)).toMatchObject({ type: 'failed', code: 'engine_died', message: 'out of memory' });
    expect([seen.deaths, seen.slices.length]).toEqual([['out of memory'], 1]);
  });

  it('keeps no timer when nothing is to do', async () => {
    const world = makeWorld();
    const { model, until } = openStory(world, launch);
    await until(model.ensureLoaded());
    expect(world.timer.waiting()).toBe(0);
  });
});
