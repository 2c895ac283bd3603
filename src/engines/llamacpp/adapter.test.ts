import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { openStory, request, tokensOf } from '../../../test/contract/stories.ts';
import type { Story } from '../../../test/contract/stories.ts';
import { MILLI, modelId, requestId, SECOND } from '../../core/ids.ts';
import type { Engine } from '../engine.ts';
import { createLlamaCppEngine } from './adapter.ts';
import type { LlamaCppOptions } from './adapter.ts';

const STAND_IN = new URL('../../../test/fixtures/stand-in-runner.mjs', import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), 'berth-adapter-'));
const engines: Engine[] = [];
afterEach(() => Promise.all(engines.splice(0).map((engine) => engine.close())));
afterAll(() => rmSync(folder, { recursive: true }));

/** An engine whose runners are stand-ins; `lines` is what they printed. */
function makeEngine(options: LlamaCppOptions = {}, start = 'good'): { engine: Engine; lines: string[] } {
  const lines: string[] = [];
  const engine = createLlamaCppEngine({
    spare: false,
    runner: { args: [STAND_IN, start] },
    groups: { version: 'none', create: () => null },
    patience: { politeMicros: 100 * MILLI, termMicros: 100 * MILLI, killMicros: 5 * SECOND },
    log: (_, line) => lines.push(line),
    ...options,
  });
  engines.push(engine);
  return { engine, lines };
}

/** A model whose file's name says how its runner misbehaves. */
function openModel(engine: Engine, behaviour = 'good'): Story {
  const path = join(folder, behaviour);
  writeFileSync(path, '');
  const launch = {
    modelId: modelId(behaviour),
    path,
    contextTokens: 64,
    kvTokens: 64,
    parallel: 2,
    batchTokens: 16,
    memoryLimitBytes: 0,
  };
  const pass = (micros: number): Promise<void> => sleep(micros / 1000);
  const world = { engine, launch, missingPath: '', corruptPath: '', kill: () => {}, pass, patienceMicros: 10 * SECOND };
  return openStory(world, launch);
}

describe('the adapter', () => {
  it('answers through a runner', async () => {
    const { model, submit, finishAll, seen } = openModel(makeEngine().engine);
    await model.ensureLoaded();
    const all = [submit(request('a', { maxTokens: 3 })), submit(request('b', { maxTokens: 5 }))];
    await finishAll(all);
    expect(all.map((one) => tokensOf(one.events).length)).toEqual([3, 5]);
    expect(seen.memory[0]?.mappedWeightBytes).toBe(1000);
    expect(await model.ensureUnloaded()).toMatchObject({ memoryBytes: 0 });
  });

  it('keeps room for what the cache of a model may still grow by', async () => {
    const { model, submit, wait, seen } = openModel(makeEngine().engine, 'grows');
    const { memoryBytes } = await model.ensureLoaded();
    const [loaded] = seen.memory;
    expect(loaded).toMatchObject({ mappedWeightBytes: 1000, growthBytes: 500, chargedBytes: memoryBytes });
    expect(memoryBytes).toBe((loaded?.privateBytes ?? 0) + 1500);
    submit(request('a', { maxTokens: 3 }));
    await wait(() => seen.memory.at(-1)?.growthBytes === 200, 'the news of the growth');
    const grown = seen.memory.at(-1);
    expect(grown?.chargedBytes).toBe((grown?.privateBytes ?? 0) + 1200);
    model.cancel(requestId('a'));
    await model.ensureAsleep();
    const asleep = seen.memory.at(-1);
    expect(asleep).toMatchObject({ growthBytes: 0, chargedBytes: asleep?.privateBytes });
  });

  it('gives a runner nothing secret', async () => {
    vi.stubEnv('MY_API_KEY', 'secret');
    const { engine, lines } = makeEngine();
    await openModel(engine).model.ensureLoaded();
    vi.unstubAllEnvs();
    await vi.waitFor(() => expect(lines.join()).toContain('environment'));
    expect(lines.join()).toContain('PATH');
    expect(lines.join()).not.toContain('MY_API_KEY');
  });

  it('gives up a load that takes too long, and its process', async () => {
    const { model } = openModel(makeEngine({ loadTimeoutMicros: 50 * MILLI }).engine, 'load-hang');
    await expect(model.ensureLoaded()).rejects.toMatchObject({
      code: 'model_load_failed',
      message: expect.stringContaining('within'),
    });
    expect(await model.ensureUnloaded()).toMatchObject({ memoryBytes: 0 });
  });

  it('says why a runner could not be started', async () => {
    const { model } = openModel(makeEngine({}, 'dies-at-start').engine);
    for (let tries = 0; tries < 2; tries++) {
      await expect(model.ensureLoaded()).rejects.toMatchObject({
        code: 'engine_mismatch',
        message: expect.stringContaining('cannot open shared object file'),
      });
    }
  });

  it.each([
    ['load-exit', 'model_load_failed', 'exited with code 9'],
    ['load-fatal', 'engine_error', 'the tensors are confused'],
    ['load-nonsense', 'engine_error', 'no runner sends'],
  ])('tells a death while loading by the load: %s', async (behaviour, code, message) => {
    const { model, seen } = openModel(makeEngine().engine, behaviour);
    await expect(model.ensureLoaded()).rejects.toMatchObject({ code, message: expect.stringContaining(message) });
    expect(seen.deaths).toEqual([]);
    expect(seen.memory.at(-1)?.chargedBytes).toBe(0);
  });

  it.each([
    ['slice-exit', 'exited with code 9'],
    ['slice-fatal', 'the tensors are confused'],
    ['slice-nonsense', 'no runner sends'],
    ['slice-hang', 'hangs'],
  ])('fails what runs when the runner is lost, and only that: %s', async (behaviour, reason) => {
    const { engine } = makeEngine({ sliceGraceMicros: 50 * MILLI, sampleMicros: 20 * MILLI });
    const [bad, good] = [openModel(engine, behaviour), openModel(engine)];
    await Promise.all([bad.model.ensureLoaded(), good.model.ensureLoaded()]);
    const lost = bad.submit(request('lost', { maxTokens: 50 }));
    const kept = good.submit(request('kept', { maxTokens: 20 }));
    bad.model.slice({ sliceId: 1, lanes: 1, micros: 1 });
    await bad.wait(() => bad.seen.deaths.length > 0, 'the death');
    await good.finishAll([kept]);
    expect(bad.seen.deaths).toEqual([expect.stringContaining(reason)]);
    expect(lost.events.at(-1)).toMatchObject({ type: 'failed', code: 'engine_died' });
    expect(bad.seen.slices).toEqual([]);
    expect(good.seen.deaths).toEqual([]);
    expect(tokensOf(kept.events)).toHaveLength(20);
    expect(await bad.model.ensureLoaded()).toMatchObject({ from: 'cold' });
  });

  it('takes a model off that does not fall asleep', async () => {
    const { model, seen } = openModel(makeEngine().engine, 'sleep-exit');
    await model.ensureLoaded();
    await expect(model.ensureAsleep()).rejects.toMatchObject({ name: 'BerthError' });
    expect(seen.memory.at(-1)?.chargedBytes).toBe(0);
    expect(await model.ensureLoaded()).toMatchObject({ from: 'cold' });
  });

  it('unloads a runner that does not want to go', async () => {
    const { model } = openModel(makeEngine().engine, 'exit-hang');
    await model.ensureLoaded();
    expect(await model.ensureUnloaded()).toMatchObject({ memoryBytes: 0 });
  });

  it('gives the started spare to the next load, and replaces it afterwards', async () => {
    const { engine } = makeEngine({ spare: true, refillAfterMicros: 1 * MILLI });
    expect(engine.overheadBytes).toBeGreaterThan(0);
    const [first, second] = [openModel(engine), openModel(engine)];
    // The spare has had time to start: a load is now one message there and one back.
    await sleep(300);
    const { micros } = await first.model.ensureLoaded();
    await sleep(300);
    const again = await second.model.ensureLoaded();
    expect(Math.max(micros, again.micros)).toBeLessThan(30 * MILLI);
  });

  it('survives a listener that throws', async () => {
    const { model, submit, finishAll } = openModel(makeEngine().engine);
    await model.ensureLoaded();
    model.submit(request('bad'), () => {
      throw new Error('mistake');
    });
    const good = submit(request('good', { maxTokens: 4 }));
    await finishAll([good]);
    expect(tokensOf(good.events)).toHaveLength(4);
  });

  it('refuses a schema that no grammar can express, before anything waits', () => {
    const { engine } = makeEngine();
    const schema = { type: 'object', patternProperties: { '^x': { type: 'string' } } };
    expect(engine.check(request('a', { format: { type: 'json_schema', schema } }))).toMatchObject({
      code: 'unsupported_parameter',
    });
    expect(engine.check(request('a', { format: { type: 'json_schema', schema: { type: 'object' } } }))).toBeNull();
  });

  it('does not estimate what is no model', async () => {
    const { launch } = openModel(makeEngine().engine);
    const { engine } = makeEngine();
    await expect(engine.estimate(launch)).rejects.toMatchObject({ code: 'model_file_invalid' });
    await expect(engine.estimate({ ...launch, path: '/no/such/file' })).rejects.toMatchObject({
      code: 'model_file_missing',
    });
  });
});
