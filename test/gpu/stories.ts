/** What every server with a GPU must show: the contract, and what it can't show without one. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { MIB, modelId, SECOND } from '../../src/core/ids.ts';
import type { Engine, ModelLaunch } from '../../src/engines/engine.ts';
import { describeEngine } from '../contract/engine-contract.ts';
import type { ContractWorld } from '../contract/engine-contract.ts';
import { openStory, request, textOf } from '../contract/stories.ts';

/** `variable` names its program; BERTH_GPU_MODEL a folder with a small model that generates. */
export function describeOnGpu(name: string, variable: string, makeEngine: () => Engine): void {
  const path = process.env['BERTH_GPU_MODEL'];
  const isReady = path !== undefined && process.env[variable] !== undefined;
  if (!isReady) {
    it.skip(`${name}: set ${variable} and BERTH_GPU_MODEL`, () => {});
    return;
  }
  const folder = mkdtempSync(join(tmpdir(), 'berth-gpu-'));
  mkdirSync(join(folder, 'corrupt'));
  writeFileSync(join(folder, 'corrupt', 'config.json'), '{');
  afterAll(() => rmSync(folder, { recursive: true }));
  const launch: ModelLaunch = {
    modelId: modelId('gpu'),
    path,
    contextTokens: 2048,
    kvTokens: 8192,
    parallel: 4,
    batchTokens: 512,
    memoryLimitBytes: 0,
  };
  const worldOf = (engine: Engine): ContractWorld => ({
    engine,
    launch,
    missingPath: join(folder, 'missing'),
    corruptPath: join(folder, 'corrupt'),
    kill: () => process.kill(serverOf(path), 'SIGKILL'),
    pass: (micros) => sleep(micros / 1000),
    patienceMicros: 300 * SECOND,
  });

  describeEngine(`${name} on a GPU`, () => worldOf(makeEngine()), {
    skips: {
      steps:
        'its steps can’t be seen from outside: a slice ends when the process has been stopped, in the middle of a step',
      embed: 'the model generates; what embeds is another model',
    },
  });

  describe(`${name} on a GPU`, () => {
    const engine = makeEngine();
    afterAll(() => engine.close());

    it('gives most of the device’s memory back while it sleeps, three times, and says the same after each', async () => {
      const story = openStory(worldOf(engine), launch);
      const { memoryBytes } = await story.model.ensureLoaded();
      const { loadedBytes } = await engine.estimate(launch);
      expect(Math.abs(loadedBytes / memoryBytes - 1)).toBeLessThan(0.5);
      const texts: string[] = [];
      for (let round = 0; round < 3; round++) {
        const answer = story.submit(request(`round ${round}`, { maxTokens: 32 }));
        await story.finishAll([answer]);
        texts.push(textOf(answer.events));
        const asleep = await story.model.ensureAsleep();
        expect(memoryBytes - asleep.memoryBytes).toBeGreaterThan(64 * MIB);
        expect(await story.model.ensureLoaded()).toMatchObject({ from: 'asleep' });
      }
      expect(new Set(texts).size).toBe(1);
      await story.model.ensureUnloaded();
    });
  });
}

function serverOf(path: string): number {
  const own = readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, 'utf8');
  for (const pid of own.trim().split(' '))
    if (readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(path)) return Number(pid);
  throw new Error(`no process serves ${path}`);
}
