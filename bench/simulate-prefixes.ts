/** Mooncake's prompts: how much of their KV is at hand with room for so much, by Berth's rule and by least recently used. */
import { prefixHits } from '../src/sim/prefixes.ts';
import { readTrace } from '../src/sim/traces.ts';
import type { BenchArgs, BenchResult } from './harness.ts';
import { result } from './harness.ts';
import { tracePath } from './lib/traces.ts';

export const about = 'hit rate of kept KV on Mooncake’s prompts, against LRU and the most that is possible';

const ROOMS = [500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000];

export function run({ quick }: BenchArgs): Promise<BenchResult> {
  const path = tracePath('mooncake', 'synthetic_trace.jsonl');
  const arrivals = [...readTrace(path, { models: 1, tenants: 1, zipf: 0, seed: 1 })].slice(0, quick ? 500 : Infinity);
  const rows = ROOMS.map((room) => {
    const ours = prefixHits(arrivals, room, 'greedy-dual');
    const lru = prefixHits(arrivals, room, 'lru');
    const most = 1 - ours.firsts / ours.blocks;
    const rate = ours.hits / ours.blocks;
    return {
      case: `room for ${room} blocks of 512 tokens`,
      metric: `blocks at hand (at most ${(100 * most).toFixed(1)} %), peer LRU`,
      unit: '%',
      berth: 100 * rate,
      peer: (100 * lru.hits) / lru.blocks,
      ratio: ours.hits / Math.max(1, lru.hits),
    };
  });
  return Promise.resolve(result('simulate-prefixes', rows, { requests: arrivals.length }));
}
