import { expect, test } from 'vitest';
import { CLUSTER } from '../../test/support/cluster.ts';
import { asCluster, costsOf } from './costs.ts';

const gigabytes = (cluster: object, name: string): number =>
  costsOf(asCluster(cluster, 'cluster.json'), name, 'simulator').weightBytes / 1e9;

test('a model is what the last number in its name says; without one, what 0 says', () => {
  const sizes = ['model-003', 'model-4', 'v2-llama-5b', 'chat', 'constructor'].map((name) => gigabytes(CLUSTER, name));
  expect(sizes).toEqual([14, 18, 26, 14, 14]);
});

test('or what the file says of it by its name', () => {
  const named = { ...CLUSTER, profile_by_name: { chat: 'large', 'model-003': 'middle' } };
  expect(['chat', 'model-003', 'model-006'].map((name) => gigabytes(named, name))).toEqual([26, 18, 14]);
});

test.each([
  [{ profile_by_name: { chat: 'huge' } }, 'cluster.json: profile_by_name: chat is a huge, which is not in models'],
  [{ profile_by_name: { chat: 70 } }, 'profile_by_name.chat'],
  [
    { model_name_rule: { modulo: 2, profile_by_remainder: ['small', 'tiny'] } },
    'cluster.json: model_name_rule names tiny, which is not in models',
  ],
  [
    { model_name_rule: { modulo: 3, profile_by_remainder: ['small'] } },
    'cluster.json: model_name_rule needs an entry in profile_by_remainder for each remainder: 3, not 1',
  ],
  [
    { cluster: { ...CLUSTER.cluster, gpu_memory_gb: 26 } },
    'cluster.json: models: the weights of large leave no room on a GPU of 26 GB (cluster.gpu_memory_gb)',
  ],
])('a cluster.json with %j is refused, and told why', (change, message) => {
  expect(() => asCluster({ ...CLUSTER, ...change }, 'cluster.json')).toThrow(message);
});
