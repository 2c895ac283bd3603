/**
 * Who computes next, of those who wait for a lane? Models of tenants that have received far more than others come after these; then
 * whoever is about to miss its goal, the earliest due first; then in rounds, the longest without a turn first: so a first token comes
 * soon, and not just by its goal. Models that only compute batch requests come after all others, but not never.
 */
import type { Micros } from './ids.ts';
import { SECOND } from './ids.ts';
import { isAhead, leastCounter } from './fairness.ts';
import { tenantsOf } from './queues.ts';
import type { Model, State } from './state.ts';
import { mustGet } from './state.ts';

/** Batch work gets a turn after so long, however busy the others are. */
const BATCH_PATIENCE_MICROS = 2 * SECOND;

interface Claim {
  readonly model: Model;
  /** 0: urgent; 1: its turn in the round; 2: batch. */
  readonly rank: number;
  /** Of the least served tenant that it computes for. */
  readonly counter: number;
  /** Orders within the rank: the due time, or the end of its last turn. */
  readonly key: Micros;
}

/** So late, a token's goal is lost, and hurrying does not bring it back: else those who flood the node would always be in a hurry. */
const LOST_MICROS = SECOND;

/** When the model's most pressing interactive request wants its next token; Infinity: all are lost; null: it has only batch requests. */
export function nextTokenDue(state: State, model: Model): Micros | null {
  let due: Micros | null = null;
  for (const id of model.active) {
    const { priority, firstTokenAt, dueAt, interTokenGoalMicros } = mustGet(state.requests, id);
    if (priority === 'batch') continue;
    const its = firstTokenAt === null ? dueAt : Math.max(firstTokenAt, model.lastSliceEndedAt) + interTokenGoalMicros;
    due = Math.min(due ?? Infinity, its + LOST_MICROS < state.now ? Infinity : its);
  }
  return due;
}

/** `soonMicros`: who is due so soon goes before those who are not. */
export function inTurn(state: State, waiting: readonly Model[], soonMicros: Micros): Model[] {
  const claims = waiting.map((model) => claimOf(state, model, soonMicros));
  const least = Math.min(...claims.map(({ counter }) => counter));
  const isBatch = ({ rank }: Claim): number => Number(rank === 2);
  const isFavoured = ({ counter }: Claim): number => Number(isAhead(counter, least));
  return claims
    .toSorted((a, b) => isBatch(a) - isBatch(b) || isFavoured(a) - isFavoured(b) || a.rank - b.rank || a.key - b.key)
    .map(({ model }) => model);
}

function claimOf(state: State, model: Model, soonMicros: Micros): Claim {
  const due = nextTokenDue(state, model);
  const waitsSince = model.lastSliceEndedAt;
  const counter = leastCounter(state, tenantsOf(state, model.active));
  if (due === null) {
    const isPatient = state.now - waitsSince < BATCH_PATIENCE_MICROS;
    return { model, counter, rank: isPatient ? 2 : 1, key: waitsSince };
  }
  const isUrgent = due - state.now <= soonMicros;
  return { model, counter, rank: isUrgent ? 0 : 1, key: isUrgent ? due : waitsSince };
}
