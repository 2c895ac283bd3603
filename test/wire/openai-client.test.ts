/** The unmodified official client over a real socket. */
import OpenAI, {
  APIError,
  AuthenticationError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
  RateLimitError,
} from 'openai';
import { describe, expect, test } from 'vitest';
import { BerthError } from '../../src/errors.ts';
import type { ListenOptions } from '../../src/gateway/listen.ts';
import { gather, open } from './harness.ts';
import { StubNode, finished, say, tokens } from './stub-node.ts';

const messages = [{ role: 'user' as const, content: 'hello' }];

async function client(node: StubNode, options: Partial<ListenOptions> = {}, apiKey = 'any') {
  const { url } = await open(node, options);
  return new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
}

describe('chat', () => {
  test('answers whole', async () => {
    const openai = await client(new StubNode());
    const { data, response } = await openai.chat.completions.create({ model: 'small', messages }).withResponse();
    expect(data.choices[0]?.message.content).toBe('Hello world');
    expect(data.choices[0]?.finish_reason).toBe('stop');
    expect(data.model).toBe('smol');
    expect(data.usage).toEqual({
      prompt_tokens: 7,
      completion_tokens: 3,
      total_tokens: 10,
      prompt_tokens_details: { cached_tokens: 3 },
    });
    expect(data).toMatchObject({ berth: { queue_ms: 1.5, load_ms: 0, ttft_ms: 2.5, device_ms: 5, total_ms: 9 } });
    expect(response.headers.get('x-request-id')).toMatch(/^req-[0-9a-f]{24}$/);
    expect(response.headers.get('openai-processing-ms')).toMatch(/^\d+$/);
    expect(response.headers.get('x-berth-overhead-ms')).toMatch(/^\d+\.\d{3}$/);
  });

  test('streams, the role first, a usage chunk last', async () => {
    const openai = await client(new StubNode());
    const stream = await openai.chat.completions.create({
      model: 'smol',
      messages,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = await gather(stream);
    expect(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')).toBe('Hello world');
    expect(chunks[0]?.choices[0]?.delta.role).toBe('assistant');
    expect(chunks[1]?.choices[0]?.delta).not.toHaveProperty('role');
    expect(chunks.at(-2)?.choices[0]).toMatchObject({ delta: {}, finish_reason: 'stop' });
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { total_tokens: 10 }, berth: { total_ms: 9 } });
    expect(chunks.slice(0, -1).every((chunk) => chunk.usage === null)).toBe(true);
    expect(new Set(chunks.map((chunk) => chunk.id)).size).toBe(1);
  });

  test('tells the usage so far in each chunk to whoever wants it, as vLLM does', async () => {
    const openai = await client(new StubNode());
    const asked = { include_usage: true, continuous_usage_stats: true };
    const stream = await openai.chat.completions.create({
      model: 'smol',
      messages,
      stream: true,
      stream_options: asked,
    });
    const chunks = await gather(stream);
    const seen = chunks.map(({ usage }) => [usage?.prompt_tokens, usage?.completion_tokens]);
    expect(seen.every(([prompt]) => prompt === 7)).toBe(true);
    expect(seen.at(0)?.[1]).toBeGreaterThan(0);
    expect(seen.map(([, output]) => output)).toEqual(
      seen.map(([, output]) => output).toSorted((a, b) => Number(a) - Number(b)),
    );
    expect(chunks.at(-1)?.usage).toMatchObject({ total_tokens: 10, prompt_tokens_details: { cached_tokens: 3 } });
  });

  test('streams without usage unless asked', async () => {
    const openai = await client(new StubNode());
    const chunks = await gather(await openai.chat.completions.create({ model: 'smol', messages, stream: true }));
    expect(chunks.every((chunk) => !('usage' in chunk) && chunk.choices.length === 1)).toBe(true);
    expect(chunks.at(-1)).toMatchObject({ berth: { total_ms: 9 } });
  });

  test('n choices, whole and streamed', async () => {
    const openai = await client(new StubNode());
    const whole = await openai.chat.completions.create({ model: 'smol', messages, n: 3, seed: 1 });
    expect(whole.choices.map(({ index, message }) => [index, message.content])).toEqual(
      [0, 1, 2].map((i) => [i, 'Hello world']),
    );
    expect(whole.usage).toMatchObject({ prompt_tokens: 7, completion_tokens: 9 });
    const texts = ['', '', ''];
    for await (const chunk of await openai.chat.completions.create({ model: 'smol', messages, n: 3, stream: true })) {
      for (const { index, delta } of chunk.choices) texts[index] += delta.content ?? '';
    }
    expect(texts).toEqual(['Hello world', 'Hello world', 'Hello world']);
  });

  test('tool calls, whole and by the client’s own accumulator', async () => {
    const node = new StubNode((_, sink) => {
      ['a', 'b'].forEach((id, index) =>
        sink({ type: 'toolCall', index, call: { id, name: 'add', arguments: '{"x":1}' } }),
      );
      sink(finished('tool_calls', 9));
    });
    const openai = await client(node);
    const tools = [{ type: 'function' as const, function: { name: 'add', parameters: { type: 'object' } } }];
    const whole = await openai.chat.completions.create({ model: 'smol', messages, tools, tool_choice: 'required' });
    expect(whole.choices[0]).toMatchObject({
      finish_reason: 'tool_calls',
      message: {
        content: null,
        tool_calls: [{ id: 'a', type: 'function', function: { name: 'add', arguments: '{"x":1}' } }, { id: 'b' }],
      },
    });
    const streamed = await openai.chat.completions.stream({ model: 'smol', messages, tools }).finalChatCompletion();
    expect(streamed.choices[0]?.message.tool_calls).toMatchObject([
      { id: 'a', function: { arguments: '{"x":1}' } },
      { id: 'b' },
    ]);
    const one = await openai.chat.completions.create({ model: 'smol', messages, tools, parallel_tool_calls: false });
    expect(one.choices[0]?.message.tool_calls).toHaveLength(1);
    // The answer can be sent back as history.
    const answer = whole.choices[0]?.message;
    if (answer === undefined) throw new Error('no message');
    await openai.chat.completions.create({
      model: 'smol',
      messages: [...messages, answer, { role: 'tool', tool_call_id: 'a', content: '2' }],
    });
    expect(node.last.request).toMatchObject({
      input: { messages: [{}, { toolCalls: [{ id: 'a' }, {}] }, { toolCallId: 'a' }] },
    });
  });

  test('a JSON schema reaches the engine, the text its parser', async () => {
    const node = new StubNode(say('{"ok":', 'true}'));
    const openai = await client(node);
    const schema = { type: 'object', properties: { ok: { type: 'boolean' } }, required: ['ok'] };
    const answer = await openai.chat.completions.parse({
      model: 'smol',
      messages,
      response_format: { type: 'json_schema', json_schema: { name: 'r', schema, strict: true } },
    });
    expect(answer.choices[0]?.message.parsed).toEqual({ ok: true });
    expect(node.last.request).toMatchObject({ format: { type: 'json_schema', schema } });
  });

  test('logprobs', async () => {
    const one = {
      token: 'é',
      tokenId: 1,
      logprob: -0.5,
      top: [{ token: 'e', tokenId: 2, logprob: Number.NEGATIVE_INFINITY }],
    };
    const node = new StubNode((_, sink) => {
      sink({ type: 'tokens', text: 'é', tokenIds: [1], logprobs: [one] });
      sink(finished('stop', 1));
    });
    const openai = await client(node);
    const whole = await openai.chat.completions.create({ model: 'smol', messages, logprobs: true, top_logprobs: 1 });
    expect(whole.choices[0]?.logprobs?.content).toEqual([
      { token: 'é', logprob: -0.5, bytes: [195, 169], top_logprobs: [{ token: 'e', logprob: -9_999, bytes: [101] }] },
    ]);
    const text = await openai.completions.create({ model: 'smol', prompt: 'x', logprobs: 1 });
    expect(text.choices[0]?.logprobs).toEqual({
      tokens: ['é'],
      token_logprobs: [-0.5],
      top_logprobs: [{ e: -9_999 }],
      text_offset: [0],
    });
  });
});

test('text completions of several prompts, whole and streamed', async () => {
  const openai = await client(new StubNode());
  const whole = await openai.completions.create({ model: 'smol', prompt: ['a', 'b'], n: 2 });
  expect(whole.choices.map(({ index, text }) => [index, text])).toEqual([0, 1, 2, 3].map((i) => [i, 'Hello world']));
  expect(whole.usage).toMatchObject({ prompt_tokens: 14, completion_tokens: 12 });
  const chunks = await gather(await openai.completions.create({ model: 'smol', prompt: 'a', stream: true }));
  expect(chunks.map((chunk) => chunk.choices[0]?.text).join('')).toBe('Hello world');
  expect(chunks.at(-1)?.choices[0]?.finish_reason).toBe('stop');
});

test('embeddings, as the client asks (base64) and as floats', async () => {
  const openai = await client(new StubNode());
  const list = await openai.embeddings.create({ model: 'smol', input: ['a', 'b'] });
  expect(list.data.map(({ embedding }) => [...embedding])).toEqual([
    [0, 0.5],
    [1, 0.5],
  ]);
  const floats = await openai.embeddings.create({ model: 'smol', input: 'a', encoding_format: 'float' });
  expect(floats.data[0]?.embedding).toEqual([0, 0.5]);
  expect(floats.usage).toEqual({ prompt_tokens: 7, total_tokens: 7 });
});

test('models, also with slashes and colons in the id', async () => {
  const openai = await client(new StubNode());
  const page = await openai.models.list();
  expect(page.data.map(({ id }) => id)).toEqual(['smol', 'org/deep/model:Q4_K_M']);
  expect((await openai.models.retrieve('org/deep/model:Q4_K_M')).id).toBe('org/deep/model:Q4_K_M');
  expect((await openai.models.retrieve('small')).id).toBe('smol');
});

describe('errors become the client’s classes', () => {
  const failing = (error: BerthError) =>
    new StubNode(() => {
      throw error;
    });
  test('400', async () => {
    const openai = await client(new StubNode());
    const bad = openai.chat.completions.create({ model: 'smol', messages, temperature: 9 });
    await expect(bad).rejects.toThrow(BadRequestError);
    await expect(bad).rejects.toMatchObject({
      param: 'temperature',
      code: 'invalid_request',
      type: 'invalid_request_error',
    });
  });
  test('401', async () => {
    const openai = await client(new StubNode(), { gateway: { apiKeys: ['right'] } }, 'wrong');
    await expect(openai.models.list()).rejects.toThrow(AuthenticationError);
    const good = await client(new StubNode(), { gateway: { apiKeys: ['right'] } }, 'right');
    expect((await good.models.list()).data).toHaveLength(2);
  });
  test('404', async () => {
    const openai = await client(new StubNode());
    await expect(openai.chat.completions.create({ model: 'x', messages, stream: true })).rejects.toThrow(NotFoundError);
    await expect(openai.models.retrieve('x')).rejects.toMatchObject({ code: 'model_not_found', param: 'model' });
  });
  test('429, with the time to come back', async () => {
    const openai = await client(
      failing(new BerthError('queue_full', 'The queue is full.', { retryAfterMicros: 1_200_000 })),
    );
    const full = openai.chat.completions.create({ model: 'smol', messages, stream: true });
    await expect(full).rejects.toThrow(RateLimitError);
    const error = await full.then(
      () => null,
      (thrown: APIError) => thrown,
    );
    expect(error?.headers?.get('retry-after')).toBe('2');
    expect(error?.headers?.get('retry-after-ms')).toBe('1200');
    expect(error?.headers?.get('x-should-retry')).toBe('true');
  });
  test('502, and 500 without the unexpected text', async () => {
    const died = await client(failing(new BerthError('engine_died', 'It died.')));
    await expect(died.chat.completions.create({ model: 'smol', messages })).rejects.toThrow(InternalServerError);
    const bug = new StubNode(() => {
      throw new TypeError('no "hello" in SECRET');
    });
    const openai = await client(bug);
    const answer = openai.chat.completions.create({ model: 'smol', messages });
    await expect(answer).rejects.toMatchObject({ status: 500, code: 'internal' });
    await expect(answer).rejects.not.toThrow('SECRET');
  });
  test('refused in the same turn: a status even for a stream', async () => {
    const node = new StubNode((_, sink) => sink({ type: 'failed', code: 'model_too_large', message: 'Too large.' }));
    const openai = await client(node);
    await expect(openai.chat.completions.create({ model: 'smol', messages, stream: true })).rejects.toThrow(
      BadRequestError,
    );
  });
  test('in mid-stream: an APIError after what was said', async () => {
    const node = new StubNode((_, sink) => {
      sink(tokens('Hel'));
      setTimeout(() => sink({ type: 'failed', code: 'engine_died', message: 'It died.' }), 5);
    });
    const openai = await client(node);
    let text = '';
    const read = async () => {
      for await (const chunk of await openai.chat.completions.create({ model: 'smol', messages, stream: true })) {
        text += chunk.choices[0]?.delta.content ?? '';
      }
    };
    await expect(read()).rejects.toThrow(APIError);
    expect(text).toBe('Hel');
  });
});

test('a client that aborts in mid-stream cancels at once', async () => {
  const node = new StubNode((_, sink) => sink(tokens('Hel')));
  const openai = await client(node);
  const stream = await openai.chat.completions.create({ model: 'smol', messages, stream: true, n: 2 });
  for await (const _ of stream) break;
  await node.cancelledAtLeast(2);
  const id = node.submissions[0]?.request.requestId;
  expect(node.cancelled).toEqual([id, `${id}-1`]);
});
