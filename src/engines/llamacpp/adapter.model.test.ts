import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { describeEngine } from '../../../test/contract/engine-contract.ts';
import type { ContractWorld } from '../../../test/contract/engine-contract.ts';
import { openStory, request, tokensOf } from '../../../test/contract/stories.ts';
import type { Story } from '../../../test/contract/stories.ts';
import { gemmaPath, smollm2Path } from '../../../test/models.ts';
import { MIB, modelId, SECOND } from '../../core/ids.ts';
import type { ModelLaunch } from '../engine.ts';
import { createLlamaCppEngine } from './adapter.ts';

const folder = mkdtempSync(join(tmpdir(), 'berth-contract-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Where a runner's process id can be read: it is the only child of this process that holds the model's file. */
function killRunnerOf(launch: ModelLaunch): void {
  const own = readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, 'utf8');
  for (const pid of own.trim().split(' ')) {
    if (readFileSync(`/proc/${pid}/maps`, 'utf8').includes(launch.path)) process.kill(Number(pid), 'SIGKILL');
  }
}

function makeWorld(path: string): ContractWorld {
  const corruptPath = join(folder, 'corrupt.gguf');
  // A header whose tensors are missing: a download that was cut.
  writeFileSync(corruptPath, readFileSync(path).subarray(0, 8 * MIB));
  return {
    engine: createLlamaCppEngine(),
    launch: {
      modelId: modelId('contract'),
      path,
      contextTokens: 256,
      kvTokens: 512,
      parallel: 2,
      batchTokens: 64,
      memoryLimitBytes: 2048 * MIB,
    },
    missingPath: join(folder, 'missing.gguf'),
    corruptPath,
    kill: killRunnerOf,
    pass: (micros) => sleep(micros / 1000),
    patienceMicros: 60 * SECOND,
  };
}

describeEngine('llama.cpp with SmolLM2', () => makeWorld(smollm2Path()));

const pass = (micros: number): Promise<void> => sleep(micros / 1000);

describe('llama.cpp, several models', () => {
  const engine = createLlamaCppEngine({ compileCacheFolder: join(folder, 'cache') });
  afterAll(() => engine.close());
  const launch = (name: string, path: string, change: Partial<ModelLaunch> = {}): ModelLaunch => ({
    modelId: modelId(name),
    path,
    contextTokens: 512,
    kvTokens: 1024,
    parallel: 4,
    batchTokens: 256,
    memoryLimitBytes: 0,
    ...change,
  });
  const open = (of: ModelLaunch): Story =>
    openStory(
      { engine, launch: of, missingPath: '', corruptPath: '', kill: killRunnerOf, pass, patienceMicros: 60 * SECOND },
      of,
    );

  it('goes on with one when the runner of the other is killed', async () => {
    const [gemma, smollm2] = [open(launch('gemma', gemmaPath())), open(launch('smollm2', smollm2Path()))];
    await gemma.model.ensureLoaded();
    await smollm2.model.ensureLoaded();
    const lost = gemma.submit(request('lost', { maxTokens: 200 }));
    const kept = smollm2.submit(request('kept', { maxTokens: 30 }));
    gemma.model.slice({ sliceId: 1, lanes: 1, micros: null });
    smollm2.model.slice({ sliceId: 1, lanes: 1, micros: null });
    await gemma.wait(() => tokensOf(lost.events).length > 0, 'the first token');
    killRunnerOf(gemma.launch);
    await gemma.wait(() => gemma.seen.deaths.length > 0, 'the death');
    await smollm2.wait(() => kept.lasts() === 1, 'the end of the other');
    expect(gemma.seen.deaths[0]).toContain('SIGKILL');
    expect(lost.events.at(-1)).toMatchObject({ code: 'engine_died' });
    expect(tokensOf(kept.events)).toHaveLength(30);
    await Promise.all([gemma.model.ensureUnloaded(), smollm2.model.ensureUnloaded()]);
  });

  it('guesses within a fifth of what it then measures', async () => {
    for (const of of [launch('a', smollm2Path()), launch('b', gemmaPath(), { kvTokens: 4096, parallel: 8 })]) {
      const { model, submit, finishAll, seen } = open(of);
      const guess = await engine.estimate(of);
      await model.ensureLoaded();
      await finishAll([submit(request('one', { maxTokens: 4 }))]);
      const { memoryBytes } = await model.ensureLoaded();
      const asleep = await model.ensureAsleep();
      expect(Math.abs(guess.loadedBytes / memoryBytes - 1)).toBeLessThan(0.2);
      expect(Math.abs(guess.asleepBytes / asleep.memoryBytes - 1)).toBeLessThan(0.2);
      // What the first cache takes may be counted twice for a moment: as promised, and as had.
      expect(seen.memory.every((sample) => sample.chargedBytes <= 1.1 * memoryBytes)).toBe(true);
      await model.ensureUnloaded();
    }
  });

  it('says so when a model needs more than its limit', async () => {
    const { model, seen } = open(launch('large', smollm2Path(), { kvTokens: 2048, memoryLimitBytes: 80 * MIB }));
    await expect(model.ensureLoaded()).rejects.toMatchObject({
      code: 'model_load_failed',
      message: expect.stringContaining('memory'),
    });
    expect(seen.memory.at(-1)?.chargedBytes).toBe(0);
  });
});
