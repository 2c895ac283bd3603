import fc from 'fast-check';
import { expect, it } from 'vitest';
import { openStory, request } from '../../test/contract/stories.ts';
import type { Heard } from '../../test/contract/stories.ts';
import { createVirtualTimer } from '../../test/virtual-timer.ts';
import { MILLI, modelId, SECOND } from '../core/ids.ts';
import { createFakeEngine } from './fake.ts';

const launch = {
  modelId: modelId('fake'),
  path: '/sound.gguf',
  contextTokens: 64,
  kvTokens: 96,
  parallel: 2,
  batchTokens: 8,
  memoryLimitBytes: 0,
};

const act = fc.oneof(
  fc.constantFrom({ do: 'load' }, { do: 'sleep' }, { do: 'unload' }, { do: 'crash' }),
  fc.record({ do: fc.constant('submit'), n: fc.integer({ min: 1, max: 80 }) }),
  fc.record({ do: fc.constant('cancel'), n: fc.nat(20) }),
  fc.record({ do: fc.constant('slice'), n: fc.option(fc.nat(40 * MILLI)) }),
  fc.record({ do: fc.constant('endSlice'), n: fc.nat(20) }),
  fc.record({ do: fc.constant('pass'), n: fc.nat(300 * MILLI) }),
);

it('whatever happens in whatever order, each request has one end and each slice at most one report', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(act, { maxLength: 40 }), async (acts) => {
      const timer = createVirtualTimer();
      const engine = createFakeEngine({ timer });
      const world = {
        engine,
        launch,
        missingPath: '',
        corruptPath: '',
        kill: () => {},
        pass: (micros: number) => timer.advance(micros),
        patienceMicros: SECOND,
      };
      const { model, submit, seen } = openStory(world, launch);
      const heard: Heard[] = [];
      const cancelled = new Map<Heard, number>();
      const verbs: Promise<unknown>[] = [];
      /** A verb may be refused while time still passes: it is waited for at the end, and until then its refusal is nobody's surprise. */
      const ask = (verb: Promise<unknown>): void => {
        verb.catch(() => {});
        verbs.push(verb);
      };
      let granted = 0;
      for (const one of acts) {
        const n = 'n' in one ? one.n : null;
        if (one.do === 'load') ask(model.ensureLoaded());
        else if (one.do === 'sleep') ask(model.ensureAsleep());
        else if (one.do === 'unload') ask(model.ensureUnloaded());
        else if (one.do === 'crash') engine.faults.crash(launch.modelId);
        else if (one.do === 'submit') heard.push(submit(request(`r${heard.length}`, { maxTokens: n ?? 1 })));
        else if (one.do === 'slice') model.slice({ sliceId: ++granted, lanes: 1, micros: n });
        else if (one.do === 'endSlice') model.endSlice(n ?? 0);
        else if (one.do === 'pass') await timer.advance(n ?? 0);
        else {
          const leaving = heard[n ?? 0];
          if (leaving === undefined) continue;
          model.cancel(leaving.requestId);
          cancelled.set(leaving, leaving.events.length);
        }
      }
      const settled = Promise.allSettled(verbs);
      await timer.settle();
      await settled;
      const unloaded = model.ensureUnloaded();
      await timer.settle();
      expect(await unloaded).toMatchObject({ memoryBytes: 0 });

      for (const one of heard) {
        const silentSince = cancelled.get(one);
        if (silentSince === undefined) expect(one.lasts()).toBe(1);
        else expect(one.events.length).toBe(silentSince);
        expect(one.lasts()).toBeLessThanOrEqual(1);
      }
      const reported = seen.slices.map((report) => report.sliceId);
      expect(new Set(reported).size).toBe(reported.length);
      // A slice without a report is one that a death took along.
      if (!acts.some((one) => one.do === 'crash')) expect(reported.length).toBe(granted);
      expect(seen.memory.at(-1)?.chargedBytes ?? 0).toBe(0);
      expect(timer.waiting()).toBe(0);
    }),
    { numRuns: 150 },
  );
});
