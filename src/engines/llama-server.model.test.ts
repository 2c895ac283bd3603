import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { describeEngine } from '../../test/contract/engine-contract.ts';
import type { ContractWorld } from '../../test/contract/engine-contract.ts';
import { openStory, request, textOf, tokensOf } from '../../test/contract/stories.ts';
import type { Story } from '../../test/contract/stories.ts';
import { gemmaPath, smollm2Path } from '../../test/models.ts';
import { MIB, MILLI, modelId, requestId, SECOND } from '../core/ids.ts';
import type { ModelLaunch } from './engine.ts';
import { createLlamaServerEngine, findLlamaServer } from './llama-server.ts';

const folder = mkdtempSync(join(tmpdir(), 'berth-llama-server-'));
afterAll(() => rmSync(folder, { recursive: true }));

function hasProgram(): boolean {
  try {
    return findLlamaServer(process.env) !== '';
  } catch {
    return false;
  }
}

/** The only child of this process that holds the model's file. */
function serverOf(launch: ModelLaunch): number {
  const own = readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, 'utf8');
  for (const pid of own.trim().split(' ')) {
    if (readFileSync(`/proc/${pid}/maps`, 'utf8').includes(launch.path)) return Number(pid);
  }
  throw new Error(`no process holds ${launch.path}`);
}

/** Processor time of all its threads, in clock ticks of 10 ms: fields 14 and 15 of `proc_pid_stat(5)`. */
function ticksOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
}

const pass = (micros: number): Promise<void> => sleep(micros / 1000);
const launchOf = (name: string, path: string): ModelLaunch => ({
  modelId: modelId(name),
  path,
  contextTokens: 256,
  kvTokens: 512,
  parallel: 2,
  batchTokens: 64,
  memoryLimitBytes: 2048 * MIB,
});

function makeWorld(path: string): ContractWorld {
  const corruptPath = join(folder, 'corrupt.gguf');
  writeFileSync(corruptPath, readFileSync(path).subarray(0, 8 * MIB));
  return {
    engine: createLlamaServerEngine(),
    launch: launchOf('contract', path),
    missingPath: join(folder, 'missing.gguf'),
    corruptPath,
    kill: (launch) => process.kill(serverOf(launch), 'SIGKILL'),
    pass,
    patienceMicros: 60 * SECOND,
  };
}

if (!hasProgram()) {
  it.skip('llama-server: it is neither on the PATH nor named by BERTH_LLAMA_SERVER', () => {});
} else {
  describeEngine('llama-server with SmolLM2', () => makeWorld(smollm2Path()), {
    skips: {
      steps:
        'its steps can’t be seen from outside: a slice ends when the process has been stopped, in the middle of a step',
      sleep: 'its process can’t let go of its memory and live',
    },
  });
}

describe.skipIf(!hasProgram())('llama-server', () => {
  const engine = createLlamaServerEngine();
  afterAll(() => engine.close());
  const open = (launch: ModelLaunch): Story =>
    openStory({ ...makeWorld(launch.path), engine, launch, patienceMicros: 60 * SECOND }, launch);

  it('of two, the one that is frozen uses no processor while the other computes', async () => {
    const both = [open(launchOf('one', smollm2Path())), open(launchOf('two', gemmaPath()))];
    for (const { model } of both) await model.ensureLoaded();
    const pids = both.map(({ launch }) => serverOf(launch));
    const answers = both.map((story) => story.submit(request('long', { maxTokens: 120 })));
    let sliceId = 0;
    for (let round = 0; round < 6; round++) {
      for (const [turn, story] of both.entries()) {
        const other = pids[1 - turn] ?? 0;
        const before = ticksOf(other);
        const report = await story.sliceOnce({ sliceId: ++sliceId, lanes: 1, micros: 100 * MILLI });
        expect(ticksOf(other)).toBe(before);
        if (report.pending > 0) expect(report.wallMicros).toBeGreaterThanOrEqual(95 * MILLI);
      }
    }
    for (const [turn, story] of both.entries())
      await story.finishAll([answers[turn]].filter((one) => one !== undefined));
    expect(answers.map((answer) => tokensOf(answer.events).length)).toEqual([120, 120]);
    // What slices report is what was sent, also what was still in the socket when the server had been stopped.
    for (const { seen } of both)
      expect(seen.slices.reduce((sum, { decodeTokens }) => sum + (decodeTokens[requestId('long')] ?? 0), 0)).toBe(120);
    for (const { model } of both) await model.ensureUnloaded();
  });

  it('guesses within a quarter of what it then measures', async () => {
    const large = { contextTokens: 2048, kvTokens: 4096, parallel: 4, batchTokens: 512 };
    for (const launch of [
      { ...launchOf('a', smollm2Path()), ...large },
      { ...launchOf('b', gemmaPath()), ...large },
    ]) {
      const story = open(launch);
      const { loadedBytes } = await engine.estimate(launch);
      await story.model.ensureLoaded();
      await story.finishAll([story.submit(request('one', { maxTokens: 4 }))]);
      const { memoryBytes } = await story.model.ensureLoaded();
      expect(Math.abs(loadedBytes / memoryBytes - 1)).toBeLessThan(0.25);
      await story.model.ensureUnloaded();
    }
  });

  it('chats by the model’s own template, and goes on where it was preempted', async () => {
    const story = open(launchOf('chat', smollm2Path()));
    await story.model.ensureLoaded();
    const messages = [{ role: 'user', content: 'Name three colours.' }] as const;
    const input = { type: 'chat', messages, tools: [], toolChoice: 'none' } as const;
    const whole = story.submit(request('whole', { input, maxTokens: 16 }));
    await story.finishAll([whole]);
    const tokens = tokensOf(whole.events);
    expect(textOf(whole.events)).toMatch(/\w/);
    const rest = story.submit(request('rest', { input, maxTokens: 16, resumeTokens: tokens.slice(0, 6) }));
    await story.finishAll([rest]);
    expect(tokensOf(rest.events)).toEqual(tokens.slice(6));
    const promptOf = (one: typeof whole): unknown => one.events.find((event) => event.type === 'accepted');
    expect(promptOf(rest)).toEqual(promptOf(whole));
    await story.model.ensureUnloaded();
  });

  it('forces a schema, tells log-probabilities, and refuses tools of which the model’s template knows nothing', async () => {
    const story = open(launchOf('forms', smollm2Path()));
    await story.model.ensureLoaded();
    const called = story.submit(
      request('called', {
        input: {
          type: 'chat',
          messages: [{ role: 'user', content: 'What is the weather in Rome?' }],
          tools: [{ name: 'weather' }],
          toolChoice: 'required',
        },
      }),
    );
    const formed = story.submit(
      request('formed', {
        format: {
          type: 'json_schema',
          schema: {
            type: 'object',
            properties: { n: { type: 'integer', maximum: 9, minimum: 0 } },
            required: ['n'],
            additionalProperties: false,
          },
        },
        maxTokens: 40,
        ignoreEos: false,
      }),
    );
    const likely = story.submit(request('likely', { maxTokens: 3, logprobs: 2 }));
    await story.finishAll([called, formed, likely]);
    expect(called.events).toMatchObject([{ type: 'failed', code: 'unsupported_parameter', param: 'tools' }]);
    expect(JSON.parse(textOf(formed.events))).toHaveProperty('n');
    const logprobs = likely.events.flatMap((event) => (event.type === 'tokens' ? (event.logprobs ?? []) : []));
    expect(logprobs).toHaveLength(3);
    for (const { top, logprob, tokenId } of logprobs) {
      expect(top).toHaveLength(2);
      expect(top[0]).toMatchObject({ tokenId, logprob });
    }
    await story.model.ensureUnloaded();
  });
});
