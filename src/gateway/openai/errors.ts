/**
 * Errors in OpenAI's shape: `{"error":{"message","type","param","code"}}`, always all four keys. What was sent is never
 * repeated in a message; a field's name is, shortened and made printable.
 */
import type { z } from 'zod';
import type { ErrorCode } from '../../errors.ts';
import { BerthError } from '../../errors.ts';
import type { FailedEvent } from './types.ts';

export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string;
  };
}

const UNEXPECTED = 'Something went wrong inside the node.';

/** The message ends with the advice. An unexpected error's own text stays inside: it may quote a prompt. */
export function errorBody(error: BerthError): ErrorBody {
  const text = error.code === 'internal' ? UNEXPECTED : error.message.trim();
  const sentence = /[.!?:…]$/.test(text) ? text : `${text}.`;
  return {
    error: { message: `${sentence} ${error.kind.advice}`, type: error.kind.type, param: error.param, code: error.code },
  };
}

/** `retry-after` (whole seconds, RFC 9110), and what OpenAI's SDKs read: `retry-after-ms`, `x-should-retry`. */
export function errorHeaders(error: BerthError): Record<string, string> {
  const headers: Record<string, string> = { 'x-should-retry': String(error.kind.retryable) };
  // A spent budget is not worth a retry, but a person may want to know when it is whole again.
  if (error.retryAfterMicros !== null) {
    headers['retry-after'] = String(Math.ceil(error.retryAfterMicros / 1_000_000));
    headers['retry-after-ms'] = String(Math.ceil(error.retryAfterMicros / 1_000));
  }
  return headers;
}

export function fromFailed(event: FailedEvent): BerthError {
  return new BerthError(event.code, event.message, {
    ...(event.param === undefined ? {} : { param: event.param }),
    ...(event.retryAfterMicros === undefined ? {} : { retryAfterMicros: event.retryAfterMicros }),
  });
}

/** Fastify's own errors, by their code. Its texts are not used: some quote the body. */
const FASTIFY_ERRORS: Readonly<Record<string, readonly [ErrorCode, string]>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: ['body_too_large', 'The body is larger than this node accepts.'],
  FST_ERR_CTP_INVALID_MEDIA_TYPE: ['unsupported_media_type', 'The body’s content type is not JSON.'],
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: ['invalid_request', 'The body’s length is not what `content-length` says.'],
  FST_ERR_CTP_EMPTY_JSON_BODY: ['invalid_json', 'The body is empty.'],
  FST_ERR_CTP_INVALID_JSON_BODY: ['invalid_json', 'The body is not valid JSON.'],
  FST_ERR_BAD_URL: ['not_found', 'The path is not a valid URL path.'],
  FST_ERR_MAX_PARAM_LENGTH: ['not_found', 'The path is too long.'],
  FST_ERR_NOT_FOUND: ['not_found', 'There is nothing at this path.'],
};

/** Anything thrown while a request is handled, as one `BerthError`. */
export function toBerthError(thrown: unknown): BerthError {
  if (thrown instanceof BerthError) return thrown;
  if (thrown instanceof Error) {
    const { code, statusCode } = thrown as { code?: string; statusCode?: number };
    const known = code === undefined ? undefined : FASTIFY_ERRORS[code];
    if (known !== undefined) return new BerthError(known[0], known[1], { cause: thrown });
    if (thrown instanceof SyntaxError && statusCode === 400) {
      return new BerthError('invalid_json', 'The body is not valid JSON.', { cause: thrown });
    }
    if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
      return new BerthError('invalid_request', 'The request can’t be read.', { cause: thrown });
    }
  }
  return new BerthError('internal', UNEXPECTED, { cause: thrown });
}

type Issue = z.core.$ZodIssue;
type Path = readonly PropertyKey[];

/** A field's name for a message: at most 64 printable ASCII characters. */
const fieldName = (key: PropertyKey): string => {
  const text = String(key).replace(/[^\x20-\x7e]/g, '?');
  return text.length > 64 ? `${text.slice(0, 61)}...` : text;
};
const fieldPath = (path: Path): string => path.map(fieldName).join('.');

const valueAt = (body: unknown, path: Path): unknown => {
  let value = body;
  for (const key of path) {
    if (typeof value !== 'object' || value === null) return undefined;
    value = (value as Record<PropertyKey, unknown>)[key];
  }
  return value;
};

const amount = (origin: string, value: number | bigint): string =>
  origin === 'string'
    ? `${value} characters`
    : origin === 'array'
      ? `${value} items`
      : origin === 'record'
        ? `${value} entries`
        : String(value);

/** What is wrong, as the end of the sentence "`field` …". Says what was expected, never what came. */
function complaint(issue: Issue, missing: boolean): string {
  if (missing) return 'is required';
  switch (issue.code) {
    case 'invalid_type':
      return `must be ${issue.expected === 'int' ? 'an integer' : `of type ${issue.expected}`}`;
    case 'too_small':
      if (issue.minimum === 1 && issue.origin !== 'number' && issue.origin !== 'int') return 'must not be empty';
      return `must be ${issue.inclusive === false ? 'more than' : 'at least'} ${amount(issue.origin, issue.minimum)}`;
    case 'too_big':
      return `must be ${issue.inclusive === false ? 'less than' : 'at most'} ${amount(issue.origin, issue.maximum)}`;
    case 'invalid_value':
      return `must be ${issue.values.length === 1 ? '' : 'one of '}${issue.values.map((value) => JSON.stringify(value)).join(', ')}`;
    case 'custom':
      return issue.message;
    default:
      return 'has a value or form that is not accepted';
  }
}

/** Of a union's branches, the issue that went deepest: the branch that was meant. */
function innermost(issue: Issue, base: Path): { issue: Issue; path: Path; alternatives: readonly Issue[] } {
  const path = [...base, ...issue.path];
  if (issue.code === 'invalid_union' && issue.errors.length > 0) {
    const firsts = issue.errors.flatMap((branch) => branch.slice(0, 1));
    const depth = Math.max(...firsts.map((next) => next.path.length));
    const deep = firsts.filter((next) => next.path.length === depth);
    // "Too long" or "unknown kind" says more than "not of the other type".
    const meant = deep.find((next) => next.code !== 'invalid_type') ?? deep[0];
    if (meant !== undefined && (depth > 0 || meant.code !== 'invalid_type')) return innermost(meant, path);
    return { issue, path, alternatives: firsts };
  }
  return { issue, path, alternatives: [] };
}

/** The first thing that zod found, as one error with the field's path in `param`. */
function fromZod(error: z.ZodError, body: unknown): BerthError {
  const first = error.issues[0];
  if (first === undefined) return new BerthError('invalid_request', 'The body is not accepted.');
  const { issue, path, alternatives } = innermost(first, []);
  if (issue.code === 'unrecognized_keys') {
    const param = fieldPath([...path, issue.keys[0] ?? '']);
    return new BerthError('unsupported_parameter', `The parameter \`${param}\` is not supported.`, { param });
  }
  const param = fieldPath(path);
  const subject = param === '' ? 'The body' : `\`${param}\``;
  const options = param === '' ? {} : { param };
  if (issue.code === 'custom' && issue.params?.['unsupported'] === true) {
    return new BerthError('unsupported_parameter', `${subject} ${issue.message}.`, options);
  }
  const missing = path.length > 0 && valueAt(body, path) === undefined;
  if (issue.code === 'invalid_union' && !missing) {
    const expected = [...new Set(alternatives.flatMap((next) => ('expected' in next ? [String(next.expected)] : [])))];
    // A union by discriminator has no alternatives here, and a message of ours that lists the values.
    const text = expected.length > 0 ? `must be of type ${expected.join(' or ')}` : issue.message;
    return new BerthError('invalid_request', `${subject} ${text}.`, options);
  }
  return new BerthError('invalid_request', `${subject} ${complaint(issue, missing)}.`, options);
}

/**
 * Checks `body` against `schema`.
 * @throws BerthError invalid_json without a body; invalid_request or unsupported_parameter, `param` naming the field.
 */
export function parse<Schema extends z.ZodType>(schema: Schema, body: unknown): z.output<Schema> {
  if (body === undefined) throw new BerthError('invalid_json', 'The body is empty.');
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  throw fromZod(result.error, body);
}
