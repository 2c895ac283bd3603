/**
 * What both listeners share: a Fastify instance with every limit set, one error shape, request ids, the guard against web
 * pages, 404 and 405. Tested with `inject()`, without a socket.
 */
import { randomBytes } from 'node:crypto';
import type { OutgoingHttpHeaders } from 'node:http';
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import Fastify from 'fastify';
import { BerthError } from '../errors.ts';
import type { Authenticator } from './auth.ts';
import { authenticate } from './auth.ts';
import { guard } from './guard.ts';
import { errorBody, errorHeaders, toBerthError } from './openai/errors.ts';
import type { HttpLimits, HttpOptions, Principal } from './options.ts';
import { DEFAULT_LIMITS } from './options.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Set by the time that a handler of a guarded route runs. */
    principal: Principal | null;
    /** `performance.now()` when the headers had been read. */
    startedMillis: number;
  }
  interface FastifyContextConfig {
    /** Needs no key. */
    open?: boolean;
  }
}

export type Handler = (request: FastifyRequest, reply: FastifyReply) => unknown;
type Method = 'GET' | 'POST' | 'DELETE';
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const;

/** A new id for a request of this node: `req-` and 24 hex digits. */
const newRequestId = (): string => `req-${randomBytes(12).toString('hex')}`;

/** A client's own `x-request-id`, if it is short and visible ASCII. */
const givenId = (header: unknown): string | null =>
  typeof header === 'string' && /^[\x21-\x7e]{1,128}$/.test(header) ? header : null;

/**
 * The id under which the node knows the request: the HTTP id where we made it. A client's own id may repeat (a retry), so it is
 * only echoed.
 */
export const nodeRequestId = (request: FastifyRequest): string =>
  givenId(request.headers['x-request-id']) === null ? request.id : newRequestId();

/** The headers that hooks have set, for a reply that writes its own head. */
export function headersOf(reply: FastifyReply): OutgoingHttpHeaders {
  const headers: OutgoingHttpHeaders = {};
  for (const [name, value] of Object.entries(reply.getHeaders())) {
    if (value !== undefined) headers[name] = value;
  }
  return headers;
}

export const limitsOf = (options: HttpOptions): HttpLimits => ({ ...DEFAULT_LIMITS, ...options.limits });

/** Stack lines only: an unexpected error's message may quote a prompt. */
const frames = (error: unknown): string[] =>
  error instanceof Error
    ? (error.stack ?? '')
        .split('\n')
        .filter((line) => /^\s+at /.test(line))
        .slice(0, 12)
    : [];

const connectionFailure = (code: string | undefined): readonly [number, string] => {
  if (code === 'HPE_HEADER_OVERFLOW') return [431, 'The request’s headers are too large.'];
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') return [408, 'The request was not complete in time.'];
  return [400, 'The request is not valid HTTP.'];
};

/** Answers what never became a request: broken HTTP, headers too large, too slow. */
function onClientError(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed || !socket.writable) {
    socket.destroy();
    return;
  }
  const [status, text] = connectionFailure(error.code);
  const body = JSON.stringify(errorBody(new BerthError('invalid_request', text)));
  const head = `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\nconnection: close\r\ncontent-type: application/json; charset=utf-8\r\n`;
  socket.end(`${head}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`, () => socket.destroy());
}

/** What a web page may read of an answer. */
const EXPOSED = [
  'x-request-id, retry-after, retry-after-ms, x-should-retry',
  ...['limit', 'remaining', 'reset'].flatMap((what) => [`x-ratelimit-${what}-requests`, `x-ratelimit-${what}-tokens`]),
].join(', ');

/** Registers a path, and 405 with `allow` for the methods that it doesn't have. */
export function route(
  app: FastifyInstance,
  url: string,
  handlers: Partial<Record<Method, Handler>>,
  open = false,
): void {
  const known = new Set<string>(Object.keys(handlers));
  if (known.has('GET')) known.add('HEAD');
  for (const [method, handler] of Object.entries(handlers)) {
    app.route({ method, url, config: { open }, handler: async (request, reply) => handler(request, reply) });
  }
  const refuse = async (_request: FastifyRequest, reply: FastifyReply): Promise<never> => {
    reply.header('allow', [...known].join(', '));
    throw new BerthError('method_not_allowed', 'This path does not take this method.');
  };
  const rest = METHODS.filter((method) => !known.has(method));
  app.route({ method: rest, url, config: { open: true }, onRequest: refuse, handler: refuse });
}

export function createHttpApp(options: HttpOptions, auth: Authenticator): FastifyInstance {
  const limits = limitsOf(options);
  const app = Fastify({
    logger: false,
    bodyLimit: limits.bodyBytes,
    requestTimeout: limits.requestMillis,
    keepAliveTimeout: limits.idleConnectionMillis,
    http: {
      headersTimeout: limits.headersMillis,
      connectionsCheckingInterval: Math.min(5_000, limits.headersMillis),
      maxHeaderSize: 32_768,
    },
    forceCloseConnections: 'idle',
    return503OnClosing: false,
    requestIdHeader: false,
    genReqId: (request) => givenId(request.headers['x-request-id']) ?? newRequestId(),
    routerOptions: { ignoreTrailingSlash: true, maxParamLength: 1_024 },
    clientErrorHandler: onClientError,
    frameworkErrors: (error: unknown, _request: FastifyRequest, reply: FastifyReply) => {
      const known = toBerthError(error);
      void reply.code(known.kind.status).headers(errorHeaders(known)).send(errorBody(known));
    },
  });
  app.server.maxConnections = limits.connections;
  app.decorateRequest('principal', null);
  app.decorateRequest('startedMillis', 0);

  app.removeAllContentTypeParsers();
  const parseJson = app.getDefaultJsonParser('error', 'error');
  app.addContentTypeParser(['application/json', 'application/*+json'], { parseAs: 'string' }, (request, body, done) => {
    if (body.length === 0) done(null, undefined);
    else void parseJson(request, body as string, done);
  });

  let closing = false;
  app.addHook('preClose', async () => {
    closing = true;
  });

  app.addHook('onRequest', async (request, reply) => {
    request.startedMillis = performance.now();
    reply.header('x-request-id', request.id);
    const { corsOrigin } = guard(request.method, request.headers, options);
    if (corsOrigin !== null) {
      reply.headers({
        'access-control-allow-origin': corsOrigin,
        'access-control-expose-headers': EXPOSED,
        vary: 'Origin',
      });
      if (request.method === 'OPTIONS') {
        const wanted = request.headers['access-control-request-headers'];
        reply.headers({ 'access-control-allow-methods': 'GET, POST, DELETE', 'access-control-max-age': '600' });
        if (typeof wanted === 'string') reply.header('access-control-allow-headers', wanted);
        return reply.code(204).send();
      }
    }
    if (request.is404) throw new BerthError('not_found', 'There is nothing at this path.');
    if (closing) {
      reply.header('connection', 'close');
      throw new BerthError('node_stopping', 'The node takes no new requests.');
    }
    if (request.routeOptions.config.open !== true) request.principal = await authenticate(auth, request.headers);
    return undefined;
  });

  app.setNotFoundHandler(async () => {
    throw new BerthError('not_found', 'There is nothing at this path.');
  });

  app.setErrorHandler((thrown, request, reply) => {
    const error = toBerthError(thrown);
    if (error.code === 'internal') {
      const cause = error.cause instanceof Error ? error.cause : error;
      options.log?.error({ requestId: request.id, errorName: cause.name, frames: frames(cause) }, 'unexpected error');
    }
    if (error.code === 'body_too_large') {
      // Fastify would close the connection here.
      reply.removeHeader('connection');
      linger(request, limits.lingerMillis);
    }
    void reply.code(error.kind.status).headers(errorHeaders(error)).send(errorBody(error));
  });

  app.addHook('onResponse', async (request, reply) => {
    const millis = performance.now() - request.startedMillis;
    const sample = { route: request.routeOptions.url ?? 'none', method: request.method, status: reply.raw.statusCode };
    options.onResponse?.({ ...sample, micros: Math.round(millis * 1_000) });
    // Every request is too much to read: what went wrong on our side is news, the rest is there when asked for.
    const level = sample.status >= 500 ? 'warn' : 'debug';
    options.log?.[level]({ requestId: request.id, ...sample, millis: Math.round(millis) }, 'request');
  });
  return app;
}

/**
 * Reads on and throws away for a while. Closing at once would reset the connection while the client is still sending, and it
 * would see that instead of the answer.
 */
function linger(request: FastifyRequest, millis: number): void {
  const { raw } = request;
  raw.resume();
  const timer = setTimeout(() => {
    if (!raw.complete) raw.socket.destroy();
  }, millis);
  timer.unref();
  raw.once('end', () => clearTimeout(timer));
}
