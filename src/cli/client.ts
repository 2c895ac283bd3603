/** Talks to a running node: its public API and its admin API, over HTTP, with the errors of `errors.ts`. */
import { BerthError, ERRORS } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import type { Environment } from '../config.ts';

/** Options that every command has that talks to a node. */
export interface NodeOptions {
  readonly url?: string;
  readonly adminUrl?: string;
  readonly apiKey?: string;
  readonly adminKey?: string;
  readonly json?: boolean;
}

interface Call {
  readonly method?: 'GET' | 'POST' | 'DELETE';
  readonly body?: unknown;
  /** Until the answer (of a stream: its headers) is here, in milliseconds. */
  readonly deadlineMs?: number;
  readonly signal?: AbortSignal;
}

export interface Client {
  readonly baseUrl: string;
  /** The answer's JSON. Throws the node's error, or `node_unreachable`. */
  json(path: string, call?: Call): Promise<unknown>;
  /** The answer's body as it comes. */
  stream(path: string, call?: Call): Promise<ReadableStream<Uint8Array>>;
}

/** A node that runs answers an admin question at once. */
const DEADLINE_MS = 10_000;
/** A model may wait for others and then load: longer than the node's own deadlines for both. */
export const PATIENT_MS = 15 * 60_000;

function publicUrl(options: NodeOptions, env: Environment): string {
  return options.url ?? env['BERTH_URL'] ?? `http://${hostOf(env['BERTH_HOST'])}:${env['BERTH_PORT'] ?? '8420'}`;
}
function adminUrl(options: NodeOptions, env: Environment): string {
  if (options.adminUrl !== undefined) return options.adminUrl;
  return env['BERTH_ADMIN_URL'] ?? `http://${hostOf(env['BERTH_ADMIN_HOST'])}:${env['BERTH_ADMIN_PORT'] ?? '8421'}`;
}

/** A node that listens on every address is reached on loopback. */
function hostOf(host: string | undefined): string {
  if (host === undefined || host === '' || host === '0.0.0.0' || host === '::') return '127.0.0.1';
  return host.includes(':') ? `[${host}]` : host;
}

/** Was the node named by the user? Then a command that could do without it must not. */
export const namesNode = (options: NodeOptions, env: Environment): boolean =>
  options.adminUrl !== undefined || env['BERTH_ADMIN_URL'] !== undefined;

export const publicClient = (options: NodeOptions, env: Environment): Client =>
  client(publicUrl(options, env), '--url', keyOf(options, env));
export const adminClient = (options: NodeOptions, env: Environment): Client =>
  client(adminUrl(options, env), '--admin-url', options.adminKey ?? env['BERTH_ADMIN_KEY']);

const keyOf = (options: NodeOptions, env: Environment): string | undefined =>
  options.apiKey ?? env['BERTH_API_KEY'] ?? env['BERTH_API_KEYS']?.split(',')[0]?.trim();

function client(base: string, flag: string, apiKey: string | undefined): Client {
  if (!URL.canParse(base) || !/^https?:/.test(base)) {
    throw new BerthError(
      'invalid_request',
      `${flag}: expected an address such as http://127.0.0.1:8420, received ${base}`,
    );
  }
  const baseUrl = base.replace(/\/+$/, '');
  const send = async <T>(path: string, call: Call, read: (response: Response) => T | Promise<T>): Promise<T> => {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), call.deadlineMs ?? DEADLINE_MS);
    const headers: Record<string, string> = { accept: 'application/json' };
    if (apiKey !== undefined && apiKey !== '') headers['authorization'] = `Bearer ${apiKey}`;
    if (call.body !== undefined) headers['content-type'] = 'application/json';
    try {
      const response = await fetch(baseUrl + path, {
        method: call.method ?? (call.body === undefined ? 'GET' : 'POST'),
        headers,
        ...(call.body === undefined ? {} : { body: JSON.stringify(call.body) }),
        signal: call.signal === undefined ? late.signal : AbortSignal.any([late.signal, call.signal]),
      });
      if (!response.ok) throw await errorOf(response);
      return await read(response);
    } catch (error) {
      throw translate(error, baseUrl, late.signal.aborted, call.signal?.aborted === true);
    } finally {
      clearTimeout(timer);
    }
  };
  return {
    baseUrl,
    json: async (path, call = {}) => {
      const text = await send(path, call, (response) => response.text());
      try {
        return text === '' ? null : (JSON.parse(text) as unknown);
      } catch (error) {
        throw new BerthError('node_unreachable', `what answers at ${baseUrl} is not a Berth node`, { cause: error });
      }
    },
    stream: async (path, call = {}) => {
      // A stream lasts as long as it lasts: its body is read outside of the deadline.
      const body = await send(path, call, (response) => response.body);
      if (body === null) throw new BerthError('node_unreachable', `${baseUrl} sent an empty answer`);
      return body;
    },
  };
}

function translate(error: unknown, baseUrl: string, late: boolean, cancelled: boolean): BerthError {
  if (error instanceof BerthError) return error;
  if (cancelled) return new BerthError('request_cancelled', 'cancelled');
  if (late) return new BerthError('node_unreachable', `the node at ${baseUrl} doesn't answer`, { cause: error });
  const cause = error instanceof Error ? (error.cause as NodeJS.ErrnoException | undefined) : undefined;
  const reason = cause?.code === 'ECONNREFUSED' ? 'nothing listens there' : (cause?.message ?? String(error));
  return new BerthError('node_unreachable', `no node at ${baseUrl}: ${reason}`, { cause: error });
}

interface WireError {
  readonly message?: unknown;
  readonly code?: unknown;
  readonly param?: unknown;
}

/** An OpenAI-shaped error of the node, as the error it was. Unknown codes keep their message and the status's nearest kind. */
export function wireError(error: WireError, status: number): BerthError {
  const message = typeof error.message === 'string' ? error.message : `HTTP ${status}`;
  const detail = typeof error.param === 'string' ? { param: error.param } : {};
  if (typeof error.code === 'string' && Object.hasOwn(ERRORS, error.code)) {
    const code = error.code as ErrorCode;
    // The node's message ends with the advice, which is printed on a line of its own here.
    const { advice } = ERRORS[code];
    return new BerthError(code, message.endsWith(advice) ? message.slice(0, -advice.length).trim() : message, detail);
  }
  const near = (Object.keys(ERRORS) as ErrorCode[]).find((code) => ERRORS[code].status === status);
  return new BerthError(near ?? (status < 500 ? 'invalid_request' : 'internal'), message, detail);
}

async function errorOf(response: Response): Promise<BerthError> {
  const text = await response.text().catch(() => '');
  try {
    const body = JSON.parse(text) as { error?: WireError };
    if (typeof body.error === 'object') return wireError(body.error, response.status);
  } catch {
    // No JSON: not a Berth node, or a proxy before it.
  }
  return wireError(
    { message: `${response.url} answered ${response.status} ${response.statusText}`.trim() },
    response.status,
  );
}

/** The lines of a body of JSON lines, parsed as they come. */
export async function* jsonLines(body: ReadableStream<Uint8Array>): AsyncGenerator {
  let rest = '';
  for await (const part of body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + part).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) if (line.trim() !== '') yield JSON.parse(line) as unknown;
  }
  if (rest.trim() !== '') yield JSON.parse(rest) as unknown;
}
