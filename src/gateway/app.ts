/** The public listener: OpenAI's API on a node. `inject()` works without a socket; `listen.ts` opens one. */
import type { FastifyInstance } from 'fastify';
import type { NodeApi } from '../runtime/api.ts';
import { openDoor, staticKeys } from './auth.ts';
import { addHealth } from './health.ts';
import { createHttpApp, limitsOf, route } from './http.ts';
import { chatHandler } from './openai/chat.ts';
import { completionHandler } from './openai/completions.ts';
import { embeddingHandler } from './openai/embeddings.ts';
import { getModel, listModels } from './openai/models.ts';
import type { GatewayOptions } from './options.ts';

/**
 * @throws BerthError config_invalid for an empty key.
 */
export function createGateway(node: NodeApi, options: GatewayOptions = {}): FastifyInstance {
  const keys = options.apiKeys ?? [];
  const app = createHttpApp(options, options.auth ?? (keys.length > 0 ? staticKeys(keys) : openDoor));
  const limits = limitsOf(options);
  addHealth(app, node);
  route(app, '/v1/chat/completions', { POST: chatHandler(node, limits) });
  route(app, '/v1/completions', { POST: completionHandler(node, limits) });
  route(app, '/v1/embeddings', { POST: embeddingHandler(node, limits) });
  route(app, '/v1/models', { GET: listModels(node) });
  route(app, '/v1/models/*', { GET: getModel(node) });
  return app;
}
