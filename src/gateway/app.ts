/** The public listener: OpenAI's API on a node. `inject()` works without a socket; `listen.ts` opens one. */
import type { FastifyInstance } from 'fastify';
import type { NodeApi } from '../runtime/api.ts';
import { openDoor, staticKeys } from './auth.ts';
import { insideDoor } from './batches/line.ts';
import { addBatchRoutes } from './batches/routes.ts';
import { addHealth } from './health.ts';
import { createHttpApp, limitsOf, route } from './http.ts';
import { chatHandler } from './openai/chat.ts';
import { completionHandler } from './openai/completions.ts';
import { embeddingHandler } from './openai/embeddings.ts';
import { getModel, listModels } from './openai/models.ts';
import type { Desk } from './openai/respond.ts';
import type { GatewayOptions } from './options.ts';
import { Gate } from './tenants/gate.ts';

/**
 * @throws BerthError config_invalid for an empty key.
 */
export function createGateway(node: NodeApi, options: GatewayOptions = {}): FastifyInstance {
  const keys = options.apiKeys ?? [];
  const { batches } = options;
  const auth = options.auth ?? (keys.length > 0 ? staticKeys(keys) : openDoor);
  const door = batches === undefined ? null : insideDoor(auth, batches.principalOf);
  const app = createHttpApp(options, door?.auth ?? auth);
  const desk: Desk = { node, gate: options.gate ?? new Gate(node), limits: limitsOf(options) };
  addHealth(app, node);
  route(app, '/v1/chat/completions', { POST: chatHandler(desk) });
  route(app, '/v1/completions', { POST: completionHandler(desk) });
  route(app, '/v1/embeddings', { POST: embeddingHandler(desk) });
  route(app, '/v1/models', { GET: listModels(desk) });
  route(app, '/v1/models/*', { GET: getModel(desk) });
  if (batches !== undefined && door !== null) {
    addBatchRoutes(app, batches);
    const run = door.runLine(app);
    app.addHook('onListen', async () => batches.runner.start(run));
    app.addHook('preClose', () => batches.runner.stop());
  }
  return app;
}
