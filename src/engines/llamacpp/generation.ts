/** A request that is being generated: its sequence, and what turns its tokens into what its client reads. */
import type { RequestId } from '../../core/ids.ts';
import type { GenerateJob, JobEvent } from './commands.ts';
import type { SavedState } from './keeper.ts';
import type { TokenSampler } from './sampling.ts';
import type { Sequence } from './sequence.ts';
import type { TextStream } from './text.ts';

export interface Generation extends Sequence {
  readonly job: GenerateJob;
  readonly sampler: TokenSampler;
  readonly text: TextStream;
  accepted: boolean;
  /** The saved state that it may begin with; null: the plan names none, or none that can be used. */
  state: SavedState | null;
  saved: { readonly tokens: number; readonly common: number } | null;
  restored: 'yes' | 'not-needed' | 'refused' | null;
  restoreMicros: number;
  prefillMicros: number;
  decodeMicros: number;
}

export type Emit = (requestId: RequestId, event: JobEvent) => void;

export interface StepOutcome {
  readonly micros: number;
  readonly prefillTokens: number;
  /** Requests that a token was sampled for. */
  readonly decoded: readonly RequestId[];
  /** Who caused how much of `micros`. */
  readonly shares: readonly (readonly [RequestId, number])[];
}
