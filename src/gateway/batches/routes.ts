/** /v1/files and /v1/batches: OpenAI's shapes, each tenant's own. */
import type { Readable } from 'node:stream';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { TenantId } from '../../core/ids.ts';
import { BerthError } from '../../errors.ts';
import type { BatchStore, FileRow, Page } from '../../store/files.ts';
import { route } from '../http.ts';
import { parse } from '../openai/errors.ts';
import { principalOf } from '../openai/respond.ts';
import type { BatchRecord } from './record.ts';
import { batchObject, ENDPOINTS, fromRow, newBatchId, toRow, UNDONE } from './record.ts';
import type { BatchRunner } from './runner.ts';
import { readUpload } from './upload.ts';
import type { FileVault } from './vault.ts';
import { newFileId } from './vault.ts';

export interface BatchDesk {
  readonly vault: FileVault;
  readonly store: BatchStore;
  readonly runner: BatchRunner;
}

const WINDOW_MILLIS = 24 * 3_600_000;
/** Batches of a tenant that are not done. */
const MOST_BATCHES = 100;
/** Uploads that are read at once, all tenants together: each lies in memory until it is written. */
const MOST_UPLOADS = 2;

const batchSchema = z.strictObject({
  input_file_id: z.string().min(1).max(64),
  endpoint: z.enum(ENDPOINTS),
  completion_window: z.literal('24h'),
  metadata: z
    .record(z.string().max(64), z.string().max(512))
    .refine((entries) => Object.keys(entries).length <= 16, 'must have at most 16 entries')
    .nullish(),
});

const fileObject = (row: FileRow) => ({
  id: row.id,
  object: 'file',
  bytes: row.bytes,
  created_at: Math.floor(row.createdAt / 1_000),
  filename: row.filename,
  purpose: row.purpose,
  status: 'processed',
});

const idOf = (request: FastifyRequest): string => (request.params as { id: string }).id;
const tenantOf = (request: FastifyRequest): TenantId => principalOf(request).tenantId;

function pageOf(query: Readonly<Record<string, unknown>>, most: number, usual: number): Page {
  const text = (name: string): string | null => {
    const value = query[name];
    return typeof value === 'string' && value !== '' ? value : null;
  };
  const limit = text('limit') ?? String(usual);
  if (!/^\d{1,6}$/.test(limit) || Number(limit) < 1 || Number(limit) > most) {
    throw new BerthError('invalid_request', `\`limit\` must be a number from 1 to ${most}.`, { param: 'limit' });
  }
  const order = text('order') ?? 'desc';
  if (order !== 'asc' && order !== 'desc') {
    throw new BerthError('invalid_request', '`order` must be one of "asc", "desc".', { param: 'order' });
  }
  return { limit: Number(limit), after: text('after'), newestFirst: order === 'desc' };
}

/** One more than asked for tells whether there are more. */
function listObject<Row extends { readonly id: string }>(
  rows: readonly Row[],
  { limit }: Page,
  show: (row: Row) => object,
) {
  const shown = rows.slice(0, limit);
  return {
    object: 'list',
    data: shown.map(show),
    first_id: shown[0]?.id ?? null,
    last_id: shown.at(-1)?.id ?? null,
    has_more: rows.length > limit,
  };
}

export function addBatchRoutes(app: FastifyInstance, desk: BatchDesk): void {
  addFiles(app, desk);
  addBatches(app, desk);
}

function addFiles(app: FastifyInstance, { vault, store }: BatchDesk): void {
  // Only the upload's own handler reads such a body; elsewhere it is refused unread.
  app.addContentTypeParser('multipart/form-data', (request, payload, done) => {
    if (request.routeOptions.url === '/v1/files') done(null, payload);
    else done(new BerthError('unsupported_media_type', 'The body’s content type is not JSON.'), undefined);
  });
  let uploads = 0;
  const upload = async (request: FastifyRequest): Promise<object> => {
    const type = request.headers['content-type'];
    if (type === undefined || !type.startsWith('multipart/form-data')) {
      throw new BerthError('unsupported_media_type', 'A file is uploaded as multipart/form-data.');
    }
    if (uploads >= MOST_UPLOADS) {
      const text = `${MOST_UPLOADS} uploads are being read: another one has to wait.`;
      throw new BerthError('rate_limited', text, { retryAfterMicros: 1_000_000 });
    }
    uploads += 1;
    try {
      const { purpose, filename, bytes } = await readUpload(request.body as Readable, type, vault.limits.fileBytes);
      if (purpose !== 'batch') {
        throw new BerthError('invalid_request', '`purpose` must be "batch".', { param: 'purpose' });
      }
      return fileObject(await vault.add(tenantOf(request), purpose, filename, bytes));
    } finally {
      uploads -= 1;
    }
  };
  const list = (request: FastifyRequest): object => {
    const query = request.query as Readonly<Record<string, unknown>>;
    const page = pageOf(query, 10_000, 10_000);
    const purpose = typeof query['purpose'] === 'string' ? query['purpose'] : null;
    return listObject(vault.list(tenantOf(request), purpose, { ...page, limit: page.limit + 1 }), page, fileObject);
  };
  const content = (request: FastifyRequest, reply: FastifyReply): FastifyReply => {
    const row = vault.get(idOf(request), tenantOf(request));
    return reply.type('application/octet-stream').header('content-length', row.bytes).send(vault.read(row));
  };
  route(app, '/v1/files', { GET: list, POST: upload });
  route(app, '/v1/files/:id', {
    GET: (request) => fileObject(vault.get(idOf(request), tenantOf(request))),
    DELETE: async (request) => {
      const id = idOf(request);
      vault.get(id, tenantOf(request));
      if (store.inStates(UNDONE).some((row) => fromRow(row).inputFileId === id)) {
        throw new BerthError(
          'invalid_request',
          'The file is the input of a batch that is not done: cancel that first.',
        );
      }
      await vault.remove(id, tenantOf(request));
      return { id, object: 'file', deleted: true };
    },
  });
  route(app, '/v1/files/:id/content', { GET: content });
}

function addBatches(app: FastifyInstance, { vault, store, runner }: BatchDesk): void {
  const find = (request: FastifyRequest): BatchRecord => {
    const row = store.get(idOf(request), tenantOf(request));
    if (row === null) throw new BerthError('not_found', 'There is no such batch.');
    return runner.live(row.id) ?? fromRow(row);
  };
  const create = (request: FastifyRequest): object => {
    const body = parse(batchSchema, request.body);
    const { tenantId, keyId } = principalOf(request);
    const input = vault.get(body.input_file_id, tenantId);
    if (input.purpose !== 'batch') {
      throw new BerthError('invalid_request', 'The file is not one for batches.', { param: 'input_file_id' });
    }
    const undone = store.inStates(UNDONE).filter((row) => row.tenantId === tenantId).length;
    if (undone >= MOST_BATCHES) {
      const text = `A tenant may have ${MOST_BATCHES} batches that are not done.`;
      throw new BerthError('rate_limited', text, { retryAfterMicros: 60_000_000 });
    }
    const createdAt = Date.now();
    const batch: BatchRecord = {
      id: newBatchId(),
      tenantId,
      keyId,
      createdAt,
      state: 'validating',
      endpoint: body.endpoint,
      inputFileId: input.id,
      completionWindow: body.completion_window,
      metadata: body.metadata ?? null,
      expiresAt: createdAt + WINDOW_MILLIS,
      outputFileId: newFileId(),
      errorFileId: newFileId(),
      errors: [],
      total: 0,
      completed: 0,
      failed: 0,
      inProgressAt: null,
      finalizingAt: null,
      completedAt: null,
      failedAt: null,
      expiredAt: null,
      cancellingAt: null,
      cancelledAt: null,
      hasOutput: false,
      hasErrors: false,
    };
    store.put(toRow(batch));
    setImmediate(() => runner.look());
    return batchObject(batch);
  };
  const cancel = (request: FastifyRequest): object => {
    const batch = find(request);
    if (batch.state === 'validating' || batch.state === 'in_progress') {
      const cancelling: BatchRecord = { ...batch, state: 'cancelling', cancellingAt: Date.now() };
      store.put(toRow(cancelling));
      setImmediate(() => runner.look());
      return batchObject(cancelling);
    }
    if (batch.state === 'cancelling' || batch.state === 'cancelled') return batchObject(batch);
    throw new BerthError('invalid_request', `The batch is ${batch.state}: it can’t be cancelled any more.`);
  };
  const list = (request: FastifyRequest): object => {
    const page = pageOf(request.query as Readonly<Record<string, unknown>>, 100, 20);
    const rows = store.list(tenantOf(request), { ...page, limit: page.limit + 1 });
    return listObject(
      rows.map((row) => runner.live(row.id) ?? fromRow(row)),
      page,
      batchObject,
    );
  };
  route(app, '/v1/batches', { GET: list, POST: create });
  route(app, '/v1/batches/:id', { GET: (request) => batchObject(find(request)) });
  route(app, '/v1/batches/:id/cancel', { POST: cancel });
}
