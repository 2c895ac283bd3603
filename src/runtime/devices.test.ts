import { describe, expect, test } from 'vitest';
import type { FakeDevice } from '../../test/support/fake-node.ts';
import { fakeDevices, fakeSpec } from '../../test/support/fake-node.ts';
import { DEFAULT_TENANT, SECOND, modelId } from '../core/ids.ts';
import type { FakeEngine } from '../engines/fake.ts';
import type { JournalEntry } from './journal.ts';
import { firstDivergence } from './journal.ts';
import type { BerthNode } from './node.ts';

/** Two devices of one lane each, that may both have all models. */
const two = (models: readonly string[], fit = 4): FakeDevice[] => [
  { id: 'a', fit, models },
  { id: 'b', fit, models },
];
const deviceOf = (node: BerthNode, model: string): string | undefined => node.model(model, DEFAULT_TENANT).device;
/** Answers of a known length. */
const LONG = { costs: { naturalTokens: 5000 } };

describe('two devices of one lane', () => {
  test('compute two models at the same time, each as fast as alone', async () => {
    const seconds = async (devices: FakeDevice[]): Promise<number> => {
      const { ask, timer } = await fakeDevices(devices, LONG);
      const asked = [ask('m1', { maxTokens: 200 }), ask('m2', { maxTokens: 200 })];
      await timer.settle();
      for (const each of asked) expect(each.last()?.type).toBe('finished');
      return Math.max(...asked.map((each) => timingsOf(each.last()).totalMicros)) / SECOND;
    };
    const timingsOf = (event: unknown) => (event as { timings: { totalMicros: number } }).timings;
    const [one] = two(['m1', 'm2']);
    const [alone, both] = [await seconds([one as FakeDevice]), await seconds(two(['m1', 'm2']))];
    expect(both).toBeLessThan(alone * 0.6);
  });

  test('keep books that together are all of their lanes’ time', async () => {
    const { ask, timer, node } = await fakeDevices(two(['m1', 'm2', 'm3']), LONG);
    node.takeDeviceTime();
    const began = timer.now();
    for (const model of ['m1', 'm2', 'm3', 'm1']) ask(model, { maxTokens: 50 });
    await timer.settle();
    const sum = node.takeDeviceTime().reduce((all, { laneMicros }) => all + laneMicros, 0);
    expect(Math.abs(sum / (2 * (timer.now() - began)) - 1)).toBeLessThan(0.001);
  });

  test('are shown each for itself, and together', async () => {
    const { ask, timer, node } = await fakeDevices(two(['m1', 'm2']), LONG);
    ask('m1', { maxTokens: 1000 });
    ask('m2', { maxTokens: 1000 });
    await timer.advance(SECOND);
    const { device, devices, requests } = node.status();
    expect(devices).toMatchObject([
      { id: 'a', lanes: 1, running: 1 },
      { id: 'b', lanes: 1, running: 1 },
    ]);
    expect(device).toMatchObject({ name: '2 devices', lanes: 2, memoryBytes: 2 * (devices?.[0]?.memoryBytes ?? 0) });
    expect(requests.running).toBe(2);
    await timer.settle();
    const metrics = await node.metrics();
    for (const id of ['a', 'b']) {
      expect(metrics).toContain(`berth_memory_budget_bytes{device="${id}"} ${devices?.[0]?.memoryBytes}`);
      expect(metrics).toMatch(new RegExp(`berth_device_seconds_total\\{model="m.",device="${id}"\\} [\\d.]+`));
    }
    expect(node.why('m2').map(({ device: on }) => on)).toContain(deviceOf(node, 'm2'));
  });

  test('write one journal, from which each can be replayed', async () => {
    const entries: JournalEntry[] = [];
    const journal = {
      write: (entry: JournalEntry) => void entries.push(structuredClone(entry)),
      close: () => Promise.resolve(),
    };
    const { ask, timer } = await fakeDevices(two(['m1', 'm2', 'm3'], 1), { journal });
    for (const model of ['m1', 'm2', 'm3', 'm1', 'm3']) ask(model, { maxTokens: 30 });
    await timer.settle();
    expect(new Set(entries.map(({ device }) => device))).toEqual(new Set(['a', 'b']));
    expect(firstDivergence(JSON.parse(JSON.stringify(entries)) as JournalEntry[])).toBeNull();
  });

  test('have one limit for all requests of the node', async () => {
    const { ask } = await fakeDevices(two(['m1', 'm2']), { requests: 4 });
    for (const model of ['m1', 'm2', 'm1', 'm2']) ask(model);
    expect(() => ask('m1')).toThrow(expect.objectContaining({ code: 'queue_full' }));
  });
});

describe('a model', () => {
  test('goes to the device that is less busy, and stays there while it is there', async () => {
    const { ask, timer, node } = await fakeDevices(two(['m1', 'm2', 'm3']), LONG);
    ask('m1', { maxTokens: 2000 });
    await timer.advance(SECOND);
    ask('m2', { maxTokens: 5 });
    await timer.settle();
    const [first, second] = [deviceOf(node, 'm1'), deviceOf(node, 'm2')];
    expect(new Set([first, second])).toEqual(new Set(['a', 'b']));
    // Now the other one is as free: it does not matter.
    ask('m2', { maxTokens: 2000 });
    ask('m1', { maxTokens: 5 });
    await timer.settle();
    expect([deviceOf(node, 'm1'), deviceOf(node, 'm2')]).toEqual([first, second]);
  });

  test('goes only where it is listed, however busy, and to one that is large enough', async () => {
    const devices = [
      { id: 'a', fit: 0.5, models: ['m1', 'm2'] },
      { id: 'b', fit: 3, models: ['m1', 'm2', 'mine'] },
    ];
    const { ask, timer, node } = await fakeDevices(devices, LONG);
    const asked = ['m1', 'm2', 'mine'].map((model) => ask(model, { maxTokens: 20 }));
    await timer.settle();
    for (const each of asked) expect(each.last()?.type).toBe('finished');
    expect(['m1', 'm2', 'mine'].map((model) => deviceOf(node, model))).toEqual(['b', 'b', 'b']);
  });

  test('that has left its device may go to another, and answers there as it did', async () => {
    const { ask, timer, node } = await fakeDevices(two(['m1', 'm2'], 1), LONG);
    const before = ask('m1', { maxTokens: 30, prompt: 'the same words' });
    await timer.settle();
    const stopped = node.stop('m1', DEFAULT_TENANT, { force: false });
    await timer.advance(SECOND);
    await stopped;
    ask('m2', { maxTokens: 3000 });
    ask('m2', { maxTokens: 3000 });
    await timer.advance(SECOND);
    const after = ask('m1', { maxTokens: 30, prompt: 'the same words' });
    await timer.settle();
    expect(deviceOf(node, 'm2')).not.toBe(deviceOf(node, 'm1'));
    expect(after.text()).toBe(before.text());
  });

  test('that can’t be loaded on one device is tried on another', async () => {
    const { ask, timer, node, engines } = await fakeDevices(two(['m1']));
    engines.get('a')?.faults.failNextLoad(modelId('m1'), 'model_load_failed', 'no memory');
    const failing = ask('m1');
    await timer.advance(200_000);
    expect(failing.last()).toMatchObject({ type: 'failed', message: 'no memory' });
    const next = ask('m1');
    await timer.settle();
    expect(next.last()?.type).toBe('finished');
    expect(deviceOf(node, 'm1')).toBe('b');
  });

  test('dies without a pause for those on other devices, and goes on where it was', async () => {
    const { ask, timer, node, engines } = await fakeDevices(two(['m1', 'm2']), LONG);
    const asking = { maxTokens: 400, prompt: 'the same words' };
    const alone = ask('m1', asking);
    await timer.settle();
    const [struck, other] = [ask('m1', asking), ask('m2', { maxTokens: 400 })];
    await timer.advance(SECOND);
    const home = deviceOf(node, 'm1') ?? '';
    engines.get(home)?.faults.crash(modelId('m1'));
    await timer.settle();
    expect(struck.text()).toBe(alone.text());
    expect(struck.events.map(({ type }) => type)).toContain('resumed');
    expect(other.events.map(({ type }) => type)).not.toContain('preempted');
    expect(other.last()?.type).toBe('finished');
    expect(deviceOf(node, 'm1')).toBe(home);
  });
});

describe('the configuration', () => {
  test('spreads pinned models over the devices, loads them once, and leaves them where they are', async () => {
    const models = ['m1', 'm2', 'm3', 'm4'];
    const { node, timer, configuration } = await fakeDevices(two(models), { extra: { pinned: true } });
    await timer.advance(2 * SECOND);
    const homes = models.map((model) => deviceOf(node, model));
    expect(homes.filter((home) => home === 'a').length).toBe(2);
    expect(homes.filter((home) => home === 'b').length).toBe(2);
    expect(node.models(DEFAULT_TENANT).map(({ state }) => state)).toEqual(Array(4).fill('loaded'));
    await node.configure({ ...configuration, devices: configuration.devices.map((device) => ({ ...device })) });
    await timer.advance(2 * SECOND);
    expect(models.map((model) => deviceOf(node, model))).toEqual(homes);
    expect(node.why('m1').filter(({ action }) => action === 'ensureLoaded').length).toBe(1);
  });

  test('that gives a model another device lets it finish first', async () => {
    const { node, timer, ask, configuration, engines } = await fakeDevices(two(['m1', 'm2']), LONG);
    const running = ask('m1', { maxTokens: 400 });
    await timer.advance(SECOND);
    const from = deviceOf(node, 'm1');
    const devices = configuration.devices.map((device) => ({
      ...device,
      models: ['m1', 'm2']
        .filter((model) => model !== 'm1' || device.id !== from)
        .map((model) => fakeSpec(engines.get(device.id) as FakeEngine, model)),
    }));
    await node.configure({ ...configuration, devices });
    await timer.settle();
    expect(running.last()).toMatchObject({ type: 'finished', usage: { outputTokens: 400 } });
    expect(node.model('m1', DEFAULT_TENANT).state).toBe('unloaded');
    const next = ask('m1', { maxTokens: 5 });
    await timer.settle();
    expect(next.last()?.type).toBe('finished');
    expect(deviceOf(node, 'm1')).not.toBe(from);
    await node.configure({ ...configuration, devices });
    expect(node.models(DEFAULT_TENANT).map(({ id }) => id)).toEqual(['m1', 'm2']);
  });

  test('with other devices is refused, and changes nothing', async () => {
    const { node, configuration, ask, timer } = await fakeDevices(two(['m1']));
    const [first] = configuration.devices;
    const fewer = { ...configuration, devices: first === undefined ? [] : [first] };
    await expect(node.configure(fewer)).rejects.toMatchObject({ code: 'config_invalid', param: 'devices' });
    const asked = ask('m1');
    await timer.settle();
    expect(asked.last()?.type).toBe('finished');
  });
});

test('a node that stops ends what all of its devices do', async () => {
  const { node, ask, timer, engines } = await fakeDevices(two(['m1', 'm2']), LONG);
  const asked = [ask('m1', { maxTokens: 3000 }), ask('m2', { maxTokens: 3000 })];
  await timer.advance(SECOND);
  const closing = node.close(0);
  await timer.settle();
  await closing;
  for (const each of asked) expect(each.last()).toMatchObject({ type: 'failed' });
  expect(() => ask('m1')).toThrow(expect.objectContaining({ code: 'node_stopping' }));
  expect(engines.size).toBe(2);
});
