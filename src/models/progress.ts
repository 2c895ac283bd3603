import type { Bytes } from '../core/ids.ts';

/** What a pull tells while it runs. Bytes are those of the present phase. */
export interface PullProgress {
  readonly phase: 'resolving' | 'downloading' | 'unpacking' | 'copying' | 'verifying' | 'done';
  readonly receivedBytes: Bytes;
  /** null: not known yet. */
  readonly totalBytes: Bytes | null;
  /** What is being fetched (`gemma3-270m-part2`), where it isn't the model itself. */
  readonly item?: string;
}

export type OnProgress = (progress: PullProgress) => void;
