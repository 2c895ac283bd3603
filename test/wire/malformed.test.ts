/** Whatever is sent, the answer is well formed, names the field, and repeats nothing of what was sent. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ERRORS } from '../../src/errors.ts';
import { createGateway } from '../../src/gateway/app.ts';
import type { GatewayOptions } from '../../src/gateway/options.ts';
import { chatBody } from './harness.ts';
import { StubNode } from './stub-node.ts';

const CHAT = '/v1/chat/completions';
const gateway = (options: GatewayOptions = {}) => createGateway(new StubNode(), options);

interface Answer {
  readonly statusCode: number;
  readonly body: string;
  readonly headers: Record<string, unknown>;
}

/** Every error that leaves the gateway has this form. */
function errorOf(answer: Answer) {
  const { error } = JSON.parse(answer.body) as {
    error: { message: string; type: string; param: string | null; code: string };
  };
  expect(Object.keys(error).toSorted()).toEqual(['code', 'message', 'param', 'type']);
  const kind = ERRORS[error.code as keyof typeof ERRORS];
  expect(answer.statusCode).toBe(kind.status);
  expect(error.type).toBe(kind.type);
  expect(error.message.endsWith(kind.advice)).toBe(true);
  expect(answer.headers['x-should-retry']).toBe(String(kind.retryable));
  expect(answer.headers['x-request-id']).toBeDefined();
  return error;
}

const image = { type: 'image_url', image_url: { url: 'data:SECRET' } };

test.each<[string, object, string, string | null]>([
  ['no messages', { messages: undefined }, 'invalid_request', 'messages'],
  ['messages of a wrong type', { messages: 'SECRET' }, 'invalid_request', 'messages'],
  ['empty messages', { messages: [] }, 'invalid_request', 'messages'],
  ['no model', { model: undefined }, 'invalid_request', 'model'],
  ['unknown model', { model: 'nope' }, 'model_not_found', 'model'],
  ['unknown role', { messages: [{ role: 'SECRET', content: 'x' }] }, 'invalid_request', 'messages.0.role'],
  ['no content', { messages: [{ role: 'user' }] }, 'invalid_request', 'messages.0.content'],
  ['content of a wrong type', { messages: [{ role: 'user', content: 5 }] }, 'invalid_request', 'messages.0.content'],
  [
    'an image',
    { messages: [{ role: 'user', content: [image] }] },
    'unsupported_parameter',
    'messages.0.content.0.type',
  ],
  [
    'an unknown field of a message',
    { messages: [{ role: 'user', content: 'x', foo: 1 }] },
    'unsupported_parameter',
    'messages.0.foo',
  ],
  ['an unknown field', { foo: 'SECRET' }, 'unsupported_parameter', 'foo'],
  ['an unknown field of null', { foo: null }, 'unsupported_parameter', 'foo'],
  ['a field of other APIs', { reasoning_effort: 'high' }, 'unsupported_parameter', 'reasoning_effort'],
  ['temperature too high', { temperature: 2.1 }, 'invalid_request', 'temperature'],
  ['temperature as text', { temperature: 'SECRET' }, 'invalid_request', 'temperature'],
  ['top_p below 0', { top_p: -0.1 }, 'invalid_request', 'top_p'],
  ['top_k not whole', { top_k: 1.5 }, 'invalid_request', 'top_k'],
  ['min_p above 1', { min_p: 1.1 }, 'invalid_request', 'min_p'],
  ['seed too large', { seed: 2 ** 60 }, 'invalid_request', 'seed'],
  ['max_tokens 0', { max_tokens: 0 }, 'invalid_request', 'max_tokens'],
  ['n 9', { n: 9 }, 'invalid_request', 'n'],
  ['17 stops', { stop: Array.from({ length: 17 }, () => 'x') }, 'invalid_request', 'stop'],
  ['an empty stop', { stop: ['a', ''] }, 'invalid_request', 'stop.1'],
  ['a bias of no token', { logit_bias: { hello: 1 } }, 'invalid_request', 'logit_bias.hello'],
  ['a bias too large', { logit_bias: { 5: 101 } }, 'invalid_request', 'logit_bias.5'],
  ['penalties out of bounds', { presence_penalty: 3 }, 'invalid_request', 'presence_penalty'],
  ['a format of no kind', { response_format: { type: 'xml' } }, 'invalid_request', 'response_format.type'],
  [
    'a schema missing',
    { response_format: { type: 'json_schema', json_schema: {} } },
    'invalid_request',
    'response_format.json_schema.schema',
  ],
  ['a tool of no function', { tools: [{ type: 'web_search' }] }, 'invalid_request', 'tools.0.type'],
  [
    'a tool’s name with a space',
    { tools: [{ type: 'function', function: { name: 'a b' } }] },
    'invalid_request',
    'tools.0.function.name',
  ],
  ['a tool that is required but absent', { tool_choice: 'required' }, 'invalid_request', 'tool_choice'],
  ['stream as text', { stream: 'yes' }, 'invalid_request', 'stream'],
  ['stream options without a stream', { stream_options: { include_usage: true } }, 'invalid_request', 'stream_options'],
  ['store', { store: true }, 'unsupported_parameter', 'store'],
  ['audio out', { modalities: ['audio'] }, 'unsupported_parameter', 'modalities.0'],
  ['keep_alive of no duration', { keep_alive: 'SECRET' }, 'invalid_request', 'keep_alive'],
])('%s', async (_, extra, code, param) => {
  const node = new StubNode();
  const answer = await createGateway(node).inject({ method: 'POST', url: CHAT, payload: chatBody(extra) });
  const error = errorOf(answer);
  expect([error.code, error.param]).toEqual([code, param]);
  expect(answer.body).not.toContain('SECRET');
  expect(node.submissions).toEqual([]);
});

test.each<[string, string, object, string, string | null]>([
  ['embeddings', 'no input', { input: undefined }, 'invalid_request', 'input'],
  ['embeddings', 'an empty input', { input: '' }, 'invalid_request', 'input'],
  ['embeddings', 'an empty one of several', { input: ['a', ''] }, 'invalid_request', 'input.1'],
  ['embeddings', 'tokens and texts mixed', { input: [1, 'a'] }, 'invalid_request', 'input.0'],
  ['embeddings', 'dimensions', { dimensions: 8 }, 'unsupported_parameter', 'dimensions'],
  ['embeddings', 'an unknown encoding', { encoding_format: 'hex' }, 'invalid_request', 'encoding_format'],
  ['completions', 'no prompt', { prompt: undefined }, 'invalid_request', 'prompt'],
  ['completions', 'best_of', { best_of: 2 }, 'unsupported_parameter', 'best_of'],
  ['completions', 'suffix', { suffix: 'x' }, 'unsupported_parameter', 'suffix'],
  ['completions', 'messages', { messages: [] }, 'unsupported_parameter', 'messages'],
])('%s: %s', async (path, _, extra, code, param) => {
  const base = path === 'embeddings' ? { model: 'smol', input: 'a' } : { model: 'smol', prompt: 'a' };
  const answer = await gateway().inject({ method: 'POST', url: `/v1/${path}`, payload: { ...base, ...extra } });
  const error = errorOf(answer);
  expect([error.code, error.param]).toEqual([code, param]);
});

test('a schema of 100,000 levels, which would overflow the stack of whoever serialises it', async () => {
  const schema = `${'{"a":'.repeat(100_000)}1${'}'.repeat(100_000)}`;
  const format = `{"type":"json_schema","json_schema":{"schema":${schema}}}`;
  const payload = `{"model":"smol","messages":[{"role":"user","content":"x"}],"response_format":${format}}`;
  const answer = await gateway().inject({
    method: 'POST',
    url: CHAT,
    headers: { 'content-type': 'application/json' },
    payload,
  });
  expect(errorOf(answer).param).toBe('response_format.json_schema.schema');
});

test('what is harmless is accepted', async () => {
  const harmless = {
    user: 'u',
    metadata: { a: 'b' },
    store: false,
    safety_identifier: 's',
    prompt_cache_key: 'k',
    cache_salt: 'c',
  };
  const more = {
    modalities: ['text'],
    parallel_tool_calls: true,
    service_tier: 'auto',
    ignore_eos: false,
    stream: false,
  };
  const answer = await gateway().inject({ method: 'POST', url: CHAT, payload: chatBody({ ...harmless, ...more }) });
  expect(answer.statusCode).toBe(200);
});

describe('around the body', () => {
  const json = { 'content-type': 'application/json' };
  test.each<
    [string, 'GET' | 'POST' | 'DELETE' | 'OPTIONS', string, Record<string, string>, string | undefined, string]
  >([
    ['an unknown path', 'GET', '/nope', {}, undefined, 'not_found'],
    ['an unknown path with a strange body', 'POST', '/nope', { 'content-type': 'x/y' }, 'x', 'not_found'],
    ['a path that ends too early', 'POST', '/v1/chat', json, '{}', 'not_found'],
    ['a wrong method', 'GET', CHAT, {}, undefined, 'method_not_allowed'],
    ['a wrong method with a strange body', 'DELETE', CHAT, { 'content-type': 'x/y' }, 'x', 'method_not_allowed'],
    ['a preflight without CORS', 'OPTIONS', CHAT, {}, undefined, 'method_not_allowed'],
    ['text', 'POST', CHAT, { 'content-type': 'text/plain' }, '{}', 'unsupported_media_type'],
    ['a form', 'POST', CHAT, { 'content-type': 'application/x-www-form-urlencoded' }, 'a=b', 'unsupported_media_type'],
    ['broken JSON', 'POST', CHAT, json, '{"SECRET', 'invalid_json'],
    ['an empty body', 'POST', CHAT, json, '', 'invalid_json'],
    ['no body at all', 'POST', CHAT, {}, undefined, 'invalid_json'],
    ['a poisoned prototype', 'POST', CHAT, json, '{"__proto__":{"a":1}}', 'invalid_json'],
    ['an array', 'POST', CHAT, json, '[]', 'invalid_request'],
    ['null', 'POST', CHAT, json, 'null', 'invalid_request'],
    ['too large', 'POST', CHAT, json, JSON.stringify({ a: 'x'.repeat(2_000) }), 'body_too_large'],
    ['a foreign host', 'GET', '/v1/models', { host: 'evil.example' }, undefined, 'forbidden'],
    ['a foreign page', 'POST', CHAT, { ...json, origin: 'https://evil.example' }, '{}', 'forbidden'],
    ['a model that is not there', 'GET', '/v1/models/nope', {}, undefined, 'model_not_found'],
  ])('%s', async (_, method, url, headers, payload, code) => {
    const app = gateway({ limits: { bodyBytes: 1_000 } });
    const answer = await app.inject({ method, url, headers, ...(payload === undefined ? {} : { payload }) });
    expect(errorOf(answer).code).toBe(code);
    expect(answer.body).not.toContain('SECRET');
  });

  test('405 names what is allowed', async () => {
    expect((await gateway().inject({ method: 'PUT', url: '/v1/models' })).headers['allow']).toBe('GET, HEAD');
  });
  test('keys: none, wrong, right; health needs none', async () => {
    const app = gateway({ apiKeys: ['right'] });
    const get = (url: string, headers = {}) => app.inject({ method: 'GET', url, headers });
    expect(errorOf(await get('/v1/models')).code).toBe('invalid_api_key');
    expect(errorOf(await get('/v1/models', { 'x-api-key': 'wrong' })).code).toBe('invalid_api_key');
    expect((await get('/v1/models', { 'x-api-key': 'right' })).statusCode).toBe(200);
    for (const url of ['/health', '/livez', '/readyz', '/version']) expect((await get(url)).statusCode).toBe(200);
    expect((await get('/metrics')).statusCode).toBe(404);
  });
  test('a node that is not ready is alive', async () => {
    const node = new StubNode();
    node.isReady = false;
    const app = createGateway(node);
    expect(errorOf(await app.inject('/readyz')).code).toBe('node_stopping');
    expect((await app.inject('/livez')).statusCode).toBe(200);
  });
  test('a request id is echoed when it is short and visible, else made', async () => {
    const idFor = async (id: string) =>
      (await gateway().inject({ url: '/livez', headers: { 'x-request-id': id } })).headers['x-request-id'];
    expect(await idFor('abc-1')).toBe('abc-1');
    for (const bad of ['', 'a b', 'x'.repeat(129), 'é']) expect(await idFor(bad)).toMatch(/^req-[0-9a-f]{24}$/);
  });
  test('a configured origin gets CORS and its preflight', async () => {
    const app = gateway({ allowedOrigins: ['https://app.example'] });
    const headers = { origin: 'https://app.example', 'access-control-request-headers': 'authorization' };
    const preflight = await app.inject({ method: 'OPTIONS', url: CHAT, headers });
    expect([preflight.statusCode, preflight.headers['access-control-allow-headers']]).toEqual([204, 'authorization']);
    const answer = await app.inject({ method: 'POST', url: CHAT, headers, payload: chatBody({ stream: true }) });
    expect(answer.headers['access-control-allow-origin']).toBe('https://app.example');
    expect(answer.headers['content-type']).toContain('event-stream');
  });
});

test('nothing of a prompt reaches the log, whatever breaks', async () => {
  const lines: string[] = [];
  const take = (fields: object, message: string): void => void lines.push(JSON.stringify([fields, message]));
  const node = new StubNode(() => {
    throw new Error('SECRET in an unexpected error');
  });
  const app = createGateway(node, { log: { debug: take, info: take, warn: take, error: take } });
  const answer = await app.inject({ method: 'POST', url: `${CHAT}?q=SECRET`, payload: chatBody() });
  expect(answer.statusCode).toBe(500);
  expect(lines.length).toBeGreaterThanOrEqual(2);
  expect(lines.join('\n')).toContain('unexpected error');
  expect([...lines, answer.body].join('\n')).not.toContain('SECRET');
});

describe('any JSON', () => {
  const paths = fc.constantFrom(CHAT, '/v1/completions', '/v1/embeddings');
  const names = [
    'model',
    'messages',
    'prompt',
    'input',
    'stream',
    'n',
    'stop',
    'tools',
    'tool_choice',
    'seed',
    'logit_bias',
    'keep_alive',
    'max_tokens',
  ];
  const value = fc.oneof(
    fc.jsonValue(),
    fc.constantFrom('smol', [{ role: 'user', content: 'x' }], ['a'], [1], true, 0, -1, 1e21),
  );
  const body = fc.oneof(fc.jsonValue(), fc.dictionary(fc.constantFrom(...names), value));
  test('gets a well-formed answer, never a 5xx', async () => {
    const app = gateway();
    await fc.assert(
      fc.asyncProperty(paths, body, async (url, payload) => {
        const headers = { 'content-type': 'application/json' };
        const answer = await app.inject({ method: 'POST', url, headers, payload: JSON.stringify(payload) });
        if (answer.statusCode !== 200) errorOf(answer);
        expect(answer.statusCode).toBeLessThan(500);
      }),
      { numRuns: 300 },
    );
  });
  test('and any bytes', async () => {
    const app = gateway();
    await fc.assert(
      fc.asyncProperty(paths, fc.uint8Array({ minLength: 1 }), async (url, bytes) => {
        const answer = await app.inject({
          method: 'POST',
          url,
          headers: { 'content-type': 'application/json' },
          payload: Buffer.from(bytes),
        });
        expect(errorOf(answer).code).toMatch(/^invalid_(json|request)$/);
      }),
      { numRuns: 100 },
    );
  });
});
