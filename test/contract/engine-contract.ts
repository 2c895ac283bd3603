/**
 * The contract of `src/engines/engine.ts` as stories. Every engine runs them: the fake by a virtual clock, the others for real.
 * It is not about speed, nor about what a model says, nor about which request goes first.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Micros } from '../../src/core/ids.ts';
import { MILLI } from '../../src/core/ids.ts';
import type { Engine, ModelLaunch } from '../../src/engines/engine.ts';
import { countOf, embedRequest, openStory, request, textOf, tokensOf } from './stories.ts';
import type { Story } from './stories.ts';

export interface ContractWorld {
  readonly engine: Engine;
  /** A small, sound model, cold. At least 128 tokens of context, two in parallel. */
  readonly launch: ModelLaunch;
  readonly missingPath: string;
  readonly corruptPath: string;
  /** Ends the model's process as if the kernel had. */
  kill(launch: ModelLaunch): void;
  /** Lets time pass. */
  pass(micros: Micros): Promise<void>;
  /** How much of it a story may take before it has failed. */
  readonly patienceMicros: Micros;
}

type ContractPart = 'compute' | 'gate' | 'ids' | 'steps' | 'sleep' | 'embed' | 'death' | 'files' | 'resume';

export interface ContractOptions {
  /** Parts that this engine can't do, each with the reason. */
  readonly skips?: Partial<Record<ContractPart, string>>;
}

export function describeEngine(
  name: string,
  makeWorld: () => ContractWorld | Promise<ContractWorld>,
  options: ContractOptions = {},
): void {
  let world: ContractWorld;
  /** A story with a model of its own, which is unloaded in the end. */
  const tell = (title: string, story: (story: Story) => Promise<void>, change: Partial<ModelLaunch> = {}): void => {
    it(title, async () => {
      const open = openStory(world, { ...world.launch, ...change });
      try {
        await story(open);
      } finally {
        await open.until(open.model.ensureUnloaded());
      }
    });
  };
  const part = (which: ContractPart, tellParts: () => void): void => {
    const reason = options.skips?.[which];
    if (reason === undefined) describe(which, tellParts);
    else it.skip(`${which}: ${reason}`, () => {});
  };

  describe(`the engine contract, kept by ${name}`, () => {
    beforeAll(async () => {
      world = await makeWorld();
    });
    afterAll(() => world?.engine.close());

    describe('state', () => {
      tell('loads once, however many ask, and again at no cost', async ({ model, until, seen }) => {
        const [first, second] = await until(Promise.all([model.ensureLoaded(), model.ensureLoaded()]));
        expect(first).toBe(second);
        expect(first).toMatchObject({ from: 'cold' });
        expect(first.memoryBytes).toBeGreaterThan(0);
        expect(seen.memory.at(-1)?.chargedBytes).toBeGreaterThan(0);
        expect(await until(model.ensureLoaded())).toMatchObject({ from: 'already' });
      });

      tell('unloads what is cold at no cost', async ({ model, until }) => {
        expect(await until(model.ensureUnloaded())).toMatchObject({ memoryBytes: 0 });
      });

      tell(
        'frees everything with the unload and fails what still runs',
        async ({ model, until, submit, seen, wait }) => {
          await until(model.ensureLoaded());
          const running = submit(request('one', { maxTokens: 100 }));
          model.slice({ sliceId: 1, lanes: 1, micros: null });
          await wait(() => running.events.some((event) => event.type === 'tokens'), 'the first token');
          expect(await until(model.ensureUnloaded())).toMatchObject({ memoryBytes: 0 });
          expect(running.events.at(-1)).toMatchObject({ type: 'failed', code: 'model_stopped' });
          expect(running.lasts()).toBe(1);
          expect(seen.memory.at(-1)?.chargedBytes).toBe(0);
          expect(seen.slices.filter((report) => report.sliceId === 1)).toHaveLength(1);
          expect(seen.deaths).toEqual([]);
        },
      );

      tell('can be told to unload while it loads', async ({ model, until }) => {
        const loading = model.ensureLoaded().then(
          () => 'loaded',
          (error: unknown) => error,
        );
        expect(await until(model.ensureUnloaded())).toMatchObject({ memoryBytes: 0 });
        const outcome = await until(loading);
        if (outcome !== 'loaded') expect(outcome).toMatchObject({ code: 'model_stopped' });
        expect(await until(model.ensureLoaded())).toMatchObject({ from: 'cold' });
      });

      tell('refuses a request while it is cold, and ends a slice at once', async ({ submit, model, seen, wait }) => {
        const refused = submit(request('one'));
        model.slice({ sliceId: 4, lanes: 1, micros: null });
        await wait(() => refused.lasts() === 1 && seen.slices.length === 1, 'the refusal and the end of the slice');
        expect(refused.events).toMatchObject([{ type: 'failed', code: 'model_stopped' }]);
        expect(seen.slices[0]).toMatchObject({ sliceId: 4, ended: 'idle', steps: 0 });
      });

      it('estimates the bytes before it has measured any', async () => {
        const { loadedBytes, asleepBytes } = await world.engine.estimate(world.launch);
        expect(asleepBytes).toBeGreaterThan(0);
        expect(loadedBytes).toBeGreaterThan(asleepBytes);
      });
    });

    part('compute', () => {
      part('gate', () => {
        tell('computes nothing without a slice', async ({ model, until, submit, pass, seen, finishAll }) => {
          await until(model.ensureLoaded());
          const patient = submit(request('one', { maxTokens: 4 }));
          await pass(50 * MILLI);
          expect(patient.events.filter((event) => event.type !== 'accepted')).toEqual([]);
          expect(seen.slices).toEqual([]);
          await finishAll([patient]);
          expect(countOf(patient.events)).toBe(4);
        });
      });

      part('ids', () => {
        tell('tells the ids of what it generates', async ({ model, until, submit, finishAll }) => {
          await until(model.ensureLoaded());
          const told = submit(request('one', { maxTokens: 7 }));
          await finishAll([told]);
          expect(tokensOf(told.events)).toHaveLength(7);
        });
      });

      part('steps', () => {
        tell('ends a slice with the step that its time runs out in, and counts what it sent', async (story) => {
          const { model, until, submit, seen, sliceOnce } = story;
          await until(model.ensureLoaded());
          const all = [submit(request('one', { maxTokens: 6 })), submit(request('two', { maxTokens: 9 }))];
          let sliceId = 0;
          while (all.some((one) => one.lasts() === 0) && sliceId < 100)
            await sliceOnce({ sliceId: ++sliceId, lanes: 1, micros: 1 });
          expect(seen.slices.map((report) => report.sliceId)).toEqual(seen.slices.map((_, i) => i + 1));
          expect(seen.slices[0]).toMatchObject({ ended: 'time', steps: 1 });
          for (const report of seen.slices) {
            expect(report.steps).toBeLessThanOrEqual(1);
            expect(report.computeMicros).toBeLessThanOrEqual(report.wallMicros);
          }
          for (const one of all) {
            const counted = seen.slices.reduce((sum, report) => sum + (report.decodeTokens[one.requestId] ?? 0), 0);
            expect(counted).toBe(tokensOf(one.events).length);
            expect(one.events.at(-1)).toMatchObject({ type: 'finished', reason: 'length' });
          }
          expect(seen.slices.reduce((sum, report) => sum + report.prefillTokens, 0)).toBeGreaterThan(0);
        });
      });

      tell('ends a slice that has nothing to do', async ({ model, until, submit, sliceOnce }) => {
        await until(model.ensureLoaded());
        expect(await sliceOnce({ sliceId: 1, lanes: 1, micros: null })).toMatchObject({
          ended: 'idle',
          steps: 0,
          pending: 0,
        });
        const short = submit(request('one', { maxTokens: 3 }));
        expect(await sliceOnce({ sliceId: 2, lanes: 2, micros: null })).toMatchObject({
          ended: 'idle',
          lanes: 2,
          pending: 0,
        });
        expect(short.lasts()).toBe(1);
      });

      tell(
        'ends a slice when told to, and goes on in the next',
        async ({ model, until, submit, wait, seen, finishAll }) => {
          await until(model.ensureLoaded());
          const long = submit(request('one', { maxTokens: 60 }));
          model.slice({ sliceId: 1, lanes: 1, micros: null });
          await wait(() => long.types('tokens').length > 0, 'the first token');
          model.endSlice(1);
          await wait(() => seen.slices.length === 1, 'the end of the slice');
          expect(seen.slices[0]).toMatchObject({ sliceId: 1, ended: 'told', pending: 1 });
          model.endSlice(1);
          await finishAll([long]);
          expect(countOf(long.events)).toBe(60);
        },
      );

      tell('tells each request its events in order, and one last', async ({ model, until, submit, finishAll }) => {
        await until(model.ensureLoaded());
        const all = ['one', 'two', 'three', 'four', 'five'].map((id) => submit(request(id, { maxTokens: 5 })));
        await finishAll(all);
        for (const one of all) {
          expect(one.events.map((event) => event.type)).toEqual(['accepted', ...one.types('tokens'), 'finished']);
          expect(one.events.at(-1)).toMatchObject({ usage: { outputTokens: 5 } });
        }
      });

      tell(
        'falls silent when cancelled, and frees the place',
        async ({ model, until, submit, wait, seen, sliceOnce, finishAll }) => {
          await until(model.ensureLoaded());
          const leaves = submit(request('leaves', { maxTokens: 100 }));
          const stays = submit(request('stays', { maxTokens: 12 }));
          model.slice({ sliceId: 1, lanes: 1, micros: null });
          await wait(() => leaves.types('tokens').length > 0, 'the first token');
          model.cancel(leaves.requestId);
          model.cancel(request('never seen').requestId);
          const heard = leaves.events.length;
          model.endSlice(1);
          await wait(() => seen.slices.length === 1, 'the end of the slice');
          await finishAll([stays]);
          expect(countOf(stays.events)).toBe(12);
          expect(leaves.events).toHaveLength(heard);
          expect(await sliceOnce({ sliceId: 99, lanes: 1, micros: null })).toMatchObject({ ended: 'idle', pending: 0 });
        },
      );

      tell('cuts the text before a stop string', async ({ model, until, submit, finishAll }) => {
        await until(model.ensureLoaded());
        const whole = submit(request('whole', { maxTokens: 24 }));
        await finishAll([whole]);
        const text = textOf(whole.events);
        const stop = text.slice(Math.floor(text.length / 2), Math.floor(text.length / 2) + 5);
        const cut = submit(request('cut', { maxTokens: 24, stop: [stop] }));
        await finishAll([cut]);
        expect(textOf(cut.events)).toBe(text.slice(0, text.indexOf(stop)));
        expect(cut.events.at(-1)).toMatchObject({ type: 'finished', reason: 'stop' });
      });

      tell('refuses a prompt that is longer than the context', async ({ model, until, submit, sliceOnce, launch }) => {
        await until(model.ensureLoaded());
        const long = submit(
          request('long', { input: { type: 'tokens', tokens: Array(launch.contextTokens + 1).fill(5) } }),
        );
        await sliceOnce({ sliceId: 1, lanes: 1, micros: null });
        expect(long.events).toMatchObject([{ type: 'failed', code: 'context_length_exceeded' }]);
      });
    });

    part('resume', () => {
      tell('goes on after tokens that were sent before', async ({ model, until, submit, finishAll }) => {
        await until(model.ensureLoaded());
        const whole = submit(request('whole', { maxTokens: 10 }));
        await finishAll([whole]);
        const tokens = tokensOf(whole.events);
        const rest = submit(request('rest', { maxTokens: 10, resumeTokens: tokens.slice(0, 4) }));
        await finishAll([rest]);
        expect(tokensOf(rest.events)).toEqual(tokens.slice(4));
        expect(textOf(whole.events).endsWith(textOf(rest.events))).toBe(true);
      });
    });

    part('sleep', () => {
      tell('sleeps on less memory, and says the same when it wakes', async ({ model, until, submit, finishAll }) => {
        const { memoryBytes } = await until(model.ensureLoaded());
        const before = submit(request('before', { maxTokens: 12 }));
        await finishAll([before]);
        const asleep = await until(model.ensureAsleep());
        expect(asleep.memoryBytes).toBeGreaterThan(0);
        expect(asleep.memoryBytes).toBeLessThan(memoryBytes);
        expect(await until(model.ensureAsleep())).toMatchObject({ memoryBytes: expect.any(Number) });
        expect(await until(model.ensureLoaded())).toMatchObject({ from: 'asleep' });
        const after = submit(request('after', { maxTokens: 12 }));
        await finishAll([after]);
        expect(textOf(after.events)).toBe(textOf(before.events));
      });

      tell('leaves what is cold cold', async ({ model, until }) => {
        expect(await until(model.ensureAsleep())).toMatchObject({ memoryBytes: 0 });
      });

      tell('does not sleep on a request', async ({ model, until, submit, finishAll }) => {
        await until(model.ensureLoaded());
        const waiting = submit(request('one', { maxTokens: 4 }));
        await expect(until(model.ensureAsleep())).rejects.toMatchObject({ code: 'engine_error' });
        await finishAll([waiting]);
      });
    });

    part('files', () => {
      const refuses = (code: string, path: (of: ContractWorld) => string): Promise<void> => {
        const story = openStory(world, { ...world.launch, path: path(world) });
        return expect(story.until(story.model.ensureLoaded())).rejects.toMatchObject({ name: 'BerthError', code });
      };
      it('says when the file is missing', () => refuses('model_file_missing', (of) => of.missingPath));
      it('says when the file is corrupt', () => refuses('model_file_invalid', (of) => of.corruptPath));
    });

    part('death', () => {
      tell('fails all requests when the process dies, tells it once, and loads again', async (story) => {
        const { model, until, submit, wait, seen, finishAll, launch } = story;
        await until(model.ensureLoaded());
        const running = submit(request('running', { maxTokens: 100 }));
        const waiting = submit(request('waiting', { maxTokens: 100 }));
        model.slice({ sliceId: 1, lanes: 1, micros: null });
        await wait(() => running.types('tokens').length > 0, 'the first token');
        let failedBefore = false;
        seen.onDeath = () => {
          failedBefore = running.lasts() === 1 && waiting.lasts() === 1;
        };
        world.kill(launch);
        await wait(() => seen.deaths.length > 0, 'the death');
        expect(failedBefore).toBe(true);
        for (const one of [running, waiting]) {
          expect(one.events.at(-1)).toMatchObject({ type: 'failed', code: 'engine_died' });
          expect(one.lasts()).toBe(1);
        }
        expect(seen.deaths).toHaveLength(1);
        expect(seen.memory.at(-1)?.chargedBytes).toBe(0);
        expect(await until(model.ensureLoaded())).toMatchObject({ from: 'cold' });
        const again = submit(request('again', { maxTokens: 3 }));
        await finishAll([again]);
        expect(countOf(again.events)).toBe(3);
      });
    });

    part('embed', () => {
      tell('embeds each text, equal ones equally', async ({ model, until, submit, finishAll }) => {
        await until(model.ensureLoaded());
        const embedded = submit(embedRequest('one', ['a quiet harbour', 'the price of copper', 'a quiet harbour']));
        await finishAll([embedded]);
        const last = embedded.events.at(-1);
        if (last?.type !== 'embedded') throw new Error(`ended with ${last?.type}`);
        const [a, b, c] = last.vectors;
        const cosine = (x: Float32Array = new Float32Array(), y: Float32Array = new Float32Array()): number =>
          x.reduce((sum, value, i) => sum + value * (y[i] ?? 0), 0) / (Math.hypot(...x) * Math.hypot(...y));
        expect(last.vectors).toHaveLength(3);
        expect(cosine(a, c)).toBeCloseTo(1, 3);
        expect(cosine(a, b)).toBeLessThan(0.999);
        expect(last.usage.promptTokens).toBeGreaterThan(3);
      });
    });
  });
}
