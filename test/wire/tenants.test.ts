/** Tenants, keys and limits as an unmodified official client meets them. */
import OpenAI, { AuthenticationError, NotFoundError, RateLimitError } from 'openai';
import { describe, expect, test } from 'vitest';
import { modelId, tenantId } from '../../src/core/ids.ts';
import { NO_LIMITS } from '../../src/limits/spec.ts';
import { chatBody, gather } from './harness.ts';
import { finished, StubNode, tokens } from './stub-node.ts';
import { openTenants, tenant } from './tenancy.ts';

const ask = { model: 'smol', messages: [{ role: 'user' as const, content: 'hello' }] };
const client = (url: string, apiKey: string, maxRetries = 0) =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries });

describe('keys', () => {
  test('work as a bearer and as x-api-key, and not any more once revoked', async () => {
    const { listening, directory, keyOf, rows } = await openTenants(new StubNode(), { tenants: [tenant('acme')] });
    const secret = keyOf('acme');
    await client(listening.url, secret).chat.completions.create(ask);
    const byHeader = () =>
      fetch(`${listening.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'x-api-key': secret },
        body: JSON.stringify(ask),
      });
    expect((await byHeader()).status).toBe(200);
    expect(rows.map((row) => [row.tenantId, row.keyId])).toEqual([
      ['acme', directory.keys()[0]?.id],
      ['acme', directory.keys()[0]?.id],
    ]);
    directory.revokeKey(directory.keys()[0]?.id ?? '');
    await expect(client(listening.url, secret).chat.completions.create(ask)).rejects.toThrow(AuthenticationError);
    expect((await byHeader()).status).toBe(401);
  });

  test('of tenants are no keys of the admin API’s, which shows no secret', async () => {
    const { listening, keyOf } = await openTenants(new StubNode(), { tenants: [tenant('acme')] });
    const secret = keyOf('acme');
    for (const path of ['tenants', 'tenants/acme', 'keys', 'usage?by=tenant']) {
      const text = await (await fetch(`${listening.adminUrl}/api/admin/${path}`)).text();
      expect(text).not.toContain(secret.slice(8));
    }
    for (const path of ['/api/admin/tenants', '/metrics', '/api/admin/status', '/slots', '/sleep']) {
      const response = await fetch(listening.url + path, { headers: { authorization: `Bearer ${secret}` } });
      expect(response.status).toBe(404);
    }
  });
});

describe('models', () => {
  const policy = { limits: NO_LIMITS, price: null };

  test('of others are not there at all: the same bytes as of a name that nobody has', async () => {
    const node = new StubNode();
    const { listening, keyOf } = await openTenants(node, {
      tenants: [tenant('acme'), tenant('other')],
      models: [{ ...policy, id: modelId('smol'), tenants: [tenantId('acme')] }],
    });
    const [acme, other] = [keyOf('acme'), keyOf('other')];
    const names = async (secret: string) =>
      (await gather(await client(listening.url, secret).models.list())).map(({ id }) => id);
    expect(await names(acme)).toEqual(['smol', 'org/deep/model:Q4_K_M']);
    expect(await names(other)).toEqual(['org/deep/model:Q4_K_M']);
    expect(await names(keyOf('acme', { models: ['org/*'] }))).toEqual(['org/deep/model:Q4_K_M']);
    expect((await client(listening.url, acme).models.retrieve('smol')).id).toBe('smol');
    await expect(client(listening.url, other).models.retrieve('smol')).rejects.toThrow(NotFoundError);

    const headers = { authorization: `Bearer ${other}`, 'content-type': 'application/json', 'x-request-id': 'one' };
    /** All answers to whoever names `model`, headers and all, but for the name itself and the time. */
    const answers = async (model: string): Promise<string> => {
      const got: unknown[] = [];
      const keep = async (response: Response): Promise<void> => {
        const { date: _, ...rest } = Object.fromEntries(response.headers);
        got.push(response.status, rest, await response.text());
      };
      for (const [path, body] of [
        ['chat/completions', chatBody({ model })],
        ['chat/completions', chatBody({ model, stream: true })],
        ['completions', { model, prompt: 'x' }],
        ['embeddings', { model, input: 'x' }],
      ] as const) {
        await keep(await fetch(`${listening.url}/v1/${path}`, { method: 'POST', headers, body: JSON.stringify(body) }));
      }
      await keep(await fetch(`${listening.url}/v1/models/${model}`, { headers }));
      return JSON.stringify(got).replaceAll(model, 'MODEL');
    };
    const hidden = await answers('smol');
    expect(hidden).toBe(await answers('none'));
    expect(hidden).toContain('model_not_found');
    expect(node.submissions).toEqual([]);
  });
});

describe('limits', () => {
  test('the client sees what is left, waits as long as it is told, and then gets through', async () => {
    const node = new StubNode();
    const { listening, keyOf } = await openTenants(node, { tenants: [tenant('acme', { requestsPerMinute: 600 })] });
    const secret = keyOf('acme');
    const { response } = await client(listening.url, secret).chat.completions.create(ask).withResponse();
    expect(response.headers.get('x-ratelimit-limit-requests')).toBe('600');
    expect(Number(response.headers.get('x-ratelimit-remaining-requests'))).toBeGreaterThan(597);
    expect(response.headers.get('x-ratelimit-reset-requests')).toMatch(/^\d+ms$/);
  });

  test('a refusal is a RateLimitError with the time to come back', async () => {
    const { listening, keyOf } = await openTenants(new StubNode(), {
      tenants: [tenant('acme', { requestsPerMinute: 2, tokensPerMinute: 100_000 })],
    });
    const openai = client(listening.url, keyOf('acme'));
    await openai.chat.completions.create(ask);
    await openai.chat.completions.create(ask);
    const error = await openai.chat.completions.create(ask).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(RateLimitError);
    const { code, type, headers } = error as RateLimitError;
    expect([code, type]).toEqual(['rate_limited', 'rate_limit_error']);
    expect(headers?.get('x-should-retry')).toBe('true');
    expect(Number(headers?.get('retry-after'))).toBeGreaterThan(25);
    expect(Number(headers?.get('retry-after-ms'))).toBeLessThanOrEqual(30_000);
    expect(headers?.get('x-ratelimit-remaining-requests')).toBe('0');
    expect(headers?.get('x-ratelimit-limit-tokens')).toBe('100000');
  });

  test('a spent budget cuts a stream off with a reason, and is not retried', async () => {
    const node = new StubNode((submission, sink) => {
      sink({ type: 'accepted', promptTokens: 7, cachedTokens: 0 });
      for (let n = 0; n < 50; n++) sink(tokens('word '));
      sink(finished('stop', 50));
      void submission;
    });
    const { listening, keyOf, rows } = await openTenants(node, {
      tenants: [tenant('acme', { budget: { tokens: 17, window: 'total' } })],
    });
    const openai = client(listening.url, keyOf('acme'), 3);
    const chunks = await gather(await openai.chat.completions.create({ ...ask, stream: true }));
    expect(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')).toBe('word '.repeat(10));
    expect(chunks.at(-1)?.choices[0]?.finish_reason).toBe('length');
    expect(chunks.at(-1)).toMatchObject({ berth: { cut_off: 'budget' } });
    expect(rows).toMatchObject([{ outcome: 'budget', inputTokens: 7, outputTokens: 10 }]);
    const error = await openai.chat.completions.create(ask).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(RateLimitError);
    expect((error as RateLimitError).code).toBe('budget_exhausted');
    expect((error as RateLimitError).headers?.get('x-should-retry')).toBe('false');
    expect(node.submissions).toHaveLength(1);
  });

  test('an answer that fits is not touched, and says nothing of a cut', async () => {
    const { listening, keyOf } = await openTenants(new StubNode(), {
      tenants: [tenant('acme', { budget: { tokens: 1_000, window: 'day' } })],
    });
    const answer = await client(listening.url, keyOf('acme')).chat.completions.create(ask);
    expect(answer.choices[0]?.finish_reason).toBe('stop');
    expect(answer).not.toHaveProperty('berth.cut_off');
  });

  test('requests beyond the concurrency wait in the stream, and are answered', async () => {
    const held: (() => void)[] = [];
    const node = new StubNode((_, sink) => {
      held.push(() => {
        sink({ type: 'accepted', promptTokens: 1, cachedTokens: 0 });
        sink(finished('stop', 0));
      });
    });
    const { listening, keyOf } = await openTenants(node, { tenants: [tenant('acme', { concurrency: 1, queue: 1 })] });
    const openai = client(listening.url, keyOf('acme'));
    const first = await openai.chat.completions.create({ ...ask, stream: true });
    const second = await openai.chat.completions.create({ ...ask, stream: true });
    await expect(openai.chat.completions.create(ask)).rejects.toThrow(
      /as many requests running as it may, and 1 waiting/,
    );
    expect(held).toHaveLength(1);
    held[0]?.();
    await gather(first);
    held[1]?.();
    expect((await gather(second)).at(-1)?.choices[0]?.finish_reason).toBe('stop');
  });
});
