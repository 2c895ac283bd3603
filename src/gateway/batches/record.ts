/** A batch as it is remembered, and as OpenAI shows it. https://platform.openai.com/docs/api-reference/batch */
import { randomBytes } from 'node:crypto';
import type { TenantId } from '../../core/ids.ts';
import type { BatchRow } from '../../store/files.ts';

export const ENDPOINTS = ['/v1/chat/completions', '/v1/completions', '/v1/embeddings'] as const;
export type Endpoint = (typeof ENDPOINTS)[number];

export type BatchState =
  | 'validating'
  | 'failed'
  | 'in_progress'
  | 'finalizing'
  | 'completed'
  | 'expired'
  | 'cancelling'
  | 'cancelled';

/** States in which there is work to do. */
export const UNDONE: readonly BatchState[] = ['validating', 'in_progress', 'finalizing', 'cancelling'];

export interface LineError {
  readonly code: string;
  readonly message: string;
  readonly line: number | null;
  readonly param: string | null;
}

/** Times are Unix milliseconds; null: not yet. */
export interface BatchRecord {
  readonly id: string;
  readonly tenantId: TenantId;
  readonly keyId: string | null;
  readonly createdAt: number;
  state: BatchState;
  readonly endpoint: Endpoint;
  readonly inputFileId: string;
  readonly completionWindow: string;
  readonly metadata: Readonly<Record<string, string>> | null;
  readonly expiresAt: number;
  readonly outputFileId: string;
  readonly errorFileId: string;
  errors: readonly LineError[];
  total: number;
  completed: number;
  failed: number;
  inProgressAt: number | null;
  finalizingAt: number | null;
  completedAt: number | null;
  failedAt: number | null;
  expiredAt: number | null;
  cancellingAt: number | null;
  cancelledAt: number | null;
  /** How many of its result files there are, once it is done. */
  hasOutput: boolean;
  hasErrors: boolean;
}

export const newBatchId = (): string => `batch_${randomBytes(12).toString('hex')}`;

export function toRow({ id, tenantId, keyId, state, createdAt, ...body }: BatchRecord): BatchRow {
  return { id, tenantId, keyId, state, createdAt, body };
}

/** Rows are written by `toRow` only. */
export const fromRow = ({ id, tenantId, keyId, state, createdAt, body }: BatchRow): BatchRecord => ({
  ...(body as unknown as Omit<BatchRecord, 'id' | 'tenantId' | 'keyId' | 'state' | 'createdAt'>),
  id,
  tenantId,
  keyId,
  state: state as BatchState,
  createdAt,
});

const seconds = (millis: number | null): number | null => (millis === null ? null : Math.floor(millis / 1_000));

export const batchObject = (batch: BatchRecord) => ({
  id: batch.id,
  object: 'batch',
  endpoint: batch.endpoint,
  errors: batch.errors.length === 0 ? null : { object: 'list', data: batch.errors },
  input_file_id: batch.inputFileId,
  completion_window: batch.completionWindow,
  status: batch.state,
  output_file_id: batch.hasOutput ? batch.outputFileId : null,
  error_file_id: batch.hasErrors ? batch.errorFileId : null,
  created_at: seconds(batch.createdAt),
  in_progress_at: seconds(batch.inProgressAt),
  expires_at: seconds(batch.expiresAt),
  finalizing_at: seconds(batch.finalizingAt),
  completed_at: seconds(batch.completedAt),
  failed_at: seconds(batch.failedAt),
  expired_at: seconds(batch.expiredAt),
  cancelling_at: seconds(batch.cancellingAt),
  cancelled_at: seconds(batch.cancelledAt),
  request_counts: { total: batch.total, completed: batch.completed, failed: batch.failed },
  metadata: batch.metadata,
});
