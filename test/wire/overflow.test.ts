/** A model that can't answer and one that answers instead, as an unmodified official client meets them. */
import OpenAI from 'openai';
import { describe, expect, test, vi } from 'vitest';
import type { ModelId } from '../../src/core/ids.ts';
import { modelId, SECOND, tenantId } from '../../src/core/ids.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { BerthError } from '../../src/errors.ts';
import type { ModelPolicy } from '../../src/gateway/tenants/types.ts';
import { NO_LIMITS } from '../../src/limits/spec.ts';
import type { Behaviour } from './stub-node.ts';
import { gather } from './harness.ts';
import { say, StubNode, tokens } from './stub-node.ts';
import { openTenants, tenant } from './tenancy.ts';

const SMOL = modelId('smol');
const OTHER = modelId('org/deep/model:Q4_K_M');
const ask = { model: 'smol', messages: [{ role: 'user' as const, content: 'hello' }] };
type Answer = OpenAI.ChatCompletion & { readonly berth: { readonly model?: string } };

/** What `smol` does; the other one answers. */
const unless =
  (behaviour: Behaviour): Behaviour =>
  (submission, sink) =>
    (submission.model === OTHER ? say('instead') : behaviour)(submission, sink);
const failing =
  (code: ErrorCode): Behaviour =>
  (_submission, sink) =>
    queueMicrotask(() => sink({ type: 'failed', code, message: 'not now' }));
const refusing =
  (code: ErrorCode): Behaviour =>
  () => {
    throw new BerthError(code, 'not now', { retryAfterMicros: 7 * SECOND });
  };

async function opened(
  behaviour: Behaviour,
  { after = null as number | null, tenants = null as ModelPolicy['tenants'] } = {},
) {
  const node = new StubNode(unless(behaviour));
  const policy = (id: ModelId, rest: Partial<ModelPolicy> = {}): ModelPolicy => ({
    id,
    tenants: null,
    limits: NO_LIMITS,
    price: { input: 0, cached: 0, output: id === OTHER ? 1_000 : 1 },
    ...rest,
  });
  const { listening, keyOf, rows } = await openTenants(node, {
    tenants: [tenant('acme'), tenant('rich')],
    models: [policy(SMOL, { overflow: { to: OTHER, after } }), policy(OTHER, { tenants })],
  });
  const client = new OpenAI({ baseURL: `${listening.url}/v1`, apiKey: keyOf('acme'), maxRetries: 0 });
  return { node, rows, client };
}

describe('a model with an overflow', () => {
  test.each([
    ['refuses at once', refusing('queue_full')],
    ['can’t be loaded', failing('model_load_failed')],
    ['lets it wait too long', failing('queue_timeout')],
  ])('that %s is answered for, and the answer says by whom', async (_what, behaviour) => {
    const { client, rows } = await opened(behaviour);
    const answer = (await client.chat.completions.create(ask)) as Answer;
    expect([answer.model, answer.choices[0]?.message.content]).toEqual([OTHER, 'instead']);
    // Whoever answered is paid.
    expect(rows.at(-1)).toMatchObject({ modelId: OTHER, outcome: 'stop', outputTokens: 1, costNanos: 1_000_000 });
    expect(rows.filter(({ costNanos }) => costNanos > 0)).toHaveLength(1);
  });

  test('hands on all choices together, streamed too', async () => {
    const { client, node } = await opened(failing('model_load_failed'));
    const chunks = await gather(await client.chat.completions.create({ ...ask, n: 2, stream: true }));
    const text = (index: number): string =>
      chunks
        .flatMap(({ choices }) => choices.filter((one) => one.index === index).map(({ delta }) => delta.content ?? ''))
        .join('');
    expect([text(0), text(1)]).toEqual(['instead', 'instead']);
    expect((chunks.at(-1) as unknown as Answer).berth.model).toBe(OTHER);
    expect(node.submissions.map(({ model }) => model)).toEqual(['smol', 'smol', OTHER, OTHER]);
  });

  test('is left alone where it answers, or has begun to', async () => {
    const well = await opened(say('mine'), { after: 60 * SECOND });
    expect(((await well.client.chat.completions.create(ask)) as Answer).model).toBe('smol');
    const begun = await opened((_submission, sink) =>
      queueMicrotask(() => {
        sink({ type: 'accepted', promptTokens: 7, cachedTokens: 0 });
        sink(tokens('be'));
        sink({ type: 'failed', code: 'engine_died', message: 'gone' });
      }),
    );
    await expect(begun.client.chat.completions.create(ask)).rejects.toThrow('gone');
    expect(begun.node.submissions).toHaveLength(1);
  });

  test('keeps what is wrong with the request itself, what has time, and what is tokens already', async () => {
    const wrong = await opened(failing('context_length_exceeded'));
    await expect(wrong.client.chat.completions.create(ask)).rejects.toThrow('not now');
    const full = await opened(refusing('queue_full'));
    await expect(full.client.chat.completions.create({ ...ask, service_tier: 'flex' })).rejects.toThrow('not now');
    await expect(full.client.completions.create({ model: 'smol', prompt: [1, 2] })).rejects.toThrow('not now');
    expect(full.node.submissions.filter(({ model }) => model === OTHER)).toEqual([]);
  });

  test('whose other model is private to others fails in its own words', async () => {
    const { client } = await opened(refusing('queue_full'), { tenants: [tenantId('rich')] });
    const error: unknown = await client.chat.completions.create(ask).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ status: 429, code: 'queue_full' });
    expect((error as InstanceType<typeof OpenAI.APIError>).headers?.get('retry-after')).toBe('7');
  });

  test('gives up a request that nobody has begun in time, and frees it', async () => {
    const { client, node, rows } = await opened((_, sink) => sink({ type: 'loading', model: SMOL }), {
      after: 20_000,
    });
    expect(((await client.chat.completions.create(ask)) as Answer).model).toBe(OTHER);
    await vi.waitFor(() => expect(node.cancelled).toHaveLength(1));
    expect(new Map(rows.map(({ modelId: id, outcome }) => [id, outcome]))).toEqual(
      new Map([
        [SMOL, 'overflow'],
        [OTHER, 'stop'],
      ]),
    );
  });
});
