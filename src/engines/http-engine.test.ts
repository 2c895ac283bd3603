import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { openStory, request, textOf } from '../../test/contract/stories.ts';
import type { Story } from '../../test/contract/stories.ts';
import { MILLI, modelId, SECOND } from '../core/ids.ts';
import { asBerthError, BerthError } from '../errors.ts';
import type { Engine, ModelLaunch } from './engine.ts';
import type { HttpDialect } from './http-dialect.ts';
import { createHttpEngine } from './http-engine.ts';
import type { HttpEngineOptions } from './http-engine.ts';

const SERVER = join(import.meta.dirname, '../../test/fixtures/http-server.mjs');
type Mode = 'well' | 'dies' | 'loads' | 'mute' | 'hangs' | 'cuts';

/** The dialect of the stand-in; the model's path says what is wrong with it. */
function dialect(): HttpDialect {
  const usage = { promptTokens: 1, cachedTokens: 0, outputTokens: 5, prefillMicros: 0, decodeMicros: 0 };
  return {
    name: 'stand-in',
    capabilities: {
      preempts: 'token',
      sleeps: false,
      exportsKv: false,
      saltsPrefixCache: false,
      adjustableLanes: false,
      embeds: false,
      logprobs: false,
    },
    command: ({ path }, { port, apiKey }) =>
      Promise.resolve({ command: process.execPath, args: [SERVER, String(port), apiKey, path], env: {} }),
    readyPath: '/health',
    canary: async ({ client, signal }) => void (await client.ask('/one', null, { signal, deadlineMicros: null })),
    async run(_, { client, signal, emit }) {
      emit({ type: 'accepted', promptTokens: 1, cachedTokens: 0 });
      let last = 0;
      await client.stream('/many', {}, signal, (data) => {
        last = Number(data);
        emit({ type: 'tokens', text: 'x', tokenIds: [last] });
      });
      if (last !== 1) throw new Error('cut');
      emit({ type: 'finished', reason: 'stop', usage });
    },
    explain: (thrown) => (thrown instanceof BerthError ? thrown : new BerthError('engine_error', 'It was cut.')),
    explainStart: () => null,
    check: () => null,
    estimate: () => Promise.resolve({ loadedBytes: 2, asleepBytes: 1 }),
  };
}

let engine: Engine | null = null;
afterEach(() => engine?.close());

function open(mode: Mode, options: HttpEngineOptions = {}): Story {
  const own = createHttpEngine(dialect(), options);
  engine = own;
  const launch: ModelLaunch = {
    modelId: modelId(mode),
    path: mode,
    contextTokens: 16,
    kvTokens: 16,
    parallel: 1,
    batchTokens: 16,
    memoryLimitBytes: 0,
  };
  const pass = (micros: number): Promise<void> => sleep(micros / 1000);
  const kill = (): void => {};
  return openStory(
    { engine: own, launch, missingPath: '', corruptPath: '', kill, pass, patienceMicros: 15 * SECOND },
    launch,
  );
}
const failure = async (story: Story): Promise<BerthError> =>
  asBerthError(
    await story.model.ensureLoaded().then(
      () => 'it loaded',
      (error: unknown) => error,
    ),
  );

describe('a server as an engine', () => {
  it('is spoken to with its key, within slices, one request at a time where it has one place', async () => {
    const story = open('well');
    const { from } = await story.model.ensureLoaded();
    const both = [story.submit(request('one')), story.submit(request('two'))];
    await story.finishAll(both);
    expect(from).toBe('cold');
    expect(both.map(({ events }) => textOf(events))).toEqual(['xxxxx', 'xxxxx']);
    const [first, second] = both.map(({ events }) => events.at(-1));
    for (const last of [first, second]) {
      if (last?.type !== 'finished') throw new Error('no end');
      expect(last.usage.decodeMicros).toBeGreaterThan(0);
    }
  });

  it('that ends before it is ready says so with its last words', async () => {
    expect(await failure(open('dies'))).toMatchObject({
      code: 'model_load_failed',
      message: expect.stringContaining('no such tensor'),
    });
  });

  it('that is never ready, or says so but computes nothing, has failed to load', async () => {
    const late = { loadTimeoutMicros: 400 * MILLI };
    expect(await failure(open('loads', late))).toMatchObject({ code: 'model_load_failed' });
    await engine?.close();
    const mute = await failure(open('mute', late));
    expect(mute).toMatchObject({ code: 'model_load_failed', message: expect.stringContaining('no token') });
  });

  it('that says nothing while it computes is taken for dead', async () => {
    const story = open('hangs', { silenceMicros: 50 * MILLI, sampleMicros: 20 * MILLI });
    await story.model.ensureLoaded();
    const lost = story.submit(request('lost'));
    story.model.slice({ sliceId: 1, lanes: 1, micros: null });
    await story.wait(() => story.seen.deaths.length > 0, 'the death');
    expect(story.seen.deaths[0]).toContain('hangs');
    expect(lost.events.at(-1)).toMatchObject({ type: 'failed', code: 'engine_died' });
    expect(await story.model.ensureUnloaded()).toMatchObject({ memoryBytes: 0 });
  });

  it('that ends an answer in the middle has failed it, and only it', async () => {
    const story = open('cuts');
    await story.model.ensureLoaded();
    const cut = story.submit(request('cut'));
    await story.finishAll([cut]);
    expect(cut.events.at(-1)).toMatchObject({ type: 'failed', code: 'engine_error' });
    expect(story.seen.deaths).toEqual([]);
  });
});
