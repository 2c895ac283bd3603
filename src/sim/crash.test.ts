import { expect, test } from 'vitest';
import { CLUSTER } from '../../test/support/cluster.ts';
import type { CoreEvent } from '../core/events.ts';
import type { ActionId, Micros } from '../core/ids.ts';
import { modelId, requestId, SECOND } from '../core/ids.ts';
import { berthSetting } from './columns.ts';
import { SimDevice } from './device.ts';
import type { Job } from './engine.ts';
import { createJob } from './engine.ts';
import { DeviceFaults, Faults } from './faults.ts';
import { createTrack } from './recorder.ts';
import { noWork } from './report.ts';
import { Timeline } from './timeline.ts';

const NAME = 'model-000';
const ID = modelId(NAME);

/** A device with one model on it and one request in it: a prompt of 100 tokens, an answer of 50. */
function setUp(): {
  faults: Faults;
  device: SimDevice;
  job: Job;
  heard: CoreEvent[];
  ended: boolean[];
  begin: () => void;
  runFor: (micros: Micros) => void;
} {
  const {
    device: setting,
    slo,
    models,
  } = berthSetting(CLUSTER, { column: 'honest', gpus: 1, sloScale: 1, models: [NAME] });
  const timeline = new Timeline();
  const heard: CoreEvent[] = [];
  const ended: boolean[] = [];
  // So rare that nothing strikes but what the test does.
  const faults = new Faults({ seed: 1, rate: 1e-9 });
  const model = models[0] as (typeof models)[number];
  const device = new SimDevice({
    timeline,
    setting,
    slo,
    work: noWork(),
    modelOf: () => ({ ...model, keepsKv: true }),
    tell: (event) => void heard.push(event),
    onEnded: (_, isFinished) => void ended.push(isFinished),
    onGone: () => undefined,
    faults: new DeviceFaults(faults, 0),
  });
  const job = createJob(requestId('r1'), createTrack(slo, 0, 0, 100, 50));
  let action: ActionId = 1;
  const runFor = (micros: Micros): void => {
    const until = timeline.now + micros;
    for (let at = timeline.nextAt; at !== null && at < until; at = timeline.nextAt) timeline.runUntil(at);
    timeline.runUntil(until);
  };
  const begin = (): void => {
    device.load(ID, action++);
    runFor(SECOND);
    device.submit(ID, job);
    device.grant(ID, action++, 1, null, SECOND);
  };
  return { faults, device, job, heard, ended, begin, runFor };
}

test('a crash takes the step under way and all KV; the tokens so far are kept, and the rest comes after a new load', () => {
  const { faults, device, job, heard, ended, begin, runFor } = setUp();
  begin();
  runFor(200_000);
  const before = job.tokens;
  device.strike('crash', 0);
  // A prompt of 12 ms, then steps of 10.1 ms: the tokens of all that have ended were seen, though the run was planned as one.
  expect(before).toBe(1);
  expect(job.tokens).toBe(1 + Math.floor((200_000 - 12_000) / 10_130));
  expect(heard.slice(-2)).toEqual([
    { type: 'requestLost', requestId: 'r1' },
    { type: 'engineDied', modelId: ID },
  ]);
  expect(job).toMatchObject({ context: 0, promptLeft: 100 + job.tokens });
  expect(faults.costs).toMatchObject({ crashes: 1, recomputedTokens: 100 + job.tokens });
  begin();
  runFor(SECOND);
  expect(ended).toEqual([true]);
  expect(job.tokens).toBe(50);
});

test('an engine that hangs says nothing for a minute, then it is killed', () => {
  const { device, heard, begin, runFor } = setUp();
  begin();
  runFor(200_000);
  const before = heard.length;
  device.strike('hang', 0);
  runFor(59 * SECOND);
  expect(heard.length).toBe(before);
  runFor(SECOND);
  expect(heard.slice(before).map(({ type }) => type)).toEqual(['requestLost', 'engineDied']);
});

test('a request under which a third engine dies without a token is given up', () => {
  const { device, job, heard, ended, begin } = setUp();
  for (let death = 0; death < 3; death++) {
    begin();
    device.strike('crash', 0);
  }
  expect(job.tokens).toBe(0);
  expect(ended).toEqual([false]);
  expect(heard.filter(({ type }) => type === 'requestLost')).toHaveLength(2);
  expect(heard.at(-2)).toMatchObject({ type: 'requestFinished', failed: true });
});

test('without a model there, nothing is struck', () => {
  const { faults, device, heard } = setUp();
  device.strike('crash', 0.5);
  device.strike('hang', 0.5);
  expect(heard).toEqual([]);
  expect(faults.costs).toMatchObject({ crashes: 0, hangs: 0 });
});
