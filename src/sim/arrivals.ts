/** What all traces come down to: who asks which model when, for how much. No text. */
import type { Micros } from '../core/ids.ts';

export interface Arrival {
  /** From the start of the trace; never earlier than the arrival before. */
  readonly at: Micros;
  /** Name of the model. */
  readonly model: string;
  readonly tenant: string;
  readonly promptTokens: number;
  /** At least 1. Known to the simulated device only: no policy reads it. */
  readonly outputTokens: number;
  /** The limit that the client names; else the model's context is. */
  readonly maxTokens?: number;
  /** Ids of the prompt's blocks: equal ids at the same places are an equal beginning (Mooncake's traces have them). */
  readonly blocks?: readonly number[];
}

/** Shares of the models and tenants by which arrivals that have none are given theirs. */
export interface Mapping {
  readonly models: number;
  readonly tenants: number;
  /** Exponent of Zipf's law by which models are popular; 0: all alike. */
  readonly zipf: number;
  readonly seed: number;
}
