import { describe, expect, test } from 'vitest';
import { modelId } from '../../src/core/ids.ts';
import { BerthError } from '../../src/errors.ts';
import type { AdminOptions } from '../../src/gateway/admin.ts';
import { createAdmin } from '../../src/gateway/admin.ts';
import type { PullLine } from '../../src/gateway/admin-types.ts';
import { Wire, open } from './harness.ts';
import { StubNode } from './stub-node.ts';

const ID = 'org/deep/model:Q4_K_M';
const admin = (options: AdminOptions = {}, node = new StubNode()) => ({ app: createAdmin(node, options), node });
const lines = (text: string): PullLine[] =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as PullLine);

test('status, models, one model, decisions, metrics, health', async () => {
  const { app } = admin();
  expect((await app.inject('/api/admin/status')).json()).toMatchObject({ device: { lanes: 2 } });
  expect((await app.inject('/api/admin/models')).json()).toMatchObject({ models: [{ id: 'smol' }, { id: ID }] });
  for (const id of [ID, encodeURIComponent(ID)]) {
    expect((await app.inject(`/api/admin/models/${id}`)).json()).toMatchObject({ id: ID });
  }
  expect((await app.inject(`/api/admin/why/${ID}`)).json()).toMatchObject({
    decisions: [{ model: ID, because: { rule: 'wanted' } }],
  });
  expect((await app.inject('/api/admin/why/nobody')).statusCode).toBe(404);
  for (const url of ['/metrics', '/api/admin/metrics']) {
    const metrics = await app.inject(url);
    expect([metrics.headers['content-type'], metrics.body]).toEqual([
      'text/plain; version=0.0.4; charset=utf-8',
      expect.stringContaining('berth_up 1'),
    ]);
  }
  expect((await app.inject('/health')).json()).toEqual({ status: 'ok' });
  expect((await app.inject('/api/admin/health')).json()).toEqual({ status: 'ok' });
});

describe('load and stop', () => {
  const post = (app: ReturnType<typeof createAdmin>, url: string, payload?: object) =>
    app.inject({ method: 'POST', url: `/api/admin/models/${url}`, ...(payload === undefined ? {} : { payload }) });
  test('with and without a body, the id encoded or not', async () => {
    const { app, node } = admin();
    expect((await post(app, `${ID}/load`)).json()).toMatchObject({ success: true, model: { id: ID } });
    expect((await post(app, `${encodeURIComponent(ID)}/load`, {})).statusCode).toBe(200);
    expect((await post(app, 'small/stop')).statusCode).toBe(200);
    expect((await post(app, 'small/stop', { force: true })).statusCode).toBe(200);
    expect(node.loads).toEqual([ID, ID]);
    expect(node.stops).toEqual([
      { name: 'smol', force: false },
      { name: 'smol', force: true },
    ]);
  });
  test('refuse what they don’t know', async () => {
    const { app } = admin();
    expect((await post(app, 'nope/load')).json()).toMatchObject({ error: { code: 'model_not_found' } });
    expect((await post(app, 'smol/dance')).json()).toMatchObject({ error: { code: 'not_found' } });
    expect((await post(app, 'smol/stop', { force: 'yes' })).json()).toMatchObject({
      error: { code: 'invalid_request', param: 'force' },
    });
    expect((await post(app, 'smol/load', { fast: true })).json()).toMatchObject({
      error: { code: 'unsupported_parameter', param: 'fast' },
    });
    expect((await app.inject({ method: 'PUT', url: '/api/admin/models/smol' })).headers['allow']).toBe(
      'GET, POST, DELETE, HEAD',
    );
  });
});

describe('pull', () => {
  const pullOf = (app: ReturnType<typeof createAdmin>, payload: object) =>
    app.inject({ method: 'POST', url: '/api/admin/pull', payload });
  test('tells its progress line by line, then the id', async () => {
    const { app } = admin({
      pull: async (source, name, onProgress) => {
        onProgress({ phase: 'downloading', receivedBytes: 5, totalBytes: 10, item: 'part1' });
        return { id: `${source}=${name}` };
      },
    });
    const answer = await pullOf(app, { source: 'pypi:x', name: 'y' });
    expect(answer.headers['content-type']).toBe('application/x-ndjson');
    expect(lines(answer.body)).toEqual([
      { type: 'progress', phase: 'downloading', receivedBytes: 5, totalBytes: 10, item: 'part1' },
      { type: 'done', id: 'pypi:x=y' },
    ]);
  });
  test('a failure is the last line', async () => {
    const { app } = admin({ pull: () => Promise.reject(new BerthError('download_failed', 'The host is gone.')) });
    expect(lines((await pullOf(app, { source: 'pypi:x' })).body)).toEqual([
      { type: 'error', error: expect.objectContaining({ code: 'download_failed', type: 'server_error', param: null }) },
    ]);
  });
  test('a client that leaves stops it', async () => {
    let stopped: () => void = () => undefined;
    const left = new Promise<void>((resolve) => {
      stopped = resolve;
    });
    const pull: AdminOptions['pull'] = (_source, _name, onProgress, signal) => {
      onProgress({ phase: 'downloading', receivedBytes: 1, totalBytes: null });
      return new Promise((_, reject) => {
        signal.addEventListener('abort', () => {
          stopped();
          reject(new BerthError('request_cancelled', 'stopped'));
        });
      });
    };
    const { adminPort } = await open(new StubNode(), { admin: { pull } });
    const wire = new Wire(adminPort).post('/api/admin/pull', { source: 'pypi:x' });
    await wire.until('"receivedBytes":1');
    wire.socket.destroy();
    await left;
  });
  test('is checked, and refused where the node has none', async () => {
    const { app } = admin({ pull: async () => ({ id: 'x' }) });
    expect((await pullOf(app, { source: '' })).json()).toMatchObject({ error: { param: 'source' } });
    expect((await pullOf(app, { source: 'x', name: '../up' })).json()).toMatchObject({ error: { param: 'name' } });
    expect((await pullOf(admin().app, { source: 'x' })).json()).toMatchObject({ error: { code: 'forbidden' } });
  });
});

test('delete takes a model away by its id, also when named by an alias', async () => {
  const removed: string[] = [];
  const { app } = admin({
    remove: async (id) => {
      removed.push(id);
    },
  });
  expect((await app.inject({ method: 'DELETE', url: '/api/admin/models/small' })).json()).toEqual({
    success: true,
    id: modelId('smol'),
  });
  expect((await app.inject({ method: 'DELETE', url: '/api/admin/models/nope' })).statusCode).toBe(404);
  expect(removed).toEqual(['smol']);
  expect((await admin().app.inject({ method: 'DELETE', url: '/api/admin/models/smol' })).statusCode).toBe(403);
});

test('the admin key guards everything but health', async () => {
  const { app } = admin({ adminKey: 'operator' });
  expect((await app.inject('/api/admin/status')).statusCode).toBe(401);
  expect((await app.inject('/metrics')).statusCode).toBe(401);
  expect((await app.inject('/health')).statusCode).toBe(200);
  expect(
    (await app.inject({ url: '/api/admin/status', headers: { authorization: 'Bearer operator' } })).statusCode,
  ).toBe(200);
});

test('a web page can neither rebind its name nor post', async () => {
  const { app, node } = admin();
  expect((await app.inject({ url: '/api/admin/status', headers: { host: 'evil.example' } })).statusCode).toBe(403);
  const headers = { origin: 'https://evil.example' };
  expect((await app.inject({ method: 'POST', url: '/api/admin/models/smol/stop', headers })).statusCode).toBe(403);
  expect(node.stops).toEqual([]);
});
