/** A model that is computed elsewhere: on a second Berth node, and on servers that misbehave. */
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { describeEngine } from '../../test/contract/engine-contract.ts';
import { openStory, request, textOf } from '../../test/contract/stories.ts';
import type { Heard } from '../../test/contract/stories.ts';
import { startNode } from '../cli/start.ts';
import { loadConfig } from '../config.ts';
import type { BerthConfig } from '../config.ts';
import { DEFAULT_TENANT, MILLI, modelId, SECOND } from '../core/ids.ts';
import type { RunningNode } from '../runtime/start-types.ts';
import type { Engine, GenerateRequest, ModelLaunch } from './engine.ts';
import { createRemoteEngine } from './remote.ts';

const launch: ModelLaunch = {
  modelId: modelId('overflow'),
  path: 'elsewhere',
  contextTokens: 4096,
  kvTokens: 8192,
  parallel: 2,
  batchTokens: 512,
  memoryLimitBytes: 0,
};

const home = mkdtempSync(join(tmpdir(), 'berth-remote-'));
const nodes: RunningNode[] = [];
afterAll(async () => {
  for (const node of nodes) await node.stop();
  rmSync(home, { recursive: true, force: true });
});

const ENV = { BERTH_HOME: home, BERTH_KV_DISK: '0', BERTH_KV_HOST_MEMORY: '0' };

async function startOne(config: BerthConfig): Promise<RunningNode> {
  const node = await startNode({
    config,
    configPath: null,
    flags: {},
    host: '127.0.0.1',
    port: 0,
    adminHost: '127.0.0.1',
    adminPort: 0,
    allowUnauthenticated: false,
    engine: 'fake',
    journalPath: null,
    logLevel: 'silent',
  });
  nodes.push(node);
  return node;
}

/** A node with the two models that the fake engine has where none is listed. */
const secondNode = (): Promise<RunningNode> => startOne(loadConfig({ path: null, env: ENV }).config);

describeEngine(
  'a model on another node',
  async () => ({
    engine: createRemoteEngine({ url: `${(await secondNode()).address}/v1`, model: 'fake-small' }),
    launch,
    missingPath: '',
    corruptPath: '',
    kill() {},
    pass: (micros) => sleep(micros / 1000),
    patienceMicros: 20 * SECOND,
  }),
  {
    skips: {
      gate: 'it computes on another machine, whose lanes are not ours to grant',
      ids: 'OpenAI’s API tells no token ids',
      steps: 'its steps are another machine’s',
      resume: 'OpenAI’s API tells no token ids, so an answer can’t be gone on from',
      sleep: 'there is nothing here that could sleep',
      files: 'there is no file here',
      death: 'there is no process here',
      embed: 'the second node runs the fake engine’s models that generate: see below',
    },
  },
);

type Answer = (incoming: IncomingMessage, response: ServerResponse, body: Record<string, unknown>) => void;

describe('a remote server', () => {
  let engine: Engine | null = null;
  let server: Server | null = null;
  afterEach(async () => {
    await engine?.close();
    server?.closeAllConnections();
    server?.close();
  });

  /** One request against a server that answers so. */
  async function askOnce(answer: Answer, change: Partial<GenerateRequest> = {}, key?: string): Promise<Heard> {
    server = createServer((incoming, response) => {
      let text = '';
      incoming.on('data', (data: Buffer) => (text += data.toString()));
      incoming.on('end', () => answer(incoming, response, JSON.parse(text) as Record<string, unknown>));
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('no port');
    engine = createRemoteEngine({
      url: `http://127.0.0.1:${address.port}/base/v1`,
      model: 'theirs',
      timeoutMicros: 150 * MILLI,
      ...(key !== undefined && { key: () => Promise.resolve(key) }),
    });
    const world = { engine, launch, missingPath: '', corruptPath: '', kill() {}, patienceMicros: 5 * SECOND };
    const story = openStory({ ...world, pass: (micros) => sleep(micros / 1000) }, launch);
    await story.model.ensureLoaded();
    const heard = story.submit(request('one', change));
    await story.wait(() => heard.lasts() === 1, 'an end');
    return heard;
  }

  const events = (response: ServerResponse, ...all: (object | string)[]): void => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    for (const one of all) response.write(`data: ${typeof one === 'string' ? one : JSON.stringify(one)}\n\n`);
    response.end();
  };
  const piece = (text: string, finish: string | null = null): object => ({
    choices: [{ text, finish_reason: finish }],
  });

  it('is asked under its own name, with its key, for no more than the API knows', async () => {
    let seen: unknown;
    const heard = await askOnce(
      ({ url, headers }, response, body) => {
        seen = { url, key: headers.authorization, body };
        events(
          response,
          piece('Hel'),
          piece('lo', 'stop'),
          {
            choices: [],
            usage: { prompt_tokens: 7, completion_tokens: 9, prompt_tokens_details: { cached_tokens: 4 } },
          },
          '[DONE]',
        );
      },
      { ignoreEos: false },
      'sesame',
    );
    expect(seen).toEqual({
      url: '/base/v1/completions',
      key: 'Bearer sesame',
      body: {
        model: 'theirs',
        stream: true,
        stream_options: { include_usage: true },
        max_tokens: 8,
        temperature: 0,
        prompt: expect.any(String),
      },
    });
    expect(textOf(heard.events)).toBe('Hello');
    expect(heard.events.at(-1)).toMatchObject({
      reason: 'stop',
      usage: { promptTokens: 7, outputTokens: 9, cachedTokens: 4 },
    });
  });

  it('may call tools', async () => {
    const call = (part: object, finish: string | null = null): object => ({
      choices: [{ delta: { tool_calls: [{ index: 0, ...part }] }, finish_reason: finish }],
    });
    const messages = [{ role: 'user', content: 'Look.' }] as const;
    const heard = await askOnce(
      (_, response) =>
        events(
          response,
          call({ id: 'c', function: { name: 'look', arguments: '{' } }),
          call({ function: { arguments: '}' } }, 'tool_calls'),
          '[DONE]',
        ),
      { input: { type: 'chat', messages, tools: [{ name: 'look' }], toolChoice: 'auto' } },
    );
    expect(heard.events.slice(1)).toMatchObject([
      { type: 'toolCall', call: { id: 'c', name: 'look', arguments: '{}' } },
      { type: 'finished', reason: 'tool_calls' },
    ]);
  });

  const refusal =
    (status: number, message: string, headers: Record<string, string> = {}): Answer =>
    (_, response) =>
      response.writeHead(status, headers).end(JSON.stringify({ error: { message, type: 'theirs' } }));

  it.each<[string, Answer, string, RegExp]>([
    ['has too much to do', refusal(429, 'slow down', { 'retry-after': '7' }), 'queue_full', /too much to do/],
    ['does not take the key', refusal(401, 'sesame is no key'), 'engine_error', /does not take this node’s key/],
    ['finds the prompt too long', refusal(400, 'maximum context length is 5'), 'context_length_exceeded', /longer/],
    [
      'does not know the request',
      refusal(400, 'what is “The harbour”?'),
      'invalid_request',
      /refused the request \(400/,
    ],
    [
      'sends one elsewhere',
      (_, response) => response.writeHead(307, { location: 'http://10.0.0.1/' }).end(),
      'engine_error',
      /elsewhere/,
    ],
    ['breaks off', (_, response) => events(response, piece('Hel')), 'engine_error', /broke/],
    [
      'errs after it began',
      (_, response) => events(response, piece('Hel'), { error: { message: 'The harbour' } }, '[DONE]'),
      'engine_error',
      /refused|\(500/,
    ],
    [
      'gives up',
      (_, response) => events(response, piece('Hel', 'abort'), '[DONE]'),
      'engine_error',
      /broke its answer off/,
    ],
    ['hangs up', (incoming) => incoming.socket.destroy(), 'engine_error', /hung up/],
    ['says nothing', () => {}, 'engine_error', /said nothing/],
  ])('that %s fails the request, without a word of the prompt', async (_, answer, code, message) => {
    const { events: all } = await askOnce(answer);
    const last = all.at(-1);
    expect(last).toMatchObject({ type: 'failed', code });
    if (last?.type !== 'failed') throw new Error('no failure');
    expect(last.message).toMatch(message);
    expect(last.message).not.toMatch(/harbour|sesame/);
  });

  it('is hung up on when its client leaves', async () => {
    let left = false;
    const heard = askOnce((incoming, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.on('close', () => (left = true));
      const timer = setInterval(() => response.write(`data: ${JSON.stringify(piece('x'))}\n\n`), 5);
      incoming.socket.on('close', () => clearInterval(timer));
    });
    heard.catch(() => {});
    await sleep(60);
    await engine?.close();
    expect((await heard).events.at(-1)).toMatchObject({ type: 'failed', code: 'model_stopped' });
    await expect.poll(() => left).toBe(true);
  });
});

it('is a model of a node like any other, without lanes', async () => {
  const second = await secondNode();
  const path = join(home, 'berth.yaml');
  writeFileSync(
    path,
    `models:\n  overflow:\n    remote: {url: "${second.address}/v1", model: fake-large}\n    parallel: 2\n`,
  );
  const { config } = loadConfig({ path, env: ENV });
  const first = await startOne(config);
  const ask = async ({ address }: RunningNode, model: string): Promise<unknown> => {
    const body = JSON.stringify({ model, prompt: 'The harbour at dawn and', max_tokens: 12, temperature: 0 });
    const headers = { 'content-type': 'application/json' };
    const response = await fetch(`${address}/v1/completions`, { method: 'POST', body, headers });
    return response.json();
  };
  const all = await Promise.all([1, 2, 3, 4].map(() => ask(first, 'overflow')));
  const { choices, usage } = (await ask(second, 'fake-large')) as { choices: object[]; usage: object };
  for (const one of all) {
    expect(one).toMatchObject({ choices: [{ text: expect.any(String), finish_reason: 'length' }] });
    expect(one).toMatchObject({ choices, usage });
  }
  expect(first.node.model('overflow', DEFAULT_TENANT)).toMatchObject({ state: 'loaded', lanes: 0, engine: 'remote' });
});
