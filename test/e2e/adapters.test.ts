/** A LoRA adapter as its users meet it: the whole node, with a stand-in for vLLM (`test/fixtures/python-server.mjs`). */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Answer } from '../../bench/lib/client.ts';
import { ask } from '../../bench/lib/client.ts';
import type { Server } from '../../bench/lib/servers.ts';
import { startBerth } from '../../bench/lib/servers.ts';
import { TINY_LLAMA } from '../support/checkpoint.ts';

const folder = mkdtempSync(join(tmpdir(), 'berth-adapters-'));
let node: Server;

beforeAll(async () => {
  const put = (name: string, config: string, text: object, weights: string): string => {
    const path = join(folder, name);
    mkdirSync(path);
    writeFileSync(join(path, config), JSON.stringify(text));
    writeFileSync(join(path, weights), 'weights');
    return path;
  };
  const config = {
    modelsDir: join(folder, 'models'),
    device: { kind: 'cpu', memory: '8GiB', lanes: 1 },
    models: {
      big: { engine: 'vllm', source: put('big', 'config.json', TINY_LLAMA, 'model.safetensors'), context: 512 },
      sql: {
        base: 'big',
        adapter: put('sql', 'adapter_config.json', { r: 8, stand_in: 5 }, 'adapter_model.safetensors'),
        aliases: ['query'],
        price: { input: 1, output: 2 },
      },
    },
  };
  const standIn = join(import.meta.dirname, '../fixtures/python-server.mjs');
  node = await startBerth({ config, env: { BERTH_VLLM: standIn } });
});

afterAll(async () => {
  // Not there if it did not start: that error is the one to be seen.
  await (node as Server | undefined)?.stop();
  rmSync(folder, { recursive: true, force: true });
});

const answer = (model: string): Promise<Answer> => ask({ url: node.url, model, prompt: 'select', maxTokens: 8 });
const read = async (url: string): Promise<unknown> => (await fetch(url)).json();

describe.runIf(process.platform === 'linux')('an adapter', () => {
  test('answers under its own name and aliases, with its own weights, beside its base', async () => {
    const [plain, adapted, again] = await Promise.all([answer('big'), answer('sql'), answer('query')]);
    for (const each of [plain, adapted, again]) expect(each).toMatchObject({ error: null, outputTokens: 8 });
    expect(adapted.text).not.toBe(plain.text);
    expect(again.text).toBe(adapted.text);
  });

  test('is listed with its base, and paid for by its own price', async () => {
    const { data } = (await read(`${node.url}/v1/models`)) as { data: { id: string; parent?: string }[] };
    expect(data.map(({ id, parent }) => [id, parent])).toEqual([
      ['big', undefined],
      ['sql', 'big'],
    ]);
    const { usage } = (await read(`${node.adminUrl}/api/admin/usage?by=model`)) as {
      usage: { model: string; requests: number; costNanos: number }[];
    };
    expect(usage.find(({ model }) => model === 'sql')).toMatchObject({ requests: 2 });
  });

  test('can’t be removed by the admin API: it lies where its owner put it', async () => {
    const response = await fetch(`${node.adminUrl}/api/admin/models/sql`, { method: 'DELETE' });
    expect(response.status).toBe(403);
    expect(await answer('big')).toMatchObject({ error: null });
  });
});
