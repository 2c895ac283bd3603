/** POST /v1/embeddings. */
import { endianness } from 'node:os';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { parse } from './errors.ts';
import { embeddingSubmission } from './params.ts';
import type { Desk } from './respond.ts';
import { callerOf, collect, startRun, timeHeaders } from './respond.ts';
import { berthField } from './run.ts';
import { embeddingSchema } from './schema.ts';
import type { EmbeddedEvent } from './types.ts';

/** Little-endian float32, as OpenAI's SDKs decode it. */
function base64(vector: Float32Array): string {
  const bytes = Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength);
  return (endianness() === 'LE' ? bytes : Buffer.from(bytes).swap32()).toString('base64');
}

export function embeddingHandler(desk: Desk) {
  return async (request: FastifyRequest, reply: FastifyReply): Promise<unknown> => {
    const body = parse(embeddingSchema, request.body);
    const run = startRun(desk, request, reply, [embeddingSubmission(body, callerOf(request))], 1);
    let vectors: EmbeddedEvent['vectors'] = [];
    const totals = await collect(run, (_, event) => {
      if (event.type === 'embedded') vectors = event.vectors;
    });
    timeHeaders(request, reply, totals);
    const encode = body.encoding_format === 'base64' ? base64 : (vector: Float32Array) => Array.from(vector);
    return {
      object: 'list',
      data: vectors.map((vector, index) => ({ object: 'embedding', index, embedding: encode(vector) })),
      model: totals.modelId,
      usage: { prompt_tokens: totals.promptTokens, total_tokens: totals.promptTokens },
      berth: berthField(totals),
    };
  };
}
