import { describe, expect, test } from 'vitest';
import { DEFAULT_TENANT, tenantId } from '../../core/ids.ts';
import { parse } from './errors.ts';
import { chatSubmissions, completionSubmissions, embeddingSubmission } from './params.ts';
import { chatSchema, completionSchema, embeddingSchema } from './schema.ts';
import type { GenerateRequest } from './types.ts';

const caller = (headers: Record<string, string> = {}) => ({
  tenantId: DEFAULT_TENANT,
  keyId: null,
  cacheTenantId: DEFAULT_TENANT,
  id: 'req-1',
  headers,
});
const hello = [{ role: 'user', content: 'hello' }];
const chat = (extra: object = {}, headers = {}) =>
  chatSubmissions(parse(chatSchema, { model: 'm', messages: hello, ...extra }), caller(headers));
const request = (extra: object = {}) => chat(extra)[0]?.request as GenerateRequest;

describe('sampling', () => {
  test('has OpenAI’s defaults, and what OpenAI lacks is off', () => {
    expect(request().sampling).toEqual({
      temperature: 1,
      topP: 1,
      topK: 0,
      minP: 0,
      seed: null,
      presencePenalty: 0,
      frequencyPenalty: 0,
      repeatPenalty: 1,
      logitBias: {},
    });
  });
  test('null means absent', () => {
    const nulls = { temperature: null, top_p: null, seed: null, stop: null, tools: null, logit_bias: null, n: null };
    expect(request(nulls)).toEqual(request());
  });
  test('each field arrives', () => {
    const sent = {
      temperature: 0,
      top_p: 0.5,
      top_k: 40,
      min_p: 0.05,
      seed: 7,
      presence_penalty: 1,
      frequency_penalty: -1,
    };
    const got = request({ ...sent, repetition_penalty: 1.1, logit_bias: { 5: -100 } }).sampling;
    expect(got).toMatchObject({ temperature: 0, topP: 0.5, topK: 40, minP: 0.05, seed: 7, presencePenalty: 1 });
    expect(got).toMatchObject({ frequencyPenalty: -1, repeatPenalty: 1.1, logitBias: { 5: -100 } });
  });
  test('top_k -1 is off, seed -1 is random, other seeds fit 32 bits', () => {
    expect(request({ top_k: -1 }).sampling.topK).toBe(0);
    expect(request({ seed: -1 }).sampling.seed).toBeNull();
    for (const seed of [2 ** 32 - 1, 2 ** 53 - 1, -2, -(2 ** 40)]) {
      const got = request({ seed }).sampling.seed;
      expect(got).toBeGreaterThanOrEqual(0);
      expect(got).toBeLessThan(2 ** 32 - 1);
    }
  });
});

test('n choices are n requests with seeds that follow, and ids of their own', () => {
  const three = chat({ n: 3, seed: 10 });
  expect(three.map(({ request: one }) => [one.requestId, (one as GenerateRequest).sampling.seed])).toEqual([
    ['req-1', 10],
    ['req-1-1', 11],
    ['req-1-2', 12],
  ]);
});

test('messages keep their meaning', () => {
  const { input } = request({
    messages: [
      { role: 'developer', content: 'be brief' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'a' },
          { type: 'text', text: 'b' },
        ],
        name: 'ann',
      },
      {
        role: 'assistant',
        content: null,
        refusal: null,
        tool_calls: [{ id: 'c1', type: 'function', function: { name: 'f', arguments: '{}' } }],
      },
      { role: 'tool', content: '42', tool_call_id: 'c1' },
    ],
  });
  expect(input).toMatchObject({
    messages: [
      { role: 'system', content: 'be brief' },
      { role: 'user', content: 'ab', name: 'ann' },
      { role: 'assistant', content: '', toolCalls: [{ id: 'c1', name: 'f', arguments: '{}' }] },
      { role: 'tool', content: '42', toolCallId: 'c1' },
    ],
  });
});

describe('tools', () => {
  const tools = [{ type: 'function', function: { name: 'f', parameters: { type: 'object' }, strict: true } }];
  test('come with auto, without with none', () => {
    expect(request({ tools }).input).toMatchObject({
      toolChoice: 'auto',
      tools: [{ name: 'f', parameters: { type: 'object' } }],
    });
    expect(request().input).toMatchObject({ toolChoice: 'none', tools: [] });
  });
  test('a choice by name must be one of them', () => {
    const choice = (name: string) => ({ tool_choice: { type: 'function', function: { name } } });
    expect(request({ tools, ...choice('f') }).input).toMatchObject({ toolChoice: { name: 'f' } });
    expect(() => request({ tools, ...choice('g') })).toThrow('not in `tools`');
    expect(() => request({ tool_choice: 'required' })).toThrow('names none');
    expect(() => request({ tools: [...tools, ...tools] })).toThrow('earlier tool');
  });
});

test('limits of the output', () => {
  expect(request().maxTokens).toBeNull();
  expect(request({ max_tokens: 5 }).maxTokens).toBe(5);
  expect(request({ max_completion_tokens: 6 }).maxTokens).toBe(6);
  expect(() => request({ max_tokens: 5, max_completion_tokens: 6 })).toThrow('differ');
  expect(request({ stop: 'x' }).stop).toEqual(['x']);
  expect(
    request({ response_format: { type: 'json_schema', json_schema: { name: 'n', schema: { type: 'object' } } } })
      .format,
  ).toEqual({
    type: 'json_schema',
    schema: { type: 'object' },
  });
});

test('logprobs', () => {
  expect(request().logprobs).toBeNull();
  expect(request({ logprobs: true }).logprobs).toBe(0);
  expect(request({ logprobs: true, top_logprobs: 3 }).logprobs).toBe(3);
  expect(() => request({ top_logprobs: 3 })).toThrow('needs `logprobs: true`');
});

describe('how the node treats it', () => {
  test.each([
    [{}, 'interactive'],
    [{ priority: 5 }, 'batch'],
    [{ priority: -5 }, 'interactive'],
    [{ priority: 'batch' }, 'batch'],
    [{ service_tier: 'flex' }, 'batch'],
    [{ service_tier: 'auto' }, 'interactive'],
  ])('%j is %s', (extra, priority) => {
    expect(chat(extra)[0]?.priority).toBe(priority);
  });
  test('keep_alive and goals in micros', () => {
    expect(chat({ keep_alive: '5m' }, { 'x-slo-ttft-ms': '250', 'x-slo-tpot-ms': '12.5' })[0]).toMatchObject({
      keepAliveMicros: 300_000_000,
      ttftGoalMicros: 250_000,
      interTokenGoalMicros: 12_500,
    });
    expect(chat()[0]).toMatchObject({ keepAliveMicros: null, ttftGoalMicros: null, interTokenGoalMicros: null });
    for (const bad of ['0', '-1', 'fast', '1e3', ''])
      expect(() => chat({}, { 'x-slo-ttft-ms': bad })).toThrow('x-slo-ttft-ms');
  });
  test('the tenant’s own user is a digest; a name that is none is refused', () => {
    const named = (name: string) => chat({}, { 'x-llm-d-inference-fairness-id': name })[0]?.share;
    expect(named('alice')).toMatch(/^[\w-]{12}$/);
    expect([named('alice') === named('bob'), named('')]).toEqual([false, undefined]);
    expect(() => named('x'.repeat(257))).toThrow('x-llm-d-inference-fairness-id');
  });
});

test('a completion’s prompts: text, texts, tokens, lists of tokens', () => {
  const inputs = (prompt: unknown) =>
    completionSubmissions(parse(completionSchema, { model: 'm', prompt }), caller()).map(
      ({ request: one }) => (one as GenerateRequest).input,
    );
  expect(inputs('a')).toEqual([{ type: 'text', text: 'a' }]);
  expect(inputs(['a', 'b'])).toEqual([
    { type: 'text', text: 'a' },
    { type: 'text', text: 'b' },
  ]);
  expect(inputs([1, 2])).toEqual([{ type: 'tokens', tokens: [1, 2] }]);
  expect(inputs([[1], [2, 3]])).toEqual([
    { type: 'tokens', tokens: [1] },
    { type: 'tokens', tokens: [2, 3] },
  ]);
});

test('inputs to embed', () => {
  const inputs = (input: unknown) =>
    embeddingSubmission(parse(embeddingSchema, { model: 'm', input }), caller()).request;
  expect(inputs('a')).toMatchObject({ kind: 'embed', inputs: ['a'] });
  expect(inputs([1, 2])).toMatchObject({ inputs: [[1, 2]] });
  expect(inputs([[1], [2]])).toMatchObject({ inputs: [[1], [2]] });
});

test('who shares a KV cache with others still pays alone; a conversation has the name that its client gave it', () => {
  const sharing = { ...caller({ 'x-session-id': 's1' }), cacheTenantId: tenantId('*') };
  const [one] = chatSubmissions(parse(chatSchema, { model: 'm', messages: hello }), sharing);
  expect(one).toMatchObject({ tenantId: DEFAULT_TENANT, conversation: 's1', request: { tenantId: '*' } });
  expect(chat({ prompt_cache_key: 'k' }, { 'x-session-id': 's1' })[0]?.conversation).toBe('k');
});
