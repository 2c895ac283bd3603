/** GET /v1/models and /v1/models/{id}: OpenAI's fields, and the extras that llama-server and vLLM add. */
import type { FastifyRequest } from 'fastify';
import type { ModelView } from '../../runtime/api.ts';
import type { Desk } from './respond.ts';
import { principalOf } from './respond.ts';

const modelObject = (view: ModelView) => ({
  id: view.id,
  object: 'model',
  created: view.createdSeconds,
  owned_by: 'berth',
  ...(view.parent !== undefined && { parent: view.parent }),
  aliases: view.aliases,
  max_model_len: view.contextTokens,
  meta: { n_ctx_train: view.details.trainedContextTokens, n_params: view.details.parameters, size: view.fileBytes },
  architecture: {
    input_modalities: ['text'],
    output_modalities: view.capabilities.embeds ? ['text', 'embeddings'] : ['text'],
  },
  status: { value: view.state, ...(view.state === 'failed' ? { failed: true } : {}) },
});

export const listModels =
  ({ gate }: Desk) =>
  (request: FastifyRequest) => ({
    object: 'list',
    data: gate.models(principalOf(request)).map(modelObject),
  });

/** The id may hold slashes and colons, percent-encoded or not. */
export const getModel =
  ({ gate }: Desk) =>
  (request: FastifyRequest) =>
    modelObject(gate.model(principalOf(request), (request.params as { '*': string })['*']));
