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
 * Can the first `common` of `held` tokens be gone on from? Layers with a sliding window need the cells of the last tokens before
 * that point. llama.cpp lets others have a sequence's cells that its window has left behind (`find_slot`), and leaves them out of a
 * saved one (`state_write`), so beyond the window only the whole is sure to be there.
 */
export const isWhole = (common: number, held: number, windowTokens: number): boolean =>
  windowTokens === 0 || held <= windowTokens || common === held;

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
  windowTokens: number,
): Source | null {
  const limit = totalTokens(next) - 1;
  let best: Source | null = null;
  for (const holder of idle) {
    if (holder.tenantId !== next.tenantId) continue;
    const common = commonPrefix(next, holder.tokens, limit);
    if (!isWhole(common, holder.tokens.length, windowTokens)) continue;
    if (common >= Math.max(LEAST_SHARED_TOKENS, (best?.common ?? 0) + 1))
      best = { type: 'idle', holder, common, now: common };
  }
  for (const holder of seated) {
    if (holder.tenantId !== next.tenantId) continue;
    const all = commonWith(next, holder, limit);
    // What is not computed yet is worth waiting for only where it comes soon: while the holder reads its prompt.
    const common = isDecoding(holder) ? Math.min(all, holder.cells) : all;
    if (!isWhole(Math.min(common, holder.cells), holder.cells, windowTokens)) continue;
    if (common >= Math.max(LEAST_SHARED_TOKENS, (best?.common ?? 0) + 1))
      best = { type: 'live', holder, common, now: Math.min(common, holder.cells) };
  }
  return best;
}

/** Is the new one the same conversation going on? Then nobody comes back to the old one. */
export function isContinued({ holder, common }: Extract<Source, { type: 'idle' }>): boolean {
  return holder.tokens.length - common <= CUT_TOKENS;
}
