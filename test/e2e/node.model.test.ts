/** The whole node as a user runs it: a process, real models, real sockets, real kills. */
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ask, inFlight } from '../../bench/lib/client.ts';
import { descendants } from '../../bench/lib/processes.ts';
import type { Server } from '../../bench/lib/servers.ts';
import { startBerth } from '../../bench/lib/servers.ts';
import { firstDivergence, readJournal } from '../../src/runtime/journal.ts';
import type { NodeStatus } from '../../src/runtime/api.ts';
import { gemmaPath, smollm2Path } from '../models.ts';

const folder = mkdtempSync(join(tmpdir(), 'berth-e2e-'));
const modelsDir = join(folder, 'models');
const journal = join(folder, 'journal.jsonl');
let node: Server;

/** Room for two of the four sound models, in a context that keeps them small. */
const config = (extra: Record<string, unknown> = {}): Record<string, unknown> => ({
  modelsDir,
  device: { memory: '900MiB', lanes: 2 },
  defaults: { context: 512, parallel: 4 },
  models: [
    { id: 'gone', source: join(folder, 'nowhere.gguf') },
    { id: 'smol-a', aliases: ['little'] },
    { id: 'huge', source: smollm2Path(), context: 8192, kv: 60_000 },
  ],
  ...extra,
});

beforeAll(async () => {
  copyModels();
  node = await startBerth({ config: config(), journal });
});

afterAll(async () => {
  // Not there if it did not start: that error is the one to be seen.
  await (node as Server | undefined)?.stop();
  rmSync(folder, { recursive: true, force: true });
});

function copyModels(): void {
  const put = (from: string, name: string): string => {
    const to = join(modelsDir, `${name}.gguf`);
    copyFileSync(from, to);
    return to;
  };
  mkdirSync(modelsDir, { recursive: true });
  for (const name of ['smol-a', 'smol-b']) put(smollm2Path(), name);
  for (const name of ['gemma-a', 'gemma-b']) put(gemmaPath(), name);
  truncateSync(put(smollm2Path(), 'truncated'), 50_000_000);
  writeFileSync(join(modelsDir, 'corrupt.gguf'), 'this is no model');
}

const status = async (): Promise<NodeStatus> =>
  (await (await fetch(`${node.adminUrl}/api/admin/status`)).json()) as NodeStatus;

/** Nothing runs and nothing waits; fails after a while. */
async function settled(): Promise<NodeStatus> {
  for (let tries = 0; tries < 250; tries++) {
    const now = await status();
    if (now.requests.running + now.requests.waiting === 0) return now;
    await pause(20);
  }
  throw new Error('requests are left over');
}

describe('models that do not all fit', () => {
  test('all answer, each as itself', async () => {
    const models = ['smol-a', 'gemma-a', 'smol-b', 'gemma-b'];
    const order = [...models, ...models.toReversed()];
    const answers = await inFlight(
      4,
      order.map((model) => () => ask({ url: node.url, model, prompt: 'The capital of France is', maxTokens: 8 })),
    );
    expect(answers.map(({ error }) => error)).toEqual(order.map(() => null));
    const firstWords = (model: string): Set<string> =>
      new Set(answers.filter((answer) => answer.model === model).map(({ text }) => text.slice(0, 6)));
    expect(firstWords('smol-a')).toEqual(firstWords('smol-b'));
    expect(firstWords('gemma-a')).toEqual(firstWords('gemma-b'));
    const { device } = await status();
    expect(device.reservedBytes).toBeLessThanOrEqual(device.memoryBytes);
  });
});

describe('a runner that is killed in mid-stream', () => {
  test('is started again, and its stream goes on as if nothing had been; another never stops', async () => {
    const asking = (model: string, maxTokens: number) =>
      ask({ url: node.url, model, prompt: 'Once upon a time', maxTokens, extra: { ignore_eos: true } });
    const alone = await asking('smol-b', 120);
    const struck = asking('smol-b', 120);
    const other = asking('smol-a', 60);
    await untilRunning(2);
    const victim = await runnerOf('smol-b');
    process.kill(victim, 'SIGKILL');
    expect(await struck).toMatchObject({ status: 200, error: null, outputTokens: 120 });
    expect(await other).toMatchObject({ error: null, outputTokens: 60 });
    expect((await struck).text.slice(0, 40)).toBe(alone.text.slice(0, 40));
    expect(await runnerOf('smol-b')).not.toBe(victim);
  });
});

async function untilRunning(count: number): Promise<void> {
  for (let tries = 0; tries < 500; tries++) {
    if ((await status()).requests.running >= count) return;
    await pause(10);
  }
  throw new Error('the requests did not start');
}

/** The process that has the model's file mapped. */
async function runnerOf(model: string): Promise<number> {
  for (let tries = 0; tries < 100; tries++) {
    const found = descendants(node.pid).find((pid) => mapsOf(pid).includes(`/${model}.gguf`));
    if (found !== undefined) return found;
    await pause(10);
  }
  throw new Error(`no process has ${model}`);
}

function mapsOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/maps`, 'utf8');
  } catch {
    return '';
  }
}

describe('bad input is told what is wrong, and the node stays up', () => {
  const completion = async (
    body: unknown,
    raw = false,
  ): Promise<{ status: number; error: { code: string; message: string; param: string | null } }> => {
    const response = await fetch(`${node.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: raw ? (body as string) : JSON.stringify(body),
    });
    return {
      status: response.status,
      ...((await response.json()) as { error: { code: string; message: string; param: string | null } }),
    };
  };

  test.each([
    ['a truncated file', { model: 'truncated', prompt: 'x' }, 'model_file_invalid'],
    ['a corrupt file', { model: 'corrupt', prompt: 'x' }, 'model_file_invalid'],
    ['a missing file', { model: 'gone', prompt: 'x' }, 'model_file_missing'],
    ['a model larger than the budget', { model: 'huge', prompt: 'x' }, 'model_too_large'],
    ['an unknown model', { model: 'nobody', prompt: 'x' }, 'model_not_found'],
    ['a prompt longer than the context', { model: 'smol-a', prompt: 'word '.repeat(2000) }, 'context_length_exceeded'],
    ['a wrong type', { model: 'smol-a', prompt: 'x', max_tokens: 'many' }, 'invalid_request'],
    ['an unknown parameter', { model: 'smol-a', prompt: 'x', wings: 2 }, 'unsupported_parameter'],
  ])('%s', async (_, body, code) => {
    const answer = await completion(body);
    expect(answer.error.code).toBe(code);
    expect(answer.status).toBeGreaterThanOrEqual(400);
    expect(answer.error.message.length).toBeGreaterThan(20);
  });

  test('no JSON', async () => expect((await completion('{"model":', true)).error.code).toBe('invalid_json'));

  test('a body of 100 MB', async () => {
    const body = `{"model":"smol-a","prompt":"${'x'.repeat(100_000_000)}"}`;
    expect((await completion(body, true)).error.code).toBe('body_too_large');
  });

  test('after all that it answers, and its books balance', async () => {
    expect(await ask({ url: node.url, model: 'little', prompt: 'Hello', maxTokens: 3 })).toMatchObject({ error: null });
    const { device } = await settled();
    expect(device.reservedBytes + device.freeBytes).toBe(device.memoryBytes);
  });
});

test('a client that leaves frees its work', async () => {
  const leave = new AbortController();
  const response = await fetch(`${node.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'smol-a', prompt: 'On and on', max_tokens: 450, stream: true, ignore_eos: true }),
    signal: leave.signal,
  });
  await response.body?.getReader().read();
  leave.abort();
  expect((await settled()).requests.running).toBe(0);
});

test('the journal of all this replays to the same actions', async () => {
  await node.stop();
  const entries = await readJournal(journal);
  expect(entries.length).toBeGreaterThan(50);
  expect(firstDivergence(entries)).toBeNull();
  expect(readFileSync(journal, 'utf8')).not.toContain('capital of France');
});

test('runners do not outlive a node that is killed', async () => {
  const doomed = await startBerth({ config: config() });
  await ask({ url: doomed.url, model: 'smol-a', prompt: 'Hello', maxTokens: 2 });
  const runners = descendants(doomed.pid);
  expect(runners.length).toBeGreaterThan(0);
  process.kill(doomed.pid, 'SIGKILL');
  await doomed.stop();
  for (let tries = 0; tries < 200 && runners.some((pid) => mapsOf(pid) !== ''); tries++) await pause(25);
  expect(runners.filter((pid) => mapsOf(pid) !== '')).toEqual([]);
});
