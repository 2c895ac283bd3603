/** Names under which a model is computed with LoRA weights: to clients models of their own, to the core requests of their base. */
import { expect, test } from 'vitest';
import type { FakeNode } from '../../test/support/fake-node.ts';
import { fakeDevices } from '../../test/support/fake-node.ts';
import { DEFAULT_TENANT, modelId } from '../core/ids.ts';
import type { EngineRequest } from '../engines/engine.ts';
import type { FakeEngine } from '../engines/fake.ts';
import type { AdapterSpec } from './hosted.ts';

const sql: AdapterSpec = {
  id: modelId('sql'),
  aliases: ['query'],
  adapter: { id: modelId('sql'), path: '/adapters/sql', fingerprint: 'abc' },
  source: '/adapters/sql',
  createdSeconds: 7,
  fileBytes: 11,
};

/** A node with the model m1 and its adapter; what its engine is given is kept. */
async function nodeWithAdapter(): Promise<Omit<FakeNode, 'engine'> & { readonly given: EngineRequest[] }> {
  const given: EngineRequest[] = [];
  const node = await fakeDevices([{ id: 'cpu', lanes: 2, fit: 2, models: ['m1'] }], { extra: { adapters: [sql] } });
  const spying = (engine: FakeEngine): FakeEngine => ({
    ...engine,
    open(launch, observer) {
      const model = engine.open(launch, observer);
      return { ...model, submit: (request, sink) => (given.push(request), model.submit(request, sink)) };
    },
  });
  const devices = node.configuration.devices.map((device) => ({
    ...device,
    models: device.models.map((model) => ({
      ...model,
      engine: spying(model.engine as FakeEngine),
      launch: { ...model.launch, adapterRank: 8 },
    })),
  }));
  await node.node.configure({ ...node.configuration, devices });
  return { ...node, given };
}

test('are listed behind their base, as far on the way as it is, and hold nothing themselves', async () => {
  const { node, ask, timer } = await nodeWithAdapter();
  expect(node.models(DEFAULT_TENANT).map(({ id }) => id)).toEqual(['m1', 'sql']);
  ask('sql');
  await timer.settle();
  expect(node.model('query', DEFAULT_TENANT)).toMatchObject({
    id: 'sql',
    parent: 'm1',
    state: 'loaded',
    source: '/adapters/sql',
    chargedBytes: 0,
  });
  expect(node.model('m1', DEFAULT_TENANT).parent).toBeUndefined();
  expect(await node.metrics()).not.toContain('sql');
});

test('are computed by their base’s engine, which is told the weights', async () => {
  const { ask, timer, given } = await nodeWithAdapter();
  const [adapted, plain] = [ask('query'), ask('m1')];
  expect([adapted.handle.modelId, plain.handle.modelId]).toEqual(['sql', 'm1']);
  await timer.settle();
  for (const each of [adapted, plain]) expect(each.last()?.type).toBe('finished');
  expect(given.map(({ adapter }) => adapter)).toEqual([sql.adapter, undefined]);
});

test('lead to their base whoever loads, stops or asks why', async () => {
  const { node, timer } = await nodeWithAdapter();
  const loaded = node.load('sql', DEFAULT_TENANT);
  await timer.settle();
  await loaded;
  expect(node.model('m1', DEFAULT_TENANT).state).toBe('loaded');
  expect(node.why('sql').map(({ action }) => action)).toContain('ensureLoaded');
  const stopped = node.stop('query', DEFAULT_TENANT, { force: false });
  await timer.settle();
  await stopped;
  expect(node.model('sql', DEFAULT_TENANT).state).toBe('unloaded');
});
