import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { gemmaPath, smollm2Path } from '../../../test/models.ts';
import type { GenerateRequest, ModelLaunch } from '../engine.ts';
import { parseStatus } from '../memory.ts';
import { type Answer, launchOf, RunnerHarness, textRequest } from './runner-harness.ts';

afterAll(() => RunnerHarness.stopAll());

/** Four texts that nearly fill the first 1,024 cells: another few dozen tokens each, and they pass them together. */
const PROMPTS = [1, 2, 3, 4].map((text) =>
  Array.from({ length: 215 }, (_, index) => 300 + ((index * 37 * text) % 4000)),
);
/** Bytes of SmolLM2's keys and values for one token: 30 layers, 3 heads of 64 numbers. */
const TOKEN_BYTES = 2 * 2 * 30 * 3 * 64;

async function start(launch: Partial<ModelLaunch>, path = smollm2Path(), env: NodeJS.ProcessEnv = {}) {
  const runner = new RunnerHarness(env);
  await runner.message('started');
  const loaded = await runner.load(launchOf(path, launch));
  return { runner, loaded };
}

const write = (runner: RunnerHarness, tokens: number): Promise<Answer[]> =>
  runner.ask(...PROMPTS.map((prompt) => numbers(prompt, tokens)));
const numbers = (prompt: readonly number[], maxTokens: number): GenerateRequest =>
  textRequest('', { input: { type: 'tokens', tokens: prompt }, maxTokens, ignoreEos: true });

async function growths(runner: RunnerHarness, count: number): Promise<number[]> {
  const told: number[] = [];
  while (told.length < count) told.push((await runner.message('grew')).growthBytes);
  return told;
}

function held(runner: RunnerHarness): { privateBytes: number; fileBytes: number } {
  const memory = parseStatus(readFileSync(`/proc/${runner.child.pid}/status`, 'utf8'));
  return { privateBytes: memory?.privateBytes ?? 0, fileBytes: memory?.mappedFileBytes ?? 0 };
}

describe('a KV cache that grows', () => {
  it.each(['SmolLM2', 'Gemma'])('goes on with the same texts: %s', async (name) => {
    const path = name === 'Gemma' ? gemmaPath() : smollm2Path();
    // Prefill by the smallest chunks is cut the same whatever the time.
    const launch = { kvTokens: 4096, batchTokens: 16 };
    const whole = await start(launch, path, { BERTH_LLAMA_ELASTIC: '0' });
    expect(whole.loaded.growthBytes).toBeGreaterThan(4096 * 1000);
    expect((await whole.runner.message('grew')).growthBytes).toBe(0);
    const expected = (await write(whole.runner, 56)).map(({ tokenIds }) => tokenIds);
    await whole.runner.stop();
    const { runner, loaded } = await start(launch, path);
    const answers = await write(runner, 56);
    expect(await growths(runner, 2)).toEqual([(loaded.growthBytes * 3) / 4, loaded.growthBytes / 2]);
    expect(answers.map(({ tokenIds }) => tokenIds)).toEqual(expected);
    await runner.stop();
  });

  it('holds what it promised, starts small again after sleep, and is large at once for a long prompt', async () => {
    const { runner, loaded } = await start({ contextTokens: 4096, kvTokens: 4096 });
    expect(loaded.growthBytes).toBe(4096 * TOKEN_BYTES);
    await runner.ask(textRequest('a', { maxTokens: 1 }));
    const small = held(runner).privateBytes;
    await runner.ask(textRequest('word '.repeat(1200), { maxTokens: 1 }));
    expect(await growths(runner, 2)).toEqual([3072 * TOKEN_BYTES, 2048 * TOKEN_BYTES]);
    const grown = held(runner).privateBytes - small;
    expect(grown).toBeGreaterThan(0.9 * 1024 * TOKEN_BYTES);
    expect(grown).toBeLessThan(1.2 * 1024 * TOKEN_BYTES);
    runner.tell({ type: 'sleep' });
    await runner.message('asleep');
    const again = await runner.load(launchOf(smollm2Path(), { contextTokens: 4096, kvTokens: 4096 }));
    expect(again).toMatchObject({ from: 'asleep', growthBytes: loaded.growthBytes });
    await runner.ask(textRequest('a', { maxTokens: 1 }));
    expect(held(runner).privateBytes - small).toBeLessThan(0.1 * loaded.growthBytes);
    await runner.stop();
  });

  it('ends at its limit: then the youngest gives way, and all are answered', async () => {
    const { runner } = await start({ kvTokens: 1280 });
    // 211 tokens each: 10, 11, …, 62, and so on.
    const counts = [10, 12, 14, 16].map((first) => Array.from({ length: 53 }, (_, index) => first + index));
    const answers = await runner.ask(
      ...counts.map((count) => textRequest(`${count.join(', ')},`, { maxTokens: 120, ignoreEos: true })),
    );
    expect(await growths(runner, 2)).toEqual([256 * TOKEN_BYTES, 0]);
    for (const answer of answers) expect(answer.last).toMatchObject({ reason: 'length', usage: { outputTokens: 120 } });
    for (const [index, answer] of answers.entries()) {
      const next = (counts[index]?.at(-1) ?? 0) + 1;
      expect(answer.text.startsWith(` ${next}, ${next + 1}, ${next + 2}, ${next + 3},`)).toBe(true);
    }
    await runner.stop();
  });
});

describe.runIf(process.platform === 'linux')('a sleeping model', () => {
  it.each(['SmolLM2', 'Gemma'])('lets go of its mapped weights, and takes them back: %s', async (name) => {
    const path = name === 'Gemma' ? gemmaPath() : smollm2Path();
    const { runner, loaded } = await start({}, path);
    const [before] = await runner.ask(textRequest('Once upon a time'));
    const awake = held(runner).fileBytes;
    expect(awake).toBeGreaterThan(loaded.mappedWeightBytes);
    runner.tell({ type: 'sleep' });
    await runner.message('asleep');
    expect(awake - held(runner).fileBytes).toBeGreaterThan(0.98 * loaded.mappedWeightBytes);
    await runner.load(launchOf(path));
    const [after] = await runner.ask(textRequest('Once upon a time'));
    expect(after?.tokenIds).toEqual(before?.tokenIds);
    expect(held(runner).fileBytes).toBeGreaterThan(loaded.mappedWeightBytes);
    await runner.stop();
  });
});
