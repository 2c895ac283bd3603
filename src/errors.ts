/**
 * Every error that Berth shows to anybody, in one table. `docs/errors.md` is generated from it and a test holds them equal.
 * `status` is HTTP's; `type` is OpenAI's `error.type`; `exit` is the CLI's exit code; `advice` says what to do about it.
 */
export interface ErrorKind {
  readonly status: number;
  readonly type: string;
  readonly exit: number;
  /** May the very same request succeed later? SDKs read it as `x-should-retry`. */
  readonly retryable: boolean;
  readonly advice: string;
}

const kind = (status: number, type: string, exit: number, retryable: boolean, advice: string): ErrorKind => ({
  status,
  type,
  exit,
  retryable,
  advice,
});

export const ERRORS = {
  invalid_request: kind(400, 'invalid_request_error', 2, false, 'Correct the named field.'),
  invalid_json: kind(400, 'invalid_request_error', 2, false, 'Send a JSON body and `content-type: application/json`.'),
  unsupported_parameter: kind(
    400,
    'invalid_request_error',
    2,
    false,
    'Leave the named parameter out, or use a model whose engine supports it.',
  ),
  context_length_exceeded: kind(
    400,
    'invalid_request_error',
    2,
    false,
    'Shorten the prompt, lower max_tokens, or raise the model’s `context` in berth.yaml.',
  ),
  invalid_api_key: kind(
    401,
    'authentication_error',
    4,
    false,
    'Send a valid key as `Authorization: Bearer …` or `x-api-key`.',
  ),
  forbidden: kind(403, 'permission_error', 4, false, 'Use a key that may do this, or allow what the message names.'),
  model_not_found: kind(
    404,
    'invalid_request_error',
    5,
    false,
    'List the models with `berth ls`; add one with `berth pull`.',
  ),
  not_found: kind(404, 'invalid_request_error', 5, false, 'Check the path; docs/api.md lists the endpoints.'),
  method_not_allowed: kind(
    405,
    'invalid_request_error',
    2,
    false,
    'Use the method that docs/api.md names for this path.',
  ),
  body_too_large: kind(413, 'invalid_request_error', 2, false, 'Send a smaller body, or raise `limits.bodyBytes`.'),
  unsupported_media_type: kind(415, 'invalid_request_error', 2, false, 'Send `content-type: application/json`.'),
  queue_full: kind(429, 'rate_limit_error', 6, true, 'Retry after the time in `retry-after`, or raise `limits.queue`.'),
  rate_limited: kind(
    429,
    'rate_limit_error',
    6,
    true,
    'Retry after the time in `retry-after`; `berth tenants show` lists the limits.',
  ),
  budget_exhausted: kind(
    429,
    'insufficient_quota',
    6,
    false,
    'Wait until the budget’s window ends, or have the operator raise it (`berth tenants set`).',
  ),
  queue_timeout: kind(
    503,
    'service_unavailable_error',
    6,
    true,
    'Retry; if it happens often, raise `limits.queueTimeout` or the memory budget.',
  ),
  model_too_large: kind(
    400,
    'invalid_request_error',
    7,
    false,
    'Raise `device.memory`, or lower the model’s `context` or `parallel`.',
  ),
  model_load_failed: kind(
    503,
    'service_unavailable_error',
    7,
    true,
    'Read the reason; `berth doctor` checks the machine, `berth why MODEL` the history.',
  ),
  model_file_missing: kind(
    404,
    'invalid_request_error',
    7,
    false,
    'Pull the model again with `berth pull`, or correct its `source`.',
  ),
  model_file_invalid: kind(422, 'invalid_request_error', 7, false, 'The file is no usable GGUF: pull it again.'),
  model_stopped: kind(
    503,
    'service_unavailable_error',
    7,
    true,
    'The model was stopped by an operator: retry to load it again.',
  ),
  engine_died: kind(
    502,
    'server_error',
    7,
    true,
    'The model’s process ended; Berth loads it again on the next request.',
  ),
  engine_error: kind(500, 'server_error', 7, true, 'Look at the node’s log for this request id.'),
  engine_mismatch: kind(
    500,
    'server_error',
    7,
    false,
    'Install what the message names; the libraries of the engine llamacpp come with `npm ci`.',
  ),
  request_cancelled: kind(499, 'request_cancelled', 8, false, 'The client left.'),
  node_stopping: kind(
    503,
    'service_unavailable_error',
    6,
    true,
    'The node is shutting down: retry elsewhere or later.',
  ),
  node_unreachable: kind(
    503,
    'service_unavailable_error',
    3,
    true,
    'Start the node with `npm start` or `berth serve`, or name it with `--url`.',
  ),
  address_in_use: kind(
    409,
    'invalid_request_error',
    9,
    false,
    'Stop the other program, or choose another port with `--port` and `--admin-port`.',
  ),
  config_invalid: kind(400, 'invalid_request_error', 9, false, 'Correct the named line of berth.yaml.'),
  store_unusable: kind(
    500,
    'server_error',
    9,
    false,
    'Put a good copy of berth.db into BERTH_HOME, or move it away: the node then begins an empty one, without keys.',
  ),
  download_failed: kind(502, 'server_error', 10, true, 'Run the same `berth pull` again: it resumes.'),
  checksum_mismatch: kind(
    502,
    'server_error',
    10,
    false,
    'The source’s file is not what it says; the broken copy was removed. Pull again.',
  ),
  internal: kind(500, 'server_error', 1, true, 'This is a bug in Berth: please report it with the request id.'),
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof ERRORS;

export interface ErrorDetail {
  /** The request's field that is wrong, as a path (`messages.0.role`). */
  readonly param?: string;
  readonly retryAfterMicros?: number;
  readonly cause?: unknown;
}

/** The only error class that crosses a module border. `message` never holds prompt text. */
export class BerthError extends Error {
  override readonly name = 'BerthError';
  readonly code: ErrorCode;
  readonly param: string | null;
  readonly retryAfterMicros: number | null;

  constructor(code: ErrorCode, message: string, detail: ErrorDetail = {}) {
    super(message, detail.cause === undefined ? undefined : { cause: detail.cause });
    this.code = code;
    this.param = detail.param ?? null;
    this.retryAfterMicros = detail.retryAfterMicros ?? null;
  }

  get kind(): ErrorKind {
    return ERRORS[this.code];
  }
}

/** One text for a model that isn't there and for one that the caller may not see: the answers must be the same. */
export const modelNotFound = (name: string): BerthError =>
  new BerthError('model_not_found', `there is no model called ${JSON.stringify(name.slice(0, 100))}`, {
    param: 'model',
  });

/** Anything thrown, as a `BerthError`: what we did not expect becomes `internal`. */
export function asBerthError(thrown: unknown): BerthError {
  if (thrown instanceof BerthError) return thrown;
  return new BerthError('internal', thrown instanceof Error ? thrown.message : String(thrown), { cause: thrown });
}
