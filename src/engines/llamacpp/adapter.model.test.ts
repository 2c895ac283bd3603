import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { describeEngine } from '../../../test/contract/engine-contract.ts';
import type { ContractWorld } from '../../../test/contract/engine-contract.ts';
import { openStory, request, tokensOf } from '../../../test/contract/stories.ts';
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
