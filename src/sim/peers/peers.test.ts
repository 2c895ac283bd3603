import { describe, expect, it } from 'vitest';
import { CLUSTER } from '../../../test/support/cluster.ts';
import type { Arrival } from '../arrivals.ts';
import { peerSetting } from '../columns.ts';
import { generate, modelName } from '../generate.ts';
import { PEERS, peer as peerOf } from './all.ts';

const MODELS = Array.from({ length: 6 }, (_, index) => modelName(index));
const arrivals = (): Iterable<Arrival> =>
  generate({
    requests: 200,
    perSecond: 1,
    pattern: 'poisson',
    models: 6,
    tenants: 2,
    zipf: 0,
    seed: 2,
    meanPromptTokens: 400,
    meanOutputTokens: 100,
  });
const setting = peerSetting(CLUSTER, { column: 'compat', gpus: 2, sloScale: 1 });

describe.each(PEERS)('%s', (name) => {
  const peer = peerOf(name, 2, MODELS);

  it('ends every request, the same each time', () => {
    const result = peer.run(arrivals(), setting);
    expect(result.finished + result.dropped).toBe(200);
    expect(peer.run(arrivals(), setting)).toEqual(result);
  });

  it('serves a lone request in the time that its costs say', () => {
    const one: Arrival = { at: 0, model: 'model-000', tenant: 't', promptTokens: 100, outputTokens: 1 };
    // 14 GB at 16 GB/s, then a prompt of 100 tokens; a static model is there already.
    expect(peer.run([one], setting).ttft.p50).toBe(name === 'static' ? 12_000 : 887_000);
  });
});

it('Aegaeon needs a GPU for each of its two roles', () => {
  expect(() => peerOf('aegaeon', 1, MODELS)).toThrow(/at least 2 GPUs/);
});
