import { describe, expect, it } from 'vitest';
import { request } from '../../test/contract/stories.ts';
import { MIB, modelId } from '../core/ids.ts';
import type { EngineEvent, ModelLaunch } from './engine.ts';
import { HttpFailure } from './http-client.ts';
import { chatBody, completionBody, wantsToolParser } from './llama-server-body.ts';
import { createChatReader, createCompletionReader } from './llama-server-reader.ts';
import type { Reader } from './llama-server-reader.ts';
import { findLlamaServer, llamaServerDialect, spawnArgs } from './llama-server.ts';

const launch: ModelLaunch = {
  modelId: modelId('m'),
  path: '/models/m.gguf',
  contextTokens: 16,
  kvTokens: 64,
  parallel: 2,
  batchTokens: 32,
  memoryLimitBytes: 64 * MIB,
};
const weather = { name: 'weather', parameters: { type: 'object' } };
const clock = { name: 'clock' };
const messages = [{ role: 'user', content: 'hi' }] as const;

describe('a request', () => {
  it('says all that the server would else choose itself', () => {
    const body = completionBody(request('a', { maxTokens: 5, stop: ['x'], logprobs: 0 }), 'text');
    expect(body).toMatchObject({
      prompt: 'text',
      n_predict: 5,
      temperature: 0,
      top_k: 0,
      top_p: 1,
      min_p: 0,
      repeat_penalty: 1,
      seed: -1,
      stop: ['x'],
      ignore_eos: true,
      cache_prompt: false,
      n_probs: 1,
    });
    expect(completionBody(request('a', { maxTokens: null }), 'text')).toMatchObject({ n_predict: -1, n_probs: 0 });
  });

  it('goes on with the tokens that it had', () => {
    const resumed = request('a', { maxTokens: 5, resumeTokens: [7, 8] });
    expect(completionBody(resumed, 'text')).toMatchObject({ prompt: ['text', 7, 8], n_predict: 3 });
    expect(completionBody(resumed, [1, 2])).toMatchObject({ prompt: [1, 2, 7, 8] });
  });

  it('goes through the tool parsers only where there may be a call, and shows only the tool that was chosen', () => {
    const input = { type: 'chat', messages, tools: [weather, clock], toolChoice: { name: 'clock' } } as const;
    expect(wantsToolParser(request('a', { input }))).toBe(true);
    expect(wantsToolParser(request('a', { input: { ...input, toolChoice: 'none' } }))).toBe(false);
    expect(wantsToolParser(request('a', { input: { ...input, tools: [] } }))).toBe(false);
    const body = chatBody(request('a', { input }), input) as { tools: { function: { name: string } }[] };
    expect(body).toMatchObject({ tool_choice: 'required', messages: [{ role: 'user', content: 'hi' }] });
    expect(body.tools.map((tool) => tool.function.name)).toEqual(['clock']);
  });

  it('that can’t be served is refused before it waits', () => {
    const { check } = llamaServerDialect({});
    const input = { type: 'chat', messages, tools: [weather], toolChoice: 'auto' } as const;
    expect(check(request('a', { input, logprobs: 1 }))).toMatchObject({ code: 'unsupported_parameter' });
    expect(check(request('a', { input: { type: 'tokens', tokens: [] } }))).toMatchObject({ param: 'prompt' });
    expect(check(request('a'))).toBeNull();
  });
});

interface Told {
  readonly events: EngineEvent[];
  readonly reader: Reader;
  prefilled: number;
  decoded: number;
}
function read(kind: 'completion' | 'chat', resumeTokens: readonly number[] = [], forced = false): Told {
  const told: Told = {
    events: [],
    prefilled: 0,
    decoded: 0,
    reader: (kind === 'chat' ? createChatReader : createCompletionReader)({
      request: { resumeTokens, logprobs: null },
      contextTokens: launch.contextTokens,
      emit: (event) => void told.events.push(event),
      prefilled: (tokens) => void (told.prefilled += tokens),
      decoded: (tokens) => void (told.decoded += tokens),
      tokenize: (text) => Promise.resolve(Array.from(text, (_, i) => 100 + i)),
      called: (calls) => {
        if (forced && calls === 0) throw new Error('no call');
      },
    }),
  };
  return told;
}
const token = (id: number, content: string, predicted: number): object => ({
  content,
  tokens: [id],
  stop: false,
  tokens_predicted: predicted,
  tokens_evaluated: 5,
});
const tokensOf = (events: readonly EngineEvent[]): [string, readonly number[]][] =>
  events.flatMap((event) => (event.type === 'tokens' ? [[event.text, event.tokenIds]] : []));

describe('a stream of tokens', () => {
  it('is read from the prompt’s progress to its end', () => {
    const told = read('completion');
    told.reader.push({ tokens: [0], prompt_progress: { total: 5, cache: 1, processed: 1 } });
    told.reader.push({ tokens: [0], prompt_progress: { total: 5, cache: 1, processed: 5 } });
    told.reader.push(token(1, 'a', 1));
    told.reader.push(token(2, 'b', 2));
    told.reader.push({ content: '', tokens: [], stop: true, stop_type: 'limit', tokens_predicted: 2 });
    const usage = { promptTokens: 5, cachedTokens: 1, outputTokens: 2, prefillMicros: 0, decodeMicros: 0 };
    expect(told.events).toEqual([
      { type: 'accepted', promptTokens: 5, cachedTokens: 1 },
      { type: 'tokens', text: 'a', tokenIds: [1] },
      { type: 'tokens', text: 'b', tokenIds: [2] },
      { type: 'finished', reason: 'length', usage },
    ]);
    expect(told.prefilled).toBe(4);
  });

  it('keeps ids back as long as their text is, and leaves out the end token', () => {
    const told = read('completion');
    for (const [index, text] of ['a', '', 'bc', ''].entries()) told.reader.push(token(index + 1, text, index + 1));
    told.reader.push({ stop: true, stop_type: 'eos', tokens_predicted: 4 });
    expect(tokensOf(told.events)).toEqual([
      ['a', [1]],
      ['bc', [2, 3]],
    ]);
    expect(told.events.at(-1)).toMatchObject({ reason: 'stop', usage: { outputTokens: 3 } });
  });

  it('finds the ids that the server left out by the text that they make, and keeps the order', async () => {
    const told = read('completion');
    told.reader.push(token(9, 'é!', 2));
    told.reader.push(token(3, 'c', 3));
    told.reader.push({ stop: true, stop_type: 'word', tokens_predicted: 3 });
    expect(told.reader.ended()).toBe(false);
    await told.reader.settled();
    expect(tokensOf(told.events)).toEqual([
      ['é!', [100, 101]],
      ['c', [3]],
    ]);
    expect(told.reader.ended()).toBe(true);
  });

  it('ends with the context, though the server would go on', () => {
    const told = read('completion', [1, 2, 3]);
    told.reader.push({ prompt_progress: { total: 13, cache: 0, processed: 13 } });
    for (let i = 1; i <= 5; i++) told.reader.push(token(i, 'x', i));
    expect(told.events.at(0)).toMatchObject({ promptTokens: 10 });
    expect(told.events.at(-1)).toMatchObject({ type: 'finished', reason: 'length', usage: { outputTokens: 6 } });
    expect(tokensOf(told.events)).toHaveLength(3);
  });

  it('throws what the server says in the middle of it', () => {
    expect(() => read('completion').reader.push({ error: { code: 500, message: 'secret prompt' } })).toThrow(
      HttpFailure,
    );
  });
});

describe('a chat with tools', () => {
  const delta = (part: object, predicted: number): object => ({
    choices: [{ delta: part, finish_reason: null }],
    timings: { prompt_n: 5, cache_n: 0, predicted_n: predicted },
  });
  const call = (part: object): object => ({ tool_calls: [{ index: 0, ...part }] });

  it('is told at its end, with its calls whole', () => {
    const told = read('chat');
    told.reader.push({
      choices: [{ delta: { content: null } }],
      prompt_progress: { total: 5, cache: 0, processed: 5 },
    });
    told.reader.push(delta({ content: 'Well.' }, 1));
    told.reader.push(delta(call({ id: 'c1', function: { name: 'clock', arguments: '' } }), 3));
    told.reader.push(delta(call({ function: { arguments: '{"a":' } }), 4));
    told.reader.push(delta(call({ function: { arguments: '1}' } }), 6));
    expect(told.events).toHaveLength(1);
    told.reader.push({ choices: [{ delta: {}, finish_reason: 'tool_calls' }] });
    told.reader.push({ choices: [], usage: { prompt_tokens: 5, completion_tokens: 7 } });
    expect(told.events.slice(1)).toMatchObject([
      { type: 'tokens', text: 'Well.', tokenIds: [] },
      { type: 'toolCall', index: 0, call: { id: 'c1', name: 'clock', arguments: '{"a":1}' } },
      { type: 'finished', reason: 'tool_calls', usage: { promptTokens: 5, outputTokens: 7 } },
    ]);
    expect([told.prefilled, told.decoded]).toEqual([5, 7]);
  });

  it('says nothing at all where a call was wanted and none came', () => {
    const told = read('chat', [], true);
    told.reader.push(delta({ content: 'No.' }, 1));
    told.reader.push({ choices: [{ delta: {}, finish_reason: 'stop' }] });
    expect(() => told.reader.push({ choices: [], usage: { completion_tokens: 1 } })).toThrow('no call');
    expect(tokensOf(told.events)).toEqual([]);
    expect(told.reader.ended()).toBe(false);
  });
});

describe('the program', () => {
  it('that is missing is one error that says how to get it', () => {
    const missing = expect.objectContaining({
      code: 'engine_mismatch',
      message: expect.stringContaining('BERTH_LLAMA_SERVER'),
    });
    expect(() => findLlamaServer({ PATH: '/no/such/folder' })).toThrow(missing);
    expect(() => findLlamaServer({ BERTH_LLAMA_SERVER: '/no/such/program', PATH: '/bin' })).toThrow(missing);
  });

  it('has one thread, unless it is told otherwise', () => {
    const after = (args: readonly string[], name: string): string | undefined => args[args.indexOf(name) + 1];
    expect(after(spawnArgs(launch, 1, {}), '-t')).toBe('1');
    expect(after(spawnArgs(launch, 1, { LLAMA_ARG_THREADS: '3' }), '-tb')).toBe('3');
    expect(after(spawnArgs(launch, 4711, {}), '--port')).toBe('4711');
  });

  it('tells by its last words why it did not start', () => {
    const said = (lines: readonly string[]): unknown =>
      llamaServerDialect({}).explainStart(lines, launch.modelId)?.code;
    expect(said(['loading', 'E error loading model: tensor data is not within the file bounds'])).toBe(
      'model_file_invalid',
    );
    expect(said(['error: unknown argument: --kv-unified'])).toBe('engine_mismatch');
    expect(said(['E failed to allocate buffer', 'bye'])).toBe('model_load_failed');
    expect(said(['bye'])).toBeUndefined();
  });

  it('may not tell what it was asked', () => {
    const dialect = llamaServerDialect({});
    const explain = (thrown: unknown): ReturnType<typeof dialect.explain> => dialect.explain(thrown);
    const quoted = explain(
      new HttpFailure(400, { error: { type: 'invalid_request_error', message: 'bad: my secret' } }),
    );
    expect(quoted).toMatchObject({ code: 'invalid_request', message: expect.not.stringContaining('secret') });
    const long = new HttpFailure(400, { error: { type: 'exceed_context_size_error', message: '' } });
    expect(explain(long).code).toBe('context_length_exceeded');
    expect(explain(new HttpFailure(500, { error: { message: 'Context size has been exceeded.' } })).message).toContain(
      'kv',
    );
    expect(explain(new Error('socket hang up')).code).toBe('engine_error');
  });
});
