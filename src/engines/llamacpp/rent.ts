/**
 * What an idle sequence costs while it lies in the context. All sequences share one cache (`kv_unified`), and attention passes over
 * each of its used cells for each row of a step, also over those that the row's mask hides. Moving the sequence to a file and back
 * costs something, too, so it stays until it has cost as much as that: then the two together are at most twice what the better of
 * both would have been, whenever its next turn comes (the ski rental problem).
 */
import type { Model } from './model.ts';

/** One lane's time for one masked cell, in one layer for one head; measured with 1 and 32 rows beside 5,000 idle cells (decision 0008). */
const CELL_NANOS = 2;
/** Out to a file in memory and back, of a small model on one core. */
const MOVE_NANOS = 2_000_000;
const MOVE_TOKEN_NANOS = 10_000;

/** Of one idle cell, for each row that is computed: nanoseconds of one lane. */
export const cellRowNanos = ({ llama, pointer }: Pick<Model, 'llama' | 'pointer'>): number =>
  CELL_NANOS * llama.llama_model_n_layer(pointer) * llama.llama_model_n_head(pointer);

export const moveNanos = (tokens: number): number => MOVE_NANOS + MOVE_TOKEN_NANOS * tokens;
