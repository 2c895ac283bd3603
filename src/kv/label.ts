/** What a KV file's head says besides the engine's own: enough to find the conversation again after a restart, and no text of it. */
import type { Micros, ModelId } from '../core/ids.ts';
import { modelId as asModelId } from '../core/ids.ts';
import { CHAIN_STEPS, HASH_PATTERN } from './chain.ts';
import type { EntryOwner } from './state.ts';

export interface Label {
  readonly steps: readonly string[];
  readonly hint: string | null;
  readonly modelId: ModelId;
  readonly uses: number;
  readonly recomputeMicros: Micros;
}

export const labelOf = (
  { steps, hint, modelId }: EntryOwner,
  uses: number,
  recomputeMicros: Micros,
): Readonly<Record<string, unknown>> => ({ chain: steps, hint, modelId, uses, recomputeMicros });

const isHash = (value: unknown): value is string => typeof value === 'string' && HASH_PATTERN.test(value);
const isWhole = (value: unknown, least: number): value is number =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= least;

/** null: it is not one of ours. */
export function readLabel(label: Readonly<Record<string, unknown>>): Label | null {
  const { chain, hint, modelId, uses, recomputeMicros } = label;
  if (!Array.isArray(chain) || chain.length === 0 || chain.length > CHAIN_STEPS || !chain.every(isHash)) return null;
  if ((hint !== null && !isHash(hint)) || typeof modelId !== 'string') return null;
  if (!isWhole(uses, 1) || !isWhole(recomputeMicros, 0)) return null;
  return { steps: chain, hint, modelId: asModelId(modelId), uses, recomputeMicros };
}
