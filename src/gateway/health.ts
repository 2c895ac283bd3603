/** What a supervisor, a load balancer or a person asks first. None of it needs a key, none of it names a model. */
import type { FastifyInstance } from 'fastify';
import { BerthError } from '../errors.ts';
import type { NodeApi } from '../runtime/api.ts';
import { route } from './http.ts';

export function addHealth(app: FastifyInstance, node: NodeApi, prefix = ''): void {
  const ready = () => {
    if (node.ready()) return { status: 'ok' };
    throw new BerthError('node_stopping', 'The node is starting or stopping.', { retryAfterMicros: 1_000_000 });
  };
  route(app, `${prefix}/health`, { GET: ready }, true);
  route(app, `${prefix}/readyz`, { GET: ready }, true);
  route(app, `${prefix}/livez`, { GET: () => ({ status: 'ok' }) }, true);
  route(app, `${prefix}/version`, { GET: () => ({ version: node.status().version }) }, true);
}
