import { describe, expect, test } from 'vitest';
import { fakeNode, fakeSpec } from '../../test/support/fake-node.ts';
import { DEFAULT_TENANT, SECOND, modelId } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import type { JournalEntry } from './journal.ts';
import { firstDivergence } from './journal.ts';

const codeOf = async (promise: Promise<unknown>): Promise<string> => {
  try {
    await promise;
    return 'no error';
  } catch (error) {
    return error instanceof BerthError ? error.code : String(error);
  }
};

describe('a request', () => {
  test('loads its model, computes and ends with its usage and where its time went', async () => {
    const { ask, timer } = await fakeNode();
    const asked = ask('m1', { maxTokens: 5 });
    await timer.settle();
    expect(asked.events.map(({ type }) => type)).toEqual([
      'loading',
      'accepted',
      ...Array<string>(5).fill('tokens'),
      'finished',
    ]);
    const last = asked.last();
    if (last?.type !== 'finished') throw new Error('not finished');
    expect(last.usage).toMatchObject({ promptTokens: 2, outputTokens: 5 });
    expect(last.timings.loadMicros).toBe(150_000);
    expect(last.timings.ttftMicros).toBeGreaterThan(last.timings.loadMicros);
  });

  test('of a model that is not there is refused at once', async () => {
    const { ask } = await fakeNode();
    expect(() => ask('nobody')).toThrow(expect.objectContaining({ code: 'model_not_found', param: 'model' }));
  });

  test('is refused when its model has a full line, with a time to come back', async () => {
    const { ask } = await fakeNode();
    for (let index = 0; index < 16; index++) ask('m1');
    expect(() => ask('m1')).toThrow(
      expect.objectContaining({ code: 'queue_full', retryAfterMicros: expect.any(Number) }),
    );
  });

  test('that is cancelled is heard of no more, waiting or computing', async () => {
    const { ask, timer, node } = await fakeNode();
    const waiting = ask('m1');
    waiting.handle.cancel();
    const computing = ask('m2', { maxTokens: 1000 });
    await timer.advance(SECOND);
    const heard = computing.events.length;
    expect(heard).toBeGreaterThan(10);
    computing.handle.cancel();
    await timer.settle();
    expect(waiting.events).toEqual([]);
    expect(computing.events.length).toBe(heard);
    expect(node.status().requests).toMatchObject({ running: 0, waiting: 0 });
  });

  test('with an id that is in use gets another', async () => {
    const { ask } = await fakeNode();
    expect(ask('m1', { id: 'same' }).handle.requestId).toBe('same');
    expect(ask('m1', { id: 'same' }).handle.requestId).toBe('same-2');
  });
});

describe('models that do not all fit', () => {
  test('take turns; every request is answered', async () => {
    const { ask, timer, node } = await fakeNode({ models: 4, fit: 2 });
    const asked = [1, 2, 3, 4, 1, 2, 3, 4].map((model) => ask(`m${model}`, { maxTokens: 20 }));
    await timer.settle();
    for (const each of asked) expect(each.last()?.type).toBe('finished');
    expect(node.models(DEFAULT_TENANT).filter(({ state }) => state === 'loaded').length).toBe(2);
  });

  test('a long request makes room after patience, is told so, and goes on where it was', async () => {
    const { ask, timer } = await fakeNode({ models: 2, fit: 1, costs: { naturalTokens: 5000 } });
    const alone = ask('m1', { maxTokens: 1500, prompt: 'the same words' });
    await timer.settle();
    const long = ask('m1', { maxTokens: 1500, prompt: 'the same words' });
    await timer.advance(SECOND);
    const other = ask('m2', { maxTokens: 5 });
    await timer.settle();
    expect(other.last()?.type).toBe('finished');
    const types = long.events.map(({ type }) => type);
    expect(types).toContain('preempted');
    expect(types.indexOf('resumed')).toBeGreaterThan(types.indexOf('preempted'));
    expect(long.text()).toBe(alone.text());
    expect(long.last()).toMatchObject({ type: 'finished', usage: { outputTokens: 1500 } });
  });
});

describe('the books', () => {
  test('balance through loads, switches and a death, and say who computed', async () => {
    const { ask, timer, node, engine } = await fakeNode({ models: 4, fit: 2 });
    node.takeDeviceTime();
    const began = timer.now();
    for (const model of [1, 2, 3, 4, 1, 2, 3, 4]) ask(`m${model}`, { maxTokens: 20 });
    await timer.settle();
    ask('m4', { maxTokens: 200 });
    await timer.advance(100_000);
    engine.faults.crash(modelId('m4'));
    await timer.settle();
    const rows = node.takeDeviceTime();
    const of = (kind: string): number => rows.reduce((sum, row) => (row.kind === kind ? sum + row.laneMicros : sum), 0);
    const all = ['compute', 'switch', 'idle', 'overhead'].reduce((sum, kind) => sum + of(kind), 0);
    expect(Math.abs(all / (2 * (timer.now() - began)) - 1)).toBeLessThan(0.001);
    expect(of('compute')).toBeGreaterThan(0);
    expect(of('switch')).toBeGreaterThan(0);
    expect(of('overhead')).toBeGreaterThanOrEqual(0);
    expect(rows.find(({ kind }) => kind === 'compute')?.payer).toEqual({ tenantId: DEFAULT_TENANT, keyId: null });
  });
});

describe('when a process dies', () => {
  test('its streams go on where they were when it is back, and say what they would have said', async () => {
    const { ask, timer, engine } = await fakeNode();
    const asking = { maxTokens: 500, prompt: 'the same words' };
    const alone = ask('m1', asking);
    await timer.settle();
    const [struck, other] = [ask('m1', asking), ask('m2', { maxTokens: 300 })];
    await timer.advance(SECOND);
    const before = struck.text().length;
    engine.faults.crash(modelId('m1'));
    await timer.settle();
    expect(before).toBeGreaterThan(0);
    expect(struck.last()).toMatchObject({ type: 'finished', usage: { outputTokens: 500 } });
    expect(struck.events.map(({ type }) => type)).toContain('resumed');
    expect(struck.text()).toBe(alone.text());
    expect(other.last()?.type).toBe('finished');
  });

  test('again and again under a request, that one ends with a clear error, and the model serves others', async () => {
    const { ask, timer, engine, node } = await fakeNode();
    const deadly = ask('m1', { prompt: 'a long prompt '.repeat(100), maxTokens: 500 });
    for (let deaths = 0; deadly.last()?.type !== 'failed'; deaths++) {
      expect(deaths).toBeLessThan(5);
      // It computes, and has no token yet.
      while (node.status().requests.running === 0) await timer.advance(1_000);
      engine.faults.crash(modelId('m1'));
      await timer.advance(1_000);
    }
    expect(deadly.last()).toMatchObject({ type: 'failed', code: 'engine_died' });
    await timer.advance(5 * SECOND);
    const again = ask('m1');
    await timer.settle();
    expect(again.last()?.type).toBe('finished');
  });

  test('a load that fails tells everybody who waited, with its reason', async () => {
    const { ask, timer, engine } = await fakeNode();
    engine.faults.failNextLoad(modelId('m1'), 'model_file_invalid', 'the header is no GGUF');
    const asked = [ask('m1'), ask('m1')];
    await timer.settle();
    for (const each of asked)
      expect(each.last()).toMatchObject({
        type: 'failed',
        code: 'model_file_invalid',
        message: 'the header is no GGUF',
      });
  });
});

describe('an operator', () => {
  test('loads, sees and stops a model', async () => {
    const { node, timer } = await fakeNode();
    const loaded = node.load('m1', DEFAULT_TENANT);
    await timer.advance(SECOND);
    await loaded;
    expect(node.model('m1', DEFAULT_TENANT)).toMatchObject({ state: 'loaded', tier: 'device' });
    const stopped = node.stop('m1', DEFAULT_TENANT, { force: false });
    await timer.advance(SECOND);
    await stopped;
    expect(node.model('m1', DEFAULT_TENANT)).toMatchObject({ state: 'unloaded', chargedBytes: 0 });
  });

  test('who forces a stop ends what runs with a reason', async () => {
    const { node, timer, ask } = await fakeNode();
    const asked = ask('m1', { maxTokens: 2000 });
    await timer.advance(SECOND);
    const stopped = node.stop('m1', DEFAULT_TENANT, { force: true });
    await timer.advance(SECOND);
    await stopped;
    expect(asked.last()).toMatchObject({ type: 'failed', code: 'model_stopped' });
  });

  test('is told why: each decision carries its rule and numbers', async () => {
    const { node, timer, ask } = await fakeNode();
    ask('m1', { id: 'explained' });
    await timer.settle();
    expect(node.why('m1').map(({ action }) => action)).toContain('ensureLoaded');
    expect(node.why('explained')[0]).toMatchObject({ action: 'startRequest', because: { rule: 'least-served' } });
    expect(() => node.why('never heard of')).toThrow(expect.objectContaining({ code: 'not_found' }));
  });

  test('who asks for a model larger than the budget is told both numbers', async () => {
    const { node, configuration, timer } = await fakeNode();
    const tiny = configuration.devices.map((each) => ({ ...each, device: { ...each.device, memoryBytes: 100 } }));
    await node.configure({ ...configuration, devices: tiny });
    expect(await codeOf(node.load('m1', DEFAULT_TENANT))).toBe('model_too_large');
    await timer.settle();
  });
});

describe('the configuration', () => {
  test('adds, removes and relaunches models while the node runs', async () => {
    const { node, configuration, timer, ask, engine } = await fakeNode();
    ask('m1');
    ask('m2');
    await timer.settle();
    const larger = { ...fakeSpec(engine, 'm1'), launch: { ...fakeSpec(engine, 'm1').launch, contextTokens: 4096 } };
    const devices = configuration.devices.map((each) => ({ ...each, models: [larger, fakeSpec(engine, 'm3')] }));
    await node.configure({ ...configuration, devices, order: [modelId('m1'), modelId('m3')] });
    await timer.settle();
    expect(() => ask('m2')).toThrow(expect.objectContaining({ code: 'model_not_found' }));
    const asked = [ask('m1'), ask('m3')];
    await timer.settle();
    for (const each of asked) expect(each.last()?.type).toBe('finished');
    expect(node.model('m1', DEFAULT_TENANT).contextTokens).toBe(4096);
  });
});

describe('the journal', () => {
  test('holds no user text and replays to the same actions', async () => {
    const entries: JournalEntry[] = [];
    const journal = {
      write: (entry: JournalEntry) => void entries.push(structuredClone(entry)),
      close: () => Promise.resolve(),
    };
    const { ask, timer, engine } = await fakeNode({ models: 4, fit: 2, journal });
    const secret = 'walrus-manifesto';
    for (const model of [1, 2, 3, 4, 2, 1]) ask(`m${model}`, { prompt: secret, maxTokens: 30 });
    await timer.advance(SECOND);
    engine.faults.crash(modelId('m1'));
    await timer.settle();
    expect(entries.length).toBeGreaterThan(30);
    expect(JSON.stringify(entries)).not.toContain(secret);
    expect(firstDivergence(JSON.parse(JSON.stringify(entries)) as JournalEntry[])).toBeNull();
    const changed = entries.map((entry) => ({
      ...entry,
      events: entry.events.filter(({ type }) => type !== 'requestFinished'),
    }));
    expect(firstDivergence(changed)).not.toBeNull();
  });
});

test('a node that stops admits nothing more and says so', async () => {
  const { node, ask, timer } = await fakeNode();
  const closing = node.close(0);
  expect(() => ask('m1')).toThrow(expect.objectContaining({ code: 'node_stopping' }));
  await timer.settle();
  await closing;
  expect(node.ready()).toBe(false);
});
