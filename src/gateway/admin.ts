/**
 * The admin listener: the node's state, its decisions, and what an operator does to models. Apart from the public listener,
 * because model and tenant names are data, and because nobody who may ask a model may therefore stop it.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { TenantId } from '../core/ids.ts';
import { DEFAULT_TENANT } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import type { PullProgress } from '../models/progress.ts';
import type { NodeApi } from '../runtime/api.ts';
import type {
  KvResponse,
  ModelActionResponse,
  ModelsResponse,
  PullLine,
  RemoveResponse,
  StatusResponse,
  WhyResponse,
} from './admin-types.ts';
import { openDoor, staticKeys } from './auth.ts';
import { addHealth } from './health.ts';
import { createHttpApp, headersOf, limitsOf, route } from './http.ts';
import { errorBody, parse, toBerthError } from './openai/errors.ts';
import type { HttpLimits, HttpOptions } from './options.ts';
import type { TenantAdmin } from './tenants/admin.ts';
import { addTenantRoutes } from './tenants/admin.ts';

export interface AdminOptions extends HttpOptions {
  /** Without it whoever reaches the listener is the operator. */
  readonly adminKey?: string;
  /** Whose models are shown. */
  readonly tenantId?: TenantId;
  /** Fetches a model and registers it. Absent: `POST /pull` is refused. `signal` fires when the client leaves. */
  readonly pull?: (
    source: string,
    name: string | undefined,
    onProgress: (progress: PullProgress) => void,
    signal: AbortSignal,
  ) => Promise<{ readonly id: string }>;
  /** Unregisters a model and removes its file. Absent: `DELETE /models/{id}` is refused. */
  readonly remove?: (id: string) => Promise<void>;
  /** Tenants, keys and usage. Absent: the node knows one tenant. */
  readonly tenancy?: TenantAdmin;
  /** More lines for `/metrics`. */
  readonly metrics?: () => string;
}

const noFields = z.strictObject({});
const stopSchema = z.strictObject({ force: z.boolean().optional() });
const pullSchema = z.strictObject({
  source: z.string().trim().min(1).max(4_096),
  name: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$/)
    .optional(),
});

/** Progress lines that nobody reads are dropped beyond this; the last line is always sent. */
const UNSENT_PROGRESS_BYTES = 64 * 1024;

const wildcard = (request: FastifyRequest): string => (request.params as { '*': string })['*'];
const absent = (what: string): never => {
  throw new BerthError('forbidden', `This node does not ${what} models for its clients.`);
};

/** `{id}/load` → both parts. An id may hold slashes, so the verb is what follows the last one. */
function idAndVerb(path: string): { id: string; verb: string } {
  const cut = path.lastIndexOf('/');
  return { id: path.slice(0, Math.max(cut, 0)), verb: path.slice(cut + 1) };
}

function pullHandler(pull: NonNullable<AdminOptions['pull']>, limits: HttpLimits) {
  return async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
    const { source, name } = parse(pullSchema, request.body);
    const headers = headersOf(reply);
    reply.hijack();
    const { raw } = reply;
    const left = new AbortController();
    raw.once('close', () => left.abort());
    raw.writeHead(200, {
      ...headers,
      'content-type': 'application/x-ndjson',
      'cache-control': 'no-cache, no-transform',
    });
    raw.flushHeaders();
    const say = (line: PullLine): void => {
      if (!raw.destroyed) raw.write(`${JSON.stringify(line)}\n`);
    };
    let last: PullProgress = { phase: 'resolving', receivedBytes: 0, totalBytes: null };
    // The same line again: a reader sees that the node is alive while it verifies or unpacks.
    const alive = setInterval(() => say({ type: 'progress', ...last }), limits.keepAliveMillis);
    try {
      const { id } = await pull(
        source,
        name,
        (progress) => {
          last = progress;
          if (raw.writableLength < UNSENT_PROGRESS_BYTES) say({ type: 'progress', ...progress });
        },
        left.signal,
      );
      say({ type: 'done', id });
    } catch (error) {
      say({ type: 'error', ...errorBody(toBerthError(error)) });
    } finally {
      clearInterval(alive);
      raw.end();
    }
    return reply;
  };
}

/** @throws BerthError config_invalid for an empty key. */
export function createAdmin(node: NodeApi, options: AdminOptions = {}): FastifyInstance {
  const auth = options.adminKey === undefined ? openDoor : staticKeys([{ key: options.adminKey, keyId: 'admin' }]);
  const app = createHttpApp(options, auth);
  const tenant = options.tenantId ?? DEFAULT_TENANT;
  const { pull, remove } = options;

  const act = async (request: FastifyRequest): Promise<ModelActionResponse> => {
    const { id, verb } = idAndVerb(wildcard(request));
    const body = request.body ?? {};
    if (verb === 'load') {
      parse(noFields, body);
      await node.load(id, tenant);
    } else if (verb === 'stop') {
      await node.stop(id, tenant, { force: parse(stopSchema, body).force ?? false });
    } else {
      throw new BerthError('not_found', 'A model can be sent `load` or `stop`.');
    }
    return { success: true, model: node.model(id, tenant) };
  };
  const removeModel = async (request: FastifyRequest): Promise<RemoveResponse> => {
    if (remove === undefined) return absent('remove');
    const { id } = node.model(wildcard(request), tenant);
    await remove(id);
    return { success: true, id };
  };
  const metrics = async (_request: FastifyRequest, reply: FastifyReply): Promise<string> => {
    const text = (await node.metrics()) + (options.metrics?.() ?? '');
    reply.type('text/plain; version=0.0.4; charset=utf-8');
    return text;
  };

  addHealth(app, node);
  addHealth(app, node, '/api/admin');
  route(app, '/api/admin/status', { GET: (): StatusResponse => node.status() });
  route(app, '/api/admin/models', { GET: (): ModelsResponse => ({ models: node.models(tenant) }) });
  route(app, '/api/admin/models/*', {
    GET: (request) => node.model(wildcard(request), tenant),
    POST: act,
    DELETE: removeModel,
  });
  route(app, '/api/admin/why/*', { GET: (request): WhyResponse => ({ decisions: node.why(wildcard(request)) }) });
  route(app, '/api/admin/kv', { GET: (): KvResponse => ({ kv: node.kv() }) });
  route(app, '/api/admin/pull', {
    POST: pull === undefined ? () => absent('pull') : pullHandler(pull, limitsOf(options)),
  });
  if (options.tenancy !== undefined) addTenantRoutes(app, options.tenancy);
  route(app, '/metrics', { GET: metrics });
  route(app, '/api/admin/metrics', { GET: metrics });
  return app;
}
