import { mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { gemmaPath, smollm2Path } from '../../../test/models.ts';
import { requestId } from '../../core/ids.ts';
import { chatRequest, embedRequest, greedy, launchOf, RunnerHarness, textRequest } from './runner-harness.ts';

afterAll(() => RunnerHarness.stopAll());

const story = 'Once upon a time there was a small ship that';

describe('a runner with SmolLM2', () => {
  let runner: RunnerHarness;
  beforeAll(async () => {
    runner = new RunnerHarness();
    await runner.message('started');
    const loaded = await runner.load(launchOf(smollm2Path()));
    expect(loaded.from).toBe('cold');
    // All of it is mapped: this model's formats aren't repacked.
    expect(loaded.mappedWeightBytes).toBeGreaterThan(90_000_000);
  });
  afterAll(async () => {
    expect(await runner.stop()).toBe(0);
  });

  it('answers a chat by the model’s own template, with its own counts', async () => {
    const [answer] = await runner.ask(chatRequest('Say hello.', { maxTokens: 12 }));
    expect(answer?.events[0]).toEqual({ type: 'accepted', promptTokens: 33, cachedTokens: 0 });
    expect(answer?.text.trim()).not.toBe('');
    expect(answer?.last).toMatchObject({
      type: 'finished',
      usage: { promptTokens: 33, outputTokens: answer?.tokenIds.length },
    });
  });

  it('computes nothing outside of a slice', async () => {
    const request = textRequest(story);
    runner.tell({ type: 'submit', request });
    await runner.until('accepted', () => runner.eventsOf(request.requestId)[0]);
    expect(runner.eventsOf(request.requestId)).toHaveLength(1);
    const slice = runner.slice();
    await runner.answer(request.requestId);
    expect(await runner.report(slice)).toMatchObject({
      ended: 'idle',
      pending: 0,
      steps: 16,
      prefillTokens: 10,
      decodeTokens: { [request.requestId]: 16 },
    });
  });

  it('writes nearly always the same greedy texts alone and together', async () => {
    const prompts = [story, 'The capital of France is', '1, 2, 3, 4, 5,', 'def add(a, b):'];
    const alone: string[] = [];
    for (const prompt of prompts) alone.push((await runner.ask(textRequest(prompt)))[0]?.text ?? '');
    const together = await runner.ask(...prompts.map((prompt) => textRequest(prompt)));
    // Batches of other sizes add in another order, which can tip a near tie.
    expect(together.filter((answer, index) => answer.text === alone[index]).length).toBeGreaterThanOrEqual(3);
    expect(alone[2]).toContain('6, 7, 8');
  });

  it('goes on from resumed tokens as if it had never stopped, and sends none of them again', async () => {
    const [whole] = await runner.ask(textRequest(story, { maxTokens: 24 }));
    const resumeTokens = whole?.tokenIds.slice(0, 10) ?? [];
    const [rest] = await runner.ask(textRequest(story, { maxTokens: 24, resumeTokens }));
    expect(rest?.tokenIds).toEqual(whole?.tokenIds.slice(10));
    expect(whole?.text.endsWith(rest?.text ?? '?')).toBe(true);
    expect(rest?.last).toMatchObject({ reason: 'length', usage: { outputTokens: 24 } });
    const [over] = await runner.ask(textRequest(story, { maxTokens: 10, resumeTokens }));
    expect(over?.last).toMatchObject({ type: 'finished', reason: 'length' });
    expect(over?.text).toBe('');
  });

  it('stops before a stop string, wherever the token borders fall', async () => {
    const [counted] = await runner.ask(textRequest('1, 2, 3, 4, 5,', { stop: ['9, 1'], maxTokens: 64 }));
    expect(counted?.text).toBe(' 6, 7, 8, ');
    expect(counted?.last).toMatchObject({ type: 'finished', reason: 'stop' });
  });

  it('echoes the prompt and tells log-probabilities', async () => {
    const [answer] = await runner.ask(textRequest('1, 2, 3,', { echo: true, logprobs: 3, maxTokens: 2 }));
    expect(answer?.text).toMatch(/^1, 2, 3, 4/);
    const logprobs = answer?.events.flatMap((event) => (event.type === 'tokens' ? (event.logprobs ?? []) : [])) ?? [];
    expect(logprobs).toHaveLength(2);
    for (const one of logprobs) {
      expect(one.top).toHaveLength(3);
      expect(one.top[0]).toMatchObject({ tokenId: one.tokenId, logprob: one.logprob });
      expect(one.top.reduce((sum, other) => sum + Math.exp(other.logprob), 0)).toBeLessThanOrEqual(1.0001);
    }
  });

  it('draws the same with the same seed, and obeys biases', async () => {
    const sampling = { ...greedy, temperature: 1.5, topK: 50, topP: 0.95, seed: 7 };
    const [a, b, c] = await runner.ask(
      textRequest(story, { sampling }),
      textRequest(story, { sampling }),
      textRequest(story, { sampling: { ...sampling, seed: 8 } }),
    );
    expect(a?.text).toBe(b?.text);
    expect(c?.text).not.toBe(a?.text);
    const [plain] = await runner.ask(textRequest(story, { maxTokens: 1 }));
    const [token] = plain?.tokenIds ?? [];
    const [biased] = await runner.ask(
      textRequest(story, { maxTokens: 1, sampling: { ...greedy, logitBias: { [token as number]: -100 } } }),
    );
    expect(biased?.tokenIds).not.toEqual(plain?.tokenIds);
    const [penalised] = await runner.ask(
      textRequest('a a a a a a a a', {
        maxTokens: 12,
        sampling: { ...greedy, frequencyPenalty: 2, repeatPenalty: 1.3 },
      }),
    );
    expect(new Set(penalised?.tokenIds).size).toBeGreaterThan(6);
  });

  it.each([0, 1])('writes JSON by a schema at temperature %i', async (temperature) => {
    const schema: Record<string, unknown> = {
      type: 'object',
      properties: {
        name: { type: 'string', maxLength: 12 },
        age: { type: 'integer', minimum: 1, maximum: 120 },
        tags: { type: 'array', items: { enum: ['a', 'b'] }, maxItems: 3 },
      },
      required: ['name', 'age', 'tags'],
      additionalProperties: false,
    };
    const sampling = { ...greedy, temperature, seed: 3 };
    const [answer] = await runner.ask(
      chatRequest('Describe a person as JSON.', { maxTokens: 120, sampling, format: { type: 'json_schema', schema } }),
    );
    expect(answer?.last).toMatchObject({ type: 'finished', reason: 'stop' });
    expect(z.fromJSONSchema(schema).safeParse(JSON.parse(answer?.text ?? '')).success).toBe(true);
  });

  it('refuses a schema that it can’t enforce, and says where', async () => {
    const [answer] = await runner.ask(chatRequest('x', { format: { type: 'json_schema', schema: { not: {} } } }));
    expect(answer?.last).toMatchObject({ type: 'failed', code: 'unsupported_parameter', param: '/not' });
  });

  it('makes the tool call that is required', async () => {
    const tools = [
      {
        name: 'weather',
        parameters: {
          type: 'object',
          properties: { city: { enum: ['Oslo', 'Rome'] } },
          required: ['city'],
          additionalProperties: false,
        },
      },
    ];
    const input = {
      type: 'chat',
      messages: [{ role: 'user', content: 'Weather in Rome?' }],
      tools,
      toolChoice: 'required',
    } as const;
    const [answer] = await runner.ask(textRequest('', { input, maxTokens: 80 }));
    const call = answer?.events.find((event) => event.type === 'toolCall');
    expect(call).toMatchObject({ index: 0, call: { name: 'weather' } });
    expect(['Oslo', 'Rome']).toContain(JSON.parse(call?.call.arguments ?? '{}').city);
    expect(answer?.last).toMatchObject({ type: 'finished', reason: 'tool_calls' });
    expect(answer?.text).toBe('');
  });

  it('ends at the context’s end, and refuses a prompt that fills it', async () => {
    const [answer] = await runner.ask(textRequest('word '.repeat(500), { maxTokens: null, ignoreEos: true }));
    expect(answer?.last).toMatchObject({ type: 'finished', reason: 'length' });
    if (answer?.last.type !== 'finished') throw new Error('not finished');
    expect(answer.last.usage.promptTokens + answer.last.usage.outputTokens).toBe(512);
    const [refused] = await runner.ask(textRequest('word '.repeat(600)));
    const message: unknown = expect.stringMatching(/60\d tokens.*512/);
    expect(refused?.last).toMatchObject({ type: 'failed', code: 'context_length_exceeded', message });
  });

  it('refuses an empty prompt and tokens that don’t exist', async () => {
    const [empty, alien] = await runner.ask(
      textRequest(''),
      textRequest('', { input: { type: 'tokens', tokens: [1, 999_999] } }),
    );
    expect(empty?.last).toMatchObject({ type: 'failed', code: 'invalid_request' });
    expect(alien?.last).toMatchObject({ type: 'failed', code: 'invalid_request' });
  });

  it('ends a slice by time only after a step, and when told, and when another comes', async () => {
    const request = textRequest(story, { maxTokens: 400, ignoreEos: true });
    runner.tell({ type: 'submit', request });
    const timed = await runner.report(runner.slice({ micros: 50_000 }));
    expect(timed).toMatchObject({ ended: 'time', pending: 1 });
    expect(timed.steps).toBeGreaterThan(0);
    expect(timed.wallMicros).toBeGreaterThanOrEqual(timed.computeMicros);
    const open = runner.slice();
    const replaced = runner.slice();
    expect(await runner.report(open)).toMatchObject({ ended: 'told' });
    runner.tell({ type: 'endSlice', sliceId: open });
    runner.tell({ type: 'endSlice', sliceId: replaced });
    expect(await runner.report(replaced)).toMatchObject({ ended: 'told', pending: 1 });
    runner.tell({ type: 'cancel', requestId: request.requestId, keep: false });
    expect(await runner.report(runner.slice())).toMatchObject({ ended: 'idle', steps: 0, pending: 0 });
    const known = runner.eventsOf(request.requestId).length;
    await runner.ask(textRequest('x', { maxTokens: 1 }));
    expect(runner.eventsOf(request.requestId)).toHaveLength(known);
  });

  it('embeds texts together as it does one by one', async () => {
    const texts = [
      'A cat sits on the mat.',
      'The stock market fell today.',
      'Ships sail the sea.',
      'A dog lies on the rug.',
    ];
    const vectors = (last: unknown): Float32Array[] =>
      (last as { vectorsBase64: string[] }).vectorsBase64.map(
        (text) => new Float32Array(new Uint8Array(Buffer.from(text, 'base64')).buffer),
      );
    const [together] = await runner.ask(embedRequest(texts));
    expect(together?.last.type).toBe('embedded');
    const many = vectors(together?.last);
    const cosine = (a: Float32Array, b: Float32Array): number =>
      a.reduce((sum, value, index) => sum + value * (b[index] as number), 0);
    for (const [index, text] of texts.entries()) {
      const [alone] = await runner.ask(embedRequest([text]));
      const vector = vectors(alone?.last)[0] as Float32Array;
      expect(vector).toHaveLength(576);
      expect(cosine(vector, vector)).toBeCloseTo(1, 4);
      expect(cosine(vector, many[index] as Float32Array)).toBeGreaterThanOrEqual(0.999);
    }
    const [long] = await runner.ask(embedRequest(['word '.repeat(600)]));
    expect(long?.last).toMatchObject({ type: 'failed', code: 'context_length_exceeded', param: 'input.0' });
    const [larger] = await runner.ask(embedRequest(['word '.repeat(400)]), textRequest(story));
    expect(larger?.last.type).toBe('embedded');
  });

  it('sleeps and wakes with the same answers', async () => {
    const [before] = await runner.ask(textRequest(story));
    runner.tell({ type: 'sleep' });
    await runner.message('asleep');
    const refused = textRequest(story);
    runner.tell({ type: 'submit', request: refused });
    expect((await runner.answer(refused.requestId)).last).toMatchObject({ type: 'failed', code: 'model_stopped' });
    expect((await runner.load(launchOf(smollm2Path()))).from).toBe('asleep');
    const [after] = await runner.ask(textRequest(story));
    expect(after?.text).toBe(before?.text);
  });
});

describe('a runner under pressure', () => {
  it('answers more requests than it has seats and cells for, each as if it were alone', async () => {
    const runner = new RunnerHarness();
    await runner.message('started');
    await runner.load(launchOf(smollm2Path(), { contextTokens: 256, kvTokens: 256, parallel: 3 }));
    const [alone] = await runner.ask(textRequest(story, { maxTokens: 100, ignoreEos: true }));
    const requests = Array.from({ length: 5 }, () => textRequest(story, { maxTokens: 100, ignoreEos: true }));
    const answers = await runner.ask(...requests);
    for (const answer of answers) {
      expect(answer.last).toMatchObject({ type: 'finished', reason: 'length', usage: { outputTokens: 100 } });
      expect(answer.text.slice(0, 40)).toBe(alone?.text.slice(0, 40));
    }
    // A cancelled long prompt leaves nothing behind: the next one of that size fits.
    const long = textRequest('word '.repeat(240), { requestId: requestId('long') });
    runner.tell({ type: 'submit', request: long });
    await runner.report(runner.slice({ micros: 1 }));
    runner.tell({ type: 'cancel', requestId: long.requestId, keep: false });
    const [next] = await runner.ask(textRequest('word '.repeat(240), { maxTokens: 4 }));
    expect(next?.last).toMatchObject({ type: 'finished' });
    await runner.stop();
  });
});

describe('a base model without a template', () => {
  it('is asked in the plain form and stops before it speaks for the user', async () => {
    const runner = new RunnerHarness();
    await runner.message('started');
    await runner.load(launchOf(gemmaPath()));
    const [chat, text] = await runner.ask(
      chatRequest('What is the capital of France?', { maxTokens: 40 }),
      textRequest('1, 2, 3, 4, 5,', { maxTokens: 3 }),
    );
    expect(text?.text).toContain(' 6');
    expect(chat?.text).not.toContain('User:');
    const [json] = await runner.ask(
      chatRequest('A person as JSON', {
        maxTokens: 60,
        format: {
          type: 'json_schema',
          schema: {
            type: 'object',
            properties: { age: { type: 'integer', maximum: 99, minimum: 0 } },
            required: ['age'],
          },
        },
      }),
    );
    expect(JSON.parse(json?.text ?? '').age).toBeLessThan(100);
    const [embedded] = await runner.ask(embedRequest(['hello there']));
    expect(embedded?.last.type).toBe('embedded');
    await runner.stop();
  });
});

describe('files that can’t be loaded', () => {
  const folder = mkdtempSync(join(tmpdir(), 'berth-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  const part = Buffer.alloc(4 * 1024 * 1024);
  readSync(openSync(smollm2Path(), 'r'), part, 0, part.length, 0);
  const corrupt = Buffer.from(part);
  corrupt.fill(0xff, 8, 64);
  const files: Readonly<Record<string, Buffer>> = {
    truncated: part,
    corrupt,
    headless: Buffer.from('hello'),
    empty: Buffer.alloc(0),
  };

  it.each(['missing', 'truncated', 'corrupt', 'headless', 'empty'])(
    '%s: says so, and loads the next model',
    async (kind) => {
      const path = join(folder, `${kind}.gguf`);
      if (files[kind] !== undefined) writeFileSync(path, files[kind]);
      const runner = new RunnerHarness();
      await runner.message('started');
      runner.tell({ type: 'load', launch: launchOf(path) });
      expect(await runner.message('loadFailed')).toMatchObject({
        code: kind === 'missing' ? 'model_file_missing' : 'model_file_invalid',
      });
      await runner.load(launchOf(smollm2Path()));
      await runner.stop();
    },
  );

  it('too large a context is a failed load, not a dead process', async () => {
    const runner = new RunnerHarness();
    await runner.message('started');
    runner.tell({
      type: 'load',
      launch: launchOf(smollm2Path(), { contextTokens: 50_000_000, kvTokens: 50_000_000 }),
    });
    expect(await runner.message('loadFailed')).toMatchObject({ code: 'model_load_failed' });
    await runner.stop();
  });
});

it('a runner ends with its parent’s connection', async () => {
  const runner = new RunnerHarness();
  await runner.message('started');
  runner.child.disconnect();
  expect(await runner.exited).toBe(0);
});
