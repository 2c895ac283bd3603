/** A conversation through a real node: its KV on the device, saved with its model, found again after a restart, and lost to a kill. */
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { descendants } from '../../bench/lib/processes.ts';
import type { Server } from '../../bench/lib/servers.ts';
import { startBerth } from '../../bench/lib/servers.ts';
import type { KvResponse } from '../../src/gateway/admin-types.ts';
import { smollm2Path } from '../models.ts';

const folder = mkdtempSync(join(tmpdir(), 'berth-e2e-kv-'));
const modelsDir = join(folder, 'models');
const kvFolder = join(folder, 'kv');
const config = {
  modelsDir,
  device: { memory: '900MiB', lanes: 2 },
  defaults: { context: 1024, parallel: 2 },
  kv: { hostMemory: '64MiB', disk: '256MiB', folder: kvFolder, hostFolder: join(folder, 'host') },
};
let node: Server;

interface Message {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

interface Turn {
  readonly text: string;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly tier: string | null;
}

async function turn(messages: readonly Message[]): Promise<Turn> {
  const response = await fetch(`${node.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'smol', messages, max_tokens: 16, temperature: 0 }),
  });
  const body = (await response.json()) as {
    choices: { message: { content: string } }[];
    usage: { prompt_tokens: number; prompt_tokens_details: { cached_tokens: number } };
    berth: { kv_tier: string | null };
  };
  return {
    text: body.choices[0]?.message.content ?? '',
    promptTokens: body.usage.prompt_tokens,
    cachedTokens: body.usage.prompt_tokens_details.cached_tokens,
    tier: body.berth.kv_tier,
  };
}

const kv = async (): Promise<NonNullable<KvResponse['kv']>> => {
  const { kv: view } = (await (await fetch(`${node.adminUrl}/api/admin/kv`)).json()) as KvResponse;
  if (view === null) throw new Error('the node keeps no KV');
  return view;
};

const stop = (): Promise<Response> =>
  fetch(`${node.adminUrl}/api/admin/models/smol/stop`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{}',
  });

const system: Message = { role: 'system', content: 'You keep the log of a small harbour. '.repeat(40) };
const conversation: Message[] = [system, { role: 'user', content: 'Which ships came in today?' }];
/** The next turn's question goes behind the answer. */
const goOn = ({ text }: Turn, question: string): void =>
  void conversation.push({ role: 'assistant', content: text }, { role: 'user', content: question });

beforeAll(async () => {
  mkdirSync(modelsDir, { recursive: true });
  mkdirSync(join(folder, 'host'));
  copyFileSync(smollm2Path(), join(modelsDir, 'smol.gguf'));
  node = await startBerth({ config });
});
afterAll(async () => {
  await (node as Server | undefined)?.stop();
  rmSync(folder, { recursive: true, force: true });
});

test('the next turn computes what is new in it, and so does another conversation behind the same system prompt', async () => {
  const first = await turn(conversation);
  expect(first).toMatchObject({ cachedTokens: 0, tier: null });
  goOn(first, 'And which left?');
  const second = await turn(conversation);
  expect(second.tier).toBe('device');
  expect(second.promptTokens - second.cachedTokens).toBeLessThan(40);
  const other = await turn([system, { role: 'user', content: 'Who is on watch?' }]);
  expect(other.promptTokens - other.cachedTokens).toBeLessThan(40);
  goOn(second, 'Were any late?');
});

test('its KV outlives its model on the device: saved, listed, and read back', async () => {
  await stop();
  const { stats, entries } = await kv();
  expect(stats.tiers.device.entries).toBe(0);
  expect(stats.tiers.host.entries).toBeGreaterThanOrEqual(2);
  expect(entries.every(({ tier, tenantId }) => tier === 'host' && tenantId === 'default')).toBe(true);
  const third = await turn(conversation);
  expect(third.tier).toBe('host');
  expect(third.promptTokens - third.cachedTokens).toBeLessThan(40);
  goOn(third, 'And tomorrow?');
});

test('it outlives the node: the next one finds it on disk', async () => {
  await node.stop();
  expect(readdirSync(join(folder, 'host'))).toEqual([]);
  node = await startBerth({ config });
  const fourth = await turn(conversation);
  expect(fourth.tier).toBe('disk');
  expect(fourth.promptTokens - fourth.cachedTokens).toBeLessThan(80);
  goOn(fourth, 'Thank you. And the weather?');
});

test('a kill of the runner costs computing the last turn again, and nothing else', async () => {
  const [loaded] = descendants(node.pid);
  if (loaded === undefined) throw new Error('there is no runner');
  process.kill(loaded, 'SIGKILL');
  for (let tries = 0; (await kv()).stats.tiers.device.entries > 0; tries++) {
    if (tries > 250) throw new Error('the node did not notice the death');
    await pause(20);
  }
  const fifth = await turn(conversation);
  expect(fifth.text).not.toBe('');
  // What was saved before is still there.
  expect(fifth.tier).toBe('disk');
});
