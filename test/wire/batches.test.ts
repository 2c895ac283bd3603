/** Files and batches, by the unmodified official client. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import OpenAI, { BadRequestError, NotFoundError, toFile } from 'openai';
import type { Batch } from 'openai/resources/batches';
import { describe, expect, onTestFinished, test } from 'vitest';
import { DEFAULT_TENANT, tenantId } from '../../src/core/ids.ts';
import { BatchRunner } from '../../src/gateway/batches/runner.ts';
import { FileVault } from '../../src/gateway/batches/vault.ts';
import type { GatewayOptions, Principal } from '../../src/gateway/options.ts';
import { BerthError } from '../../src/errors.ts';
import { claim } from '../../src/store/claim.ts';
import { openStore } from '../../src/store/store.ts';
import { gather, open } from './harness.ts';
import type { Behaviour } from './stub-node.ts';
import { say, StubNode } from './stub-node.ts';

const KEYS: readonly [string, string][] = [
  ['k-default', DEFAULT_TENANT],
  ['k-other', 'other'],
];

async function world(behaviour: Behaviour = say('Hello'), folder = mkdtempSync(join(tmpdir(), 'berth-batches-'))) {
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const store = openStore(folder);
  onTestFinished(() => store.close());
  const vault = new FileVault(join(folder, 'files'), store.files, { fileBytes: 20_000, tenantBytes: 50_000 });
  const runner = new BatchRunner({
    store: store.batches,
    vault,
    folder: join(folder, 'batches'),
    claim: () => claim(join(folder, 'lock')),
    lookMillis: 20,
    inFlight: 4,
    stopMillis: 1_000,
  });
  const principalOf = (tenant: string, keyId: string | null): Principal => ({ tenantId: tenantId(tenant), keyId });
  const batches: GatewayOptions['batches'] = { vault, store: store.batches, runner, principalOf };
  const node = new StubNode(behaviour);
  const apiKeys = KEYS.map(([key, tenant]) => ({ key, tenantId: tenantId(tenant) }));
  const { url } = await open(node, { gateway: { apiKeys, batches } });
  const client = (key = 'k-default') => new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
  return { folder, store, node, runner, url, client };
}

const line = (customId: string, extra: object = {}, url = '/v1/chat/completions') => ({
  custom_id: customId,
  method: 'POST',
  url,
  body: { model: 'smol', messages: [{ role: 'user', content: 'hi' }], ...extra },
});
const jsonl = (lines: readonly unknown[]): string => lines.map((one) => JSON.stringify(one)).join('\n');

async function begin(openai: OpenAI, text: string): Promise<Batch> {
  const file = await openai.files.create({ file: await toFile(Buffer.from(text), 'in.jsonl'), purpose: 'batch' });
  return openai.batches.create({ input_file_id: file.id, endpoint: '/v1/chat/completions', completion_window: '24h' });
}

async function ended(openai: OpenAI, { id }: Batch): Promise<Batch> {
  for (;;) {
    const batch = await openai.batches.retrieve(id);
    if (!['validating', 'in_progress', 'finalizing', 'cancelling'].includes(batch.status)) return batch;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

interface Result {
  readonly custom_id: string;
  readonly response: { readonly status_code: number; readonly body: Record<string, unknown> } | null;
  readonly error: { readonly code: string } | null;
}
async function resultsOf(openai: OpenAI, id: string | null | undefined): Promise<Result[]> {
  if (id === null || id === undefined) return [];
  const text = await (await openai.files.content(id)).text();
  return text
    .trim()
    .split('\n')
    .map((one) => JSON.parse(one) as Result);
}

describe('files', () => {
  test('are uploaded, listed in pages, read, and removed, each tenant’s own', async () => {
    const { client, folder } = await world();
    const openai = client();
    const made = [];
    for (const name of ['a', 'b', 'ü c.jsonl']) {
      made.push(
        await openai.files.create({ file: await toFile(Buffer.from(`{"${name}":1}\n`), name), purpose: 'batch' }),
      );
    }
    expect(made[2]).toMatchObject({
      object: 'file',
      filename: 'ü c.jsonl',
      purpose: 'batch',
      bytes: Buffer.byteLength('{"ü c.jsonl":1}\n'),
      status: 'processed',
    });
    expect((await gather(openai.files.list({ order: 'asc', limit: 2 }))).map(({ id }) => id)).toEqual(
      made.map(({ id }) => id),
    );
    expect(await (await openai.files.content(made[0]?.id ?? '')).text()).toBe('{"a":1}\n');
    expect(readdirSync(join(folder, 'files')).toSorted()).toEqual(made.map(({ id }) => id).toSorted());
    const other = client('k-other');
    expect(await gather(other.files.list())).toEqual([]);
    await expect(other.files.content(made[0]?.id ?? '')).rejects.toThrow(NotFoundError);
    await expect(other.files.delete(made[0]?.id ?? '')).rejects.toThrow(NotFoundError);
    expect(await openai.files.delete(made[0]?.id ?? '')).toMatchObject({ deleted: true });
    expect(readdirSync(join(folder, 'files'))).toHaveLength(2);
  });

  test('that are too large, for nothing, or no files, are refused', async () => {
    const { client, url } = await world();
    const upload = async (bytes: number, purpose: 'batch' | 'vision' = 'batch') =>
      client().files.create({ file: await toFile(Buffer.alloc(bytes, 'x'), 'x'), purpose });
    await expect(upload(20_001)).rejects.toThrow(/may have 20000 bytes/);
    await expect(upload(60_000)).rejects.toThrow(/may have 20000 bytes/);
    await expect(upload(1, 'vision')).rejects.toThrow(/`purpose` must be "batch"/);
    await upload(20_000);
    await upload(20_000);
    await expect(upload(20_000)).rejects.toThrow(/together may hold 50000 bytes/);
    const post = async (path: string, body: FormData | string, type?: string) => {
      const headers = { authorization: 'Bearer k-default', ...(type === undefined ? {} : { 'content-type': type }) };
      const response = await fetch(url + path, { method: 'POST', headers, body });
      return [response.status, ((await response.json()) as { error: { code: string } }).error.code];
    };
    const form = (fields: Record<string, string>) => {
      const data = new FormData();
      for (const [name, value] of Object.entries(fields)) data.set(name, value);
      return data;
    };
    expect(await post('/v1/files', '{}', 'application/json')).toEqual([415, 'unsupported_media_type']);
    expect(await post('/v1/files', 'mess', 'multipart/form-data; boundary=x')).toEqual([400, 'invalid_request']);
    expect(await post('/v1/files', form({ purpose: 'batch', file: 'text' }))).toEqual([400, 'invalid_request']);
    expect(await post('/v1/files', form({ purpose: 'batch', extra: '1' }))).toEqual([400, 'unsupported_parameter']);
    expect(await post('/v1/chat/completions', form({ purpose: 'batch' }))).toEqual([415, 'unsupported_media_type']);
  });
});

describe('a batch', () => {
  test('runs each of its lines once, as its tenant, with the lowest priority, and gives back two files', async () => {
    const { client, node } = await world();
    const openai = client('k-other');
    const lines = [...Array(30).keys()].map((n) =>
      line(`line-${n}`, n % 10 === 3 ? { temperature: 9 } : { priority: 'interactive' }),
    );
    const batch = await ended(openai, await begin(openai, jsonl(lines)));
    expect(batch).toMatchObject({
      object: 'batch',
      status: 'completed',
      endpoint: '/v1/chat/completions',
      request_counts: { total: 30, completed: 27, failed: 3 },
      errors: null,
    });
    expect(node.submissions).toHaveLength(27);
    expect(new Set(node.submissions.map(({ tenantId: id, priority }) => `${id} ${priority}`))).toEqual(
      new Set(['other batch']),
    );
    const good = await resultsOf(openai, batch.output_file_id);
    expect(good.map(({ custom_id }) => custom_id).toSorted()).toEqual(
      lines
        .map(({ custom_id }) => custom_id)
        .filter((id) => !id.endsWith('3'))
        .toSorted(),
    );
    expect(good[0]?.response).toMatchObject({ status_code: 200, body: { object: 'chat.completion' } });
    const bad = await resultsOf(openai, batch.error_file_id);
    expect(bad).toHaveLength(3);
    expect(bad[0]?.response).toMatchObject({ status_code: 400, body: { error: { param: 'temperature' } } });
    expect((await gather(openai.batches.list())).map(({ id }) => id)).toEqual([batch.id]);
    expect(await gather(client().batches.list())).toEqual([]);
    await expect(client().batches.retrieve(batch.id)).rejects.toThrow(NotFoundError);
  });

  test('with wrong lines fails as a whole, and says which', async () => {
    const { client, node } = await world();
    const openai = client();
    const text = [
      JSON.stringify(line('a')),
      'not json, but a SECRET',
      JSON.stringify(line('a')),
      JSON.stringify(line('b', {}, '/v1/embeddings')),
      JSON.stringify({ ...line('c'), body: 3 }),
      JSON.stringify(line('d', { stream: true })),
    ].join('\n');
    const batch = await ended(openai, await begin(openai, text));
    expect(batch.status).toBe('failed');
    expect(batch.errors?.data?.map(({ line: at, code }) => [at, code])).toEqual([
      [2, 'invalid_json_line'],
      [3, 'duplicate_custom_id'],
      [4, 'mismatched_url'],
      [5, 'invalid_request'],
      [6, 'invalid_request'],
    ]);
    expect(JSON.stringify(batch)).not.toContain('SECRET');
    expect(node.submissions).toEqual([]);
    expect((await ended(openai, await begin(openai, '\n'))).errors?.data?.[0]?.code).toBe('empty_file');
  });

  test('tries again what the node was too busy for', async () => {
    let refusals = 0;
    const { client, node } = await world((submission, sink) => {
      if (refusals++ < 3) throw new BerthError('queue_full', 'full', { retryAfterMicros: 1_000 });
      say('Hello')(submission, sink);
    });
    const openai = client();
    const batch = await ended(openai, await begin(openai, jsonl([line('a'), line('b')])));
    expect(batch.request_counts).toEqual({ total: 2, completed: 2, failed: 0 });
    expect(node.submissions.length).toBe(5);
  });

  test('is cancelled: what runs ends, the rest isn’t begun', async () => {
    const held: (() => void)[] = [];
    const { client, node } = await world((submission, sink) => void held.push(() => say('Hello')(submission, sink)));
    const openai = client();
    const batch = await begin(openai, jsonl([...Array(20).keys()].map((n) => line(String(n)))));
    while (held.length < 4) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(await openai.batches.cancel(batch.id)).toMatchObject({ status: 'cancelling' });
    await expect(openai.files.delete(batch.input_file_id)).rejects.toThrow(BadRequestError);
    for (const go of held) go();
    const last = await ended(openai, batch);
    expect(last).toMatchObject({ status: 'cancelled', request_counts: { total: 20, completed: 4, failed: 0 } });
    expect(await resultsOf(openai, last.output_file_id)).toHaveLength(4);
    expect(node.submissions).toHaveLength(4);
    await expect(openai.batches.cancel(last.id)).resolves.toMatchObject({ status: 'cancelled' });
  });

  test('that a node left half done is gone on with; a torn line is run again, a whole one isn’t', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'berth-batches-'));
    const lines = [...Array(6).keys()].map((n) => line(`line-${n}`));
    {
      // What a killed node leaves: the batch in progress, one result and a half.
      const store = openStore(folder);
      const vault = new FileVault(join(folder, 'files'), store.files);
      const input = await vault.add(DEFAULT_TENANT, 'batch', 'in', Buffer.from(jsonl(lines)));
      const body = { endpoint: '/v1/chat/completions', inputFileId: input.id, completionWindow: '24h', metadata: null };
      const times = {
        inProgressAt: 1,
        finalizingAt: null,
        completedAt: null,
        failedAt: null,
        expiredAt: null,
        cancellingAt: null,
        cancelledAt: null,
      };
      const files = { outputFileId: 'file-out', errorFileId: 'file-err', hasOutput: false, hasErrors: false };
      store.batches.put({
        id: 'batch_x',
        tenantId: DEFAULT_TENANT,
        keyId: null,
        state: 'in_progress',
        createdAt: Date.now(),
        body: {
          ...body,
          ...times,
          ...files,
          expiresAt: Date.now() + 60_000,
          errors: [],
          total: 6,
          completed: 1,
          failed: 0,
        },
      });
      store.close();
    }
    mkdirSync(join(folder, 'batches'));
    const whole = JSON.stringify({
      id: 'batch_req_1',
      custom_id: 'line-0',
      response: { status_code: 200, request_id: 'r', body: {} },
      error: null,
    });
    writeFileSync(
      join(folder, 'batches', 'batch_x.output.jsonl'),
      `${whole}\n${whole.replace('line-0', 'line-1').slice(0, 60)}`,
    );
    writeFileSync(join(folder, 'files', 'file-left.part'), 'half an upload');
    utimesSync(join(folder, 'files', 'file-left.part'), 1, 1);
    const { client, node } = await world(say('Hello'), folder);
    const batch = await ended(client(), { id: 'batch_x' } as Batch);
    expect(batch).toMatchObject({ status: 'completed', request_counts: { total: 6, completed: 6, failed: 0 } });
    expect(node.submissions).toHaveLength(5);
    const ids = (await resultsOf(client(), batch.output_file_id)).map(({ custom_id }) => custom_id);
    expect(ids.toSorted()).toEqual(lines.map(({ custom_id }) => custom_id));
    expect(readdirSync(join(folder, 'files'))).not.toContain('file-left.part');
  });

  test('of a database is run by one process only', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'berth-batches-'));
    const first = await world(say('first'), folder);
    const second = await world(say('second'), folder);
    await ended(second.client(), await begin(second.client(), jsonl([line('a')])));
    expect([first.node.submissions.length, second.node.submissions.length]).toEqual([1, 0]);
    await first.runner.stop();
    await ended(first.client(), await begin(first.client(), jsonl([line('b')])));
    expect(second.node.submissions.length).toBe(1);
  });

  test.each([
    [{ completion_window: '1h' }, 'completion_window'],
    [{ endpoint: '/v1/images' }, 'endpoint'],
    [{ input_file_id: 7 }, 'input_file_id'],
    [{ metadata: { a: 1 } }, 'metadata.a'],
    [{ extra: true }, 'extra'],
  ])('that is asked for with %j is refused', async (wrong, param) => {
    const { url } = await world();
    const body = { input_file_id: 'x', endpoint: '/v1/completions', completion_window: '24h', ...wrong };
    const headers = { authorization: 'Bearer k-default', 'content-type': 'application/json' };
    const response = await fetch(`${url}/v1/batches`, { method: 'POST', headers, body: JSON.stringify(body) });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ error: { param } });
  });
});
