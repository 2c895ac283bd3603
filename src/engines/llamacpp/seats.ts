/** How many sequences a context holds: those that are computed, and idle ones of ended requests, kept for a next turn. */
import { MIB } from '../../core/ids.ts';
import type { Model } from './model.ts';
import { HOLDERS } from './window.ts';

/** llama.h's LLAMA_MAX_SEQ: `n_seq_max` can't be larger. */
const SEATS_LIMIT = 256;
const IDLE_SEATS = 28;
const FEWEST_IDLE_SEATS = 8;
/** llama.cpp keeps, and touches, a row of logits for each seat: no more idle ones than fit this, where a vocabulary is large. */
const LOGITS_BYTES = 16 * MIB;

export function seatsFor(
  { sharesPrefixes, vocabTokens, windowTokens }: Pick<Model, 'sharesPrefixes' | 'vocabTokens' | 'windowTokens'>,
  wanted: number,
): { readonly parallel: number; readonly seats: number } {
  const limit = windowTokens === 0 ? SEATS_LIMIT : SEATS_LIMIT - HOLDERS;
  const parallel = Math.min(Math.max(wanted, 1), limit);
  if (!sharesPrefixes) return { parallel, seats: parallel };
  const affordable = Math.floor(LOGITS_BYTES / (4 * vocabTokens)) - parallel;
  const idle = Math.min(Math.max(affordable, FEWEST_IDLE_SEATS), IDLE_SEATS);
  return { parallel, seats: Math.min(parallel + idle, limit) };
}
