/** One request as the step's planner sees it: tokens, and how many of them are in the KV cache. Pure. */
import type { RequestId, TenantId } from '../../core/ids.ts';

export interface Sequence {
  readonly requestId: RequestId;
  readonly tenantId: TenantId;
  /** Order of arrival. */
  readonly order: number;
  readonly prompt: Int32Array;
  /** Tokens after the prompt: resumed and sampled ones. */
  readonly generated: number[];
  /** How many there will be, at a guess. Where cells can be had, they are had for so many. */
  readonly expectedTokens?: number;
  /** A saved state that it could begin with: tokens in it, and how many of them are its own first ones. */
  readonly saved?: { readonly tokens: number; readonly common: number } | null;
  /** llama.cpp's sequence id while seated. */
  seat: number | null;
  /** Tokens whose KV is in the cache. */
  cells: number;
  /** Of these, those that it did not compute itself. */
  reused: number;
  /** Another one computes its first tokens right now: it waits for those. */
  follows: { readonly leader: Sequence; readonly tokens: number } | null;
}

export const totalTokens = (sequence: Sequence): number => sequence.prompt.length + sequence.generated.length;
export const tokensLeft = (sequence: Sequence): number => totalTokens(sequence) - sequence.cells;
/** One token left, and the prompt is through: this step samples its next token. */
export const isDecoding = (sequence: Sequence): boolean => sequence.generated.length > 0 && tokensLeft(sequence) === 1;

export function tokenAt(sequence: Sequence, index: number): number {
  const { prompt, generated } = sequence;
  return (index < prompt.length ? prompt[index] : generated[index - prompt.length]) as number;
}

/**
 * Splits `budget` tokens among prefilling sequences: max-min fair (nobody gets less than an equal share unless it needs
 * less), the sum is min(budget, what is needed).
 */
export function fairShares(needs: readonly number[], budget: number): number[] {
  const shares = needs.map(() => 0);
  const ascending = needs.map((_, index) => index).toSorted((a, b) => (needs[a] as number) - (needs[b] as number));
  let left = Math.max(0, Math.floor(budget));
  for (const [done, index] of ascending.entries()) {
    const share = Math.min(needs[index] as number, Math.floor(left / (ascending.length - done)));
    shares[index] = share;
    left -= share;
  }
  return shares;
}

/** First between tenants, then between the sequences of each: whoever sends many prompts shares with himself. */
export function sharesByTenant(sequences: readonly Sequence[], budget: number): number[] {
  if (sequences.length < 2) return fairShares(sequences.map(tokensLeft), budget);
  const groups = [...Map.groupBy(sequences.keys(), (index) => (sequences[index] as Sequence).tenantId).values()].map(
    (indices) => ({ indices, needs: indices.map((index) => tokensLeft(sequences[index] as Sequence)) }),
  );
  const each = fairShares(
    groups.map(({ needs }) => needs.reduce((sum, need) => sum + need, 0)),
    budget,
  );
  const shares = sequences.map(() => 0);
  for (const [group, { indices, needs }] of groups.entries()) {
    for (const [place, share] of fairShares(needs, each[group] ?? 0).entries())
      shares[indices[place] as number] = share;
  }
  return shares;
}
