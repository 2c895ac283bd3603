/**
 * HTTP to a server: a child on loopback or on a unix socket, or another machine. By `node:http` and not `fetch`: a server that is
 * frozen answers when it is thawed, and `fetch` gives up after five minutes of silence. Whoever asks says how long it may take.
 * Redirects are not followed.
 */
import { request as httpRequest } from 'node:http';
import type { Agent, IncomingMessage, RequestOptions } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { createParser } from 'eventsource-parser';
import type { Micros } from '../core/ids.ts';
import { MIB, SECOND } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import { realTimer } from './timer.ts';

/** The server answered with an error. `body` is what it sent, parsed where it is JSON; it may quote a prompt. */
export class HttpFailure extends Error {
  override readonly name = 'HttpFailure';
  readonly status: number;
  readonly body: unknown;
  /** What it said in `retry-after`, if in seconds. */
  readonly retryAfterMicros: Micros | null;

  constructor(status: number, body: unknown, retryAfterMicros: Micros | null = null) {
    super(`HTTP status ${status}`);
    this.status = status;
    this.body = body;
    this.retryAfterMicros = retryAfterMicros;
  }
}

/** Where a server is. `url`: what its address begins with, such as `https://inference.example/v1`. */
export type Address =
  | { readonly port: number }
  | { readonly socketPath: string }
  | { readonly url: URL; readonly agent: Agent };

export interface HttpClient {
  /** A JSON answer. Rejects with `HttpFailure`, `engine_error` after the deadline (null: none), or what went wrong with the socket. */
  ask(path: string, body: object | null, options: AskOptions): Promise<unknown>;
  /**
   * Server-sent events, each one's data parsed, told in the turn of the event loop in which they were read. Resolves at the end of
   * the stream, whatever it means. Rejects as `ask`.
   */
  stream(path: string, body: object, signal: AbortSignal, hear: (data: unknown) => void): Promise<void>;
}

export interface AskOptions {
  readonly signal?: AbortSignal;
  readonly deadlineMicros: Micros | null;
  /** Further headers. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** Most bytes of one answer: per-token embeddings as JSON are large. */
const MAX_ANSWER = 256 * MIB;

/** A connection for each request, but on the way to other machines, where they are dear. */
function placeOf(address: Address, path: string): RequestOptions {
  if ('port' in address) return { host: '127.0.0.1', port: address.port, path, agent: false };
  if ('socketPath' in address) return { socketPath: address.socketPath, path, agent: false };
  const { protocol, hostname, port, pathname, search } = address.url;
  return {
    protocol,
    // A URL writes an IPv6 address in brackets.
    hostname: hostname.replace(/^\[(.*)\]$/, '$1'),
    ...(port === '' ? {} : { port }),
    path: pathname.replace(/\/$/, '') + path + search,
    agent: address.agent,
  };
}

/** `apiKey` null: it is sent none. */
export function createHttpClient(address: Address, apiKey: string | null, heard: () => void = () => {}): HttpClient {
  const request = 'url' in address && address.url.protocol === 'https:' ? httpsRequest : httpRequest;
  const open = (
    path: string,
    body: object | null,
    signal: AbortSignal | undefined,
    headers: AskOptions['headers'] = {},
  ): Promise<IncomingMessage> =>
    new Promise((resolve, reject) => {
      const text = body === null ? null : Buffer.from(JSON.stringify(body));
      const outgoing = request({
        ...placeOf(address, path),
        method: text === null ? 'GET' : 'POST',
        headers: {
          ...headers,
          ...(apiKey === null ? {} : { authorization: `Bearer ${apiKey}` }),
          ...(text === null ? {} : { 'content-type': 'application/json', 'content-length': text.length }),
        },
        ...(signal && { signal }),
      });
      outgoing.on('error', reject);
      outgoing.on('response', resolve);
      outgoing.end(text ?? undefined);
    });

  const whole = (incoming: IncomingMessage): Promise<string> =>
    new Promise((resolve, reject) => {
      let text = '';
      incoming.setEncoding('utf8');
      incoming.on('data', (chunk: string) => {
        heard();
        text += chunk;
        if (text.length > MAX_ANSWER) incoming.destroy(new Error(`the answer is larger than ${MAX_ANSWER} bytes`));
      });
      incoming.on('error', reject);
      incoming.on('end', () => resolve(text));
    });

  const fail = async (incoming: IncomingMessage): Promise<never> => {
    const seconds = Number(incoming.headers['retry-after'] ?? Number.NaN);
    const retryAfter = Number.isFinite(seconds) && seconds >= 0 ? Math.round(seconds * SECOND) : null;
    throw new HttpFailure(incoming.statusCode ?? 0, parse(await whole(incoming)), retryAfter);
  };

  return {
    async ask(path, body, { signal, deadlineMicros, headers }) {
      const late = new AbortController();
      const cancel = deadlineMicros === null ? () => {} : realTimer.after(deadlineMicros, () => late.abort());
      const signals = signal === undefined ? [late.signal] : [late.signal, signal];
      try {
        const incoming = await open(path, body, AbortSignal.any(signals), headers);
        if (incoming.statusCode !== 200) return await fail(incoming);
        return parse(await whole(incoming));
      } catch (error) {
        if (!late.signal.aborted) throw error;
        const seconds = ((deadlineMicros ?? 0) / 1e6).toFixed(1);
        throw new BerthError('engine_error', `The engine did not answer ${path} within ${seconds} s.`, {
          cause: error,
        });
      } finally {
        cancel();
      }
    },
    async stream(path, body, signal, hear) {
      const incoming = await open(path, body, signal);
      if (incoming.statusCode !== 200) return fail(incoming);
      const parser = createParser({
        onEvent({ data }) {
          if (data !== '[DONE]') hear(parse(data));
        },
      });
      return new Promise((resolve, reject) => {
        incoming.setEncoding('utf8');
        incoming.on('data', (chunk: string) => {
          heard();
          try {
            parser.feed(chunk);
          } catch (error) {
            incoming.destroy(error as Error);
          }
        });
        incoming.on('error', reject);
        incoming.on('end', () => resolve());
      });
    },
  };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
