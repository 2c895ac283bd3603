/** What two texts have in common, token by token, and which of those in the cache a new one should begin with. Pure. */
import type { KvEntryId, TenantId } from '../../core/ids.ts';
import type { Sequence } from './sequence.ts';
import { isDecoding, tokenAt, totalTokens } from './sequence.ts';

/** To share less is not worth its bookkeeping. */
const LEAST_SHARED_TOKENS = 16;
/** Of an idle sequence that a new one goes on from, so much may be cut off (templates end a turn otherwise than a model); else both are kept. */
const CUT_TOKENS = 8;

/** The KV of a request that has ended, kept in its cells. */
export interface Idle {
  readonly entryId: KvEntryId;
  readonly tenantId: TenantId;
  /** All of them are in the cache. */
  readonly tokens: Int32Array;
  /** The first of them: what it was asked. */
  readonly promptTokens: number;
  readonly seat: number;
  /** What its stay has cost those that compute, since it was last of use; nanoseconds of one lane. */
  rentNanos: number;
}

/** Whom a new sequence begins with. */
export type Source =
  | { readonly type: 'idle'; readonly holder: Idle; readonly common: number; readonly now: number }
  /** `now`: of what they have in common, what has been computed. */
  | { readonly type: 'live'; readonly holder: Sequence; readonly common: number; readonly now: number };

/**
 * Can the first `common` of `held` saved tokens be gone on from? Layers with a sliding window need the cells of the last tokens before
 * that point, and llama.cpp leaves what a sequence's window has left behind out of its saved state (`state_write`).
 */
export const isSavedWhole = (common: number, held: number, windowTokens: number): boolean =>
  windowTokens === 0 || held <= windowTokens || common === held;

/** How many of a saved sequence's first tokens spare computing them. `branch`: besides from its end, it can be gone on from there. */
export function usableTokens(common: number, held: number, windowTokens: number, branch: number | null): number {
  if (isSavedWhole(common, held, windowTokens)) return common;
  return branch !== null && branch <= common ? branch : 0;
}

/** Are the cells of the seat there that whoever goes on behind its first `cells` looks back at? Not all are where a window slides. */
export type Reaches = (seat: number, cells: number) => boolean;

/** How many of the first tokens are equal, at most `limit`. */
export function commonPrefix(sequence: Sequence, tokens: Int32Array, limit = tokens.length): number {
  const end = Math.min(totalTokens(sequence), tokens.length, limit);
  let at = 0;
  while (at < end && tokenAt(sequence, at) === tokens[at]) at += 1;
  return at;
}

function commonWith(sequence: Sequence, other: Sequence, limit: number): number {
  const end = Math.min(totalTokens(other), limit);
  let at = 0;
  while (at < end && tokenAt(sequence, at) === tokenAt(other, at)) at += 1;
  return at;
}

/** The longest common beginning among the same tenant's; of equals an idle one, which can be taken over. At least one token is left to compute. */
export function findSource(
  next: Sequence,
  seated: readonly Sequence[],
  idle: readonly Idle[],
  reaches: Reaches,
): Source | null {
  const limit = totalTokens(next) - 1;
  let best: Source | null = null;
  for (const holder of idle) {
    if (holder.tenantId !== next.tenantId) continue;
    const common = commonPrefix(next, holder.tokens, limit);
    if (common >= Math.max(LEAST_SHARED_TOKENS, (best?.common ?? 0) + 1) && reaches(holder.seat, common))
      best = { type: 'idle', holder, common, now: common };
  }
  for (const holder of seated) {
    if (holder.tenantId !== next.tenantId) continue;
    const all = commonWith(next, holder, limit);
    // What is not computed yet is worth waiting for only where it comes soon: while the holder reads its prompt.
    const common = isDecoding(holder) ? Math.min(all, holder.cells) : all;
    const now = Math.min(common, holder.cells);
    if (common >= Math.max(LEAST_SHARED_TOKENS, (best?.common ?? 0) + 1) && reaches(holder.seat as number, now))
      best = { type: 'live', holder, common, now };
  }
  return best;
}

/** Is the new one the same conversation going on? Then nobody comes back to the old one. */
export function isContinued({ holder, common }: Extract<Source, { type: 'idle' }>): boolean {
  return holder.tokens.length - common <= CUT_TOKENS;
}
