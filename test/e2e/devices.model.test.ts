/** A node of two devices, real models: they compute at the same time, and what befalls one does not befall the other. */
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Answer } from '../../bench/lib/client.ts';
import { ask } from '../../bench/lib/client.ts';
import { descendants, holderOf } from '../../bench/lib/processes.ts';
import type { Server } from '../../bench/lib/servers.ts';
import { startBerth } from '../../bench/lib/servers.ts';
import type { ModelView, NodeStatus } from '../../src/runtime/api.ts';
import { firstDivergence, readJournal } from '../../src/runtime/journal.ts';
import { smollm2Path } from '../models.ts';

const folder = mkdtempSync(join(tmpdir(), 'berth-devices-'));
const modelsDir = join(folder, 'models');
const journal = join(folder, 'journal.jsonl');
let node: Server;

beforeAll(async () => {
  mkdirSync(modelsDir, { recursive: true });
  for (const name of ['one', 'two', 'mine', 'yours']) copyFileSync(smollm2Path(), join(modelsDir, `${name}.gguf`));
  const config = {
    modelsDir,
    devices: [
      { id: 'left', lanes: 1, memory: '600MiB' },
      { id: 'right', lanes: 1, memory: '600MiB' },
    ],
    defaults: { context: 512, parallel: 2 },
    models: [
      { id: 'mine', device: 'right' },
      { id: 'yours', device: 'left' },
    ],
  };
  node = await startBerth({ config, journal });
});

afterAll(async () => {
  // Not there if it did not start: that error is the one to be seen.
  await (node as Server | undefined)?.stop();
  rmSync(folder, { recursive: true, force: true });
});

const admin = async (path: string): Promise<unknown> => (await fetch(`${node.adminUrl}/api/admin/${path}`)).json();
const modelsNow = async (): Promise<readonly ModelView[]> =>
  ((await admin('models')) as { models: readonly ModelView[] }).models;
const viewOf = async (id: string): Promise<ModelView | undefined> =>
  (await modelsNow()).find((model) => (model.id as string) === id);
const answer = (model: string, maxTokens: number): Promise<Answer> =>
  ask({ url: node.url, model, prompt: 'Once upon a time', maxTokens, extra: { ignore_eos: true } });

/** At one moment each of the two has a lane. */
async function untilBothCompute(names: readonly string[] = ['one', 'two']): Promise<void> {
  for (let tries = 0; tries < 1000; tries++) {
    if ((await modelsNow()).filter(({ id, lanes }) => names.includes(id) && lanes === 1).length === 2) return;
    await pause(5);
  }
  throw new Error('they never computed at the same time');
}

describe('two devices of one lane', () => {
  test('compute two models at the same time, one on each', async () => {
    await Promise.all([answer('one', 4), answer('two', 4)]);
    const asked = [answer('one', 200), answer('two', 200)];
    await untilBothCompute();
    for (const each of await Promise.all(asked)) expect(each).toMatchObject({ error: null, outputTokens: 200 });
    const homes = [(await viewOf('one'))?.device, (await viewOf('two'))?.device];
    expect(new Set(homes)).toEqual(new Set(['left', 'right']));
    const { devices } = (await admin('status')) as NodeStatus;
    for (const { reservedBytes, memoryBytes } of devices ?? []) {
      expect(reservedBytes).toBeGreaterThan(0);
      expect(reservedBytes).toBeLessThanOrEqual(memoryBytes);
    }
  });

  test('do not feel the death of a runner of the other; its stream goes on', async () => {
    const alone = await answer('one', 200);
    const [struck, other] = [answer('one', 200), answer('two', 200)];
    await untilBothCompute();
    const [victim, bystander] = [holderOf(node.pid, 'one.gguf'), holderOf(node.pid, 'two.gguf')];
    process.kill(victim ?? 0, 'SIGKILL');
    expect(await struck).toMatchObject({ error: null, outputTokens: 200, resumes: 1 });
    expect((await struck).text.slice(0, 40)).toBe(alone.text.slice(0, 40));
    expect(await other).toMatchObject({ error: null, outputTokens: 200, resumes: 0 });
    expect(holderOf(node.pid, 'two.gguf')).toBe(bystander);
    expect(holderOf(node.pid, 'one.gguf')).not.toBe(victim);
  });

  test('have the models that name them', async () => {
    expect(await answer('mine', 4)).toMatchObject({ error: null });
    expect((await viewOf('mine'))?.device).toBe('right');
  });
});

test('a conversation goes on on another device, without its prompt being computed again', async () => {
  const prompt = 'Tell me of the sea and its ships, of harbours and of storms. '.repeat(8);
  const turn = (): Promise<Answer> => ask({ url: node.url, model: 'one', prompt, maxTokens: 4 });
  expect(await turn()).toMatchObject({ error: null });
  const from = (await viewOf('one'))?.device ?? '';
  await fetch(`${node.adminUrl}/api/admin/models/one/stop`, { method: 'POST' });
  // Where it was somebody is busy now.
  const leave = new AbortController();
  const busy = [1, 2].map(() =>
    ask({
      url: node.url,
      model: from === 'left' ? 'yours' : 'mine',
      prompt: 'On and on',
      maxTokens: 400,
      extra: { ignore_eos: true },
      signal: leave.signal,
    }),
  );
  for (let tries = 0; ((await admin('status')) as NodeStatus).requests.running < 2 && tries < 1000; tries++)
    await pause(5);
  const { cachedTokens, error, promptTokens } = await turn();
  leave.abort();
  await Promise.all(busy);
  expect(error).toBeNull();
  expect((await viewOf('one'))?.device).not.toBe(from);
  expect(cachedTokens).toBeGreaterThan(promptTokens - 16);
});

test('a stop ends what all devices run, and the journal replays each of them', async () => {
  const processes = descendants(node.pid);
  const running = [answer('mine', 400), answer('yours', 400)];
  await untilBothCompute(['mine', 'yours']);
  await node.stop();
  await Promise.all(running);
  const left = processes.filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/maps`, 'utf8').includes('.gguf');
    } catch {
      return false;
    }
  });
  expect(left).toEqual([]);
  const entries = await readJournal(journal);
  expect(new Set(entries.map(({ device }) => device))).toEqual(new Set(['left', 'right']));
  expect(firstDivergence(entries)).toBeNull();
});
