/**
 * How much of the prompts' KV is at hand when it is kept by this policy or that, as far as its room goes? Over traces with block ids
 * (Mooncake): a prompt's blocks are at hand up to the first one that is not.
 */
import { createGreedyDual } from '../kv/value.ts';
import type { Arrival } from './arrivals.ts';

/** `greedy-dual`: what Berth's KV tiers use (`src/kv/value.ts`). */
export type KeepPolicy = 'lru' | 'greedy-dual';

export interface PrefixHits {
  readonly blocks: number;
  readonly hits: number;
  /** Blocks seen for the first time: no policy can have them. */
  readonly firsts: number;
}

interface Kept {
  has(block: number): boolean;
  /** The blocks of one prompt, its last first, so that of equals the end of a chain leaves before its beginning. */
  touch(blocks: readonly number[]): void;
}

export function prefixHits(arrivals: Iterable<Arrival>, roomBlocks: number, policy: KeepPolicy): PrefixHits {
  const kept = policy === 'lru' ? lru(roomBlocks) : greedyDual(roomBlocks);
  const seen = new Set<number>();
  let blocks = 0;
  let hits = 0;
  for (const { blocks: ids = [] } of arrivals) {
    blocks += ids.length;
    let at = 0;
    while (at < ids.length && kept.has(ids[at] as number)) at++;
    hits += at;
    for (const id of ids) seen.add(id);
    kept.touch(ids.toReversed());
  }
  return { blocks, hits, firsts: seen.size };
}

function lru(room: number): Kept {
  const blocks = new Set<number>();
  return {
    has: (block) => blocks.has(block),
    touch(ids) {
      for (const id of ids) {
        blocks.delete(id);
        blocks.add(id);
      }
      for (const id of blocks) {
        if (blocks.size <= room) break;
        blocks.delete(id);
      }
    },
  };
}

/** All blocks are as large and take as long to compute: what counts is how often one was asked for, and how long ago. */
const BLOCK = { costMicros: 1_000, bytes: 1024 * 1024, superseded: false } as const;

function greedyDual(room: number): Kept {
  const values = createGreedyDual<number>();
  const uses = new Map<number, number>();
  return {
    has: (block) => uses.has(block),
    touch(ids) {
      for (const id of ids) {
        const count = (uses.get(id) ?? 0) + 1;
        uses.set(id, count);
        values.set(id, { ...BLOCK, uses: count });
      }
      while (uses.size > room) {
        const least = values.least();
        if (least === null) break;
        values.leave(least.key);
        uses.delete(least.key);
      }
    },
  };
}
