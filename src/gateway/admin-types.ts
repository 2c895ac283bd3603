/** What the admin API answers, for the console, the CLI and the tests. Types only. */
import type { PullProgress } from '../models/progress.ts';
import type { DecisionView, KvView, ModelView, NodeStatus } from '../runtime/api.ts';
import type { ErrorBody } from './openai/errors.ts';

export type { DecisionView, ErrorBody, KvView, ModelView, NodeStatus, PullProgress };

/** GET /api/admin/status */
export type StatusResponse = NodeStatus;

/** GET /api/admin/kv; null: the node keeps no KV. */
export interface KvResponse {
  readonly kv: KvView | null;
}

/** GET /api/admin/models */
export interface ModelsResponse {
  readonly models: readonly ModelView[];
}

/** GET /api/admin/models/{id} */
export type ModelResponse = ModelView;

/** POST /api/admin/models/{id}/load and …/stop: the model as it is afterwards. */
export interface ModelActionResponse {
  readonly success: true;
  readonly model: ModelView;
}

/** Body of POST /api/admin/models/{id}/stop; an absent body is `{}`. */
export interface StopRequest {
  /** Fail running requests instead of finishing them. */
  readonly force?: boolean;
}

/** DELETE /api/admin/models/{id} */
export interface RemoveResponse {
  readonly success: true;
  readonly id: string;
}

/** GET /api/admin/why/{model or request}: oldest first. */
export interface WhyResponse {
  readonly decisions: readonly DecisionView[];
}

/** Body of POST /api/admin/pull */
export interface PullRequest {
  readonly source: string;
  /** The model's id; absent: from the source. */
  readonly name?: string;
}

/** One line of the answer of POST /api/admin/pull (application/x-ndjson). The last one is `done` or `error`. */
export type PullLine =
  | ({ readonly type: 'progress' } & PullProgress)
  | { readonly type: 'done'; readonly id: string }
  | ({ readonly type: 'error' } & ErrorBody);
