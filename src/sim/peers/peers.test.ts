import { describe, expect, it } from 'vitest';
import { CLUSTER } from '../../../test/support/cluster.ts';
import type { Arrival } from '../arrivals.ts';
import { peerSetting } from '../columns.ts';
import { generate } from '../generate.ts';
import type { Peer } from './gpus.ts';
import { aegaeon } from './aegaeon.ts';
import { serverless } from './serverless.ts';

const PEERS: readonly Peer[] = [
  aegaeon({ prefillGpus: 1, sliceMicros: 4e6 }),
  serverless({ order: 'fcfs', keepsKv: false }),
  serverless({ order: 'srtf', keepsKv: false }),
  serverless({ order: 'srtf', keepsKv: true }),
];
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

describe.each(PEERS.map((peer) => [peer.name, peer] as const))('%s', (_, peer) => {
  it('ends every request, the same each time', () => {
    const result = peer.run(arrivals(), setting);
    expect(result.finished + result.dropped).toBe(200);
    expect(peer.run(arrivals(), setting)).toEqual(result);
  });

  it('serves a lone request in the time that its costs say', () => {
    const one: Arrival = { at: 0, model: 'model-000', tenant: 't', promptTokens: 100, outputTokens: 1 };
    // 14 GB at 16 GB/s, then a prompt of 100 tokens.
    expect(peer.run([one], setting).ttft.p50).toBe(887_000);
  });
});
