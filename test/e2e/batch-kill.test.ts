/** A real node of fake models is killed in the middle of a batch, and another one on the same folder ends it: each line once. */
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import OpenAI, { toFile } from 'openai';
import { expect, onTestFinished, test } from 'vitest';

const MAIN = join(import.meta.dirname, '..', '..', 'src', 'cli', 'main.ts');
const LINES = 60;

interface Started {
  readonly child: ChildProcess;
  readonly openai: OpenAI;
  readonly adminAddress: string;
}

async function start(home: string): Promise<Started> {
  const flags = [
    '--engine',
    'fake',
    '--no-config',
    '--port',
    '0',
    '--admin-port',
    '0',
    '--log-level',
    'silent',
    '--json',
  ];
  const child = spawn(process.execPath, [MAIN, 'serve', ...flags], {
    env: { ...process.env, BERTH_HOME: home, BERTH_KV_DISK: '0', BERTH_KV_HOST_MEMORY: '0' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  const { address, adminAddress } = await new Promise<{ address: string; adminAddress: string }>((resolve, reject) => {
    let said = '';
    child.stdout?.on('data', (part: Buffer) => {
      said += part.toString();
      if (said.includes('\n')) resolve(JSON.parse(said) as { address: string; adminAddress: string });
    });
    child.once('exit', (code) => reject(new Error(`the node ended with ${code}`)));
  });
  return { child, openai: new OpenAI({ baseURL: `${address}/v1`, apiKey: 'any', maxRetries: 0 }), adminAddress };
}

const kill = (child: ChildProcess): Promise<void> =>
  new Promise((resolve) => {
    child.removeAllListeners('exit');
    child.once('exit', () => resolve());
    child.kill('SIGKILL');
  });

test('each line is done exactly once in the output', {
  timeout: 60_000,
}, async () => {
  const home = mkdtempSync(join(tmpdir(), 'berth-kill-'));
  onTestFinished(() => rmSync(home, { recursive: true, force: true }));
  const lines = [...Array(LINES).keys()].map((n) => ({
    custom_id: `line-${n}`,
    method: 'POST',
    url: '/v1/completions',
    body: { model: 'fake-small', prompt: `number ${n}`, max_tokens: 30, ignore_eos: true },
  }));
  let node = await start(home);
  const text = lines.map((line) => JSON.stringify(line)).join('\n');
  const file = await node.openai.files.create({ file: await toFile(Buffer.from(text), 'in.jsonl'), purpose: 'batch' });
  const { id } = await node.openai.batches.create({
    input_file_id: file.id,
    endpoint: '/v1/completions',
    completion_window: '24h',
  });
  const progress = async () => node.openai.batches.retrieve(id);
  const until = async (least: number): Promise<void> => {
    for (let seen = 0; seen < least; ) {
      seen = (await progress()).request_counts?.completed ?? 0;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };
  let before = 0;
  for (const least of [5, 25]) {
    await until(least);
    await kill(node.child);
    node = await start(home);
    const { status, request_counts: counts } = await progress();
    expect(['in_progress', 'validating']).toContain(status);
    expect(counts?.total).toBe(LINES);
    before = least;
  }
  expect(before).toBeLessThan(LINES);
  await until(LINES);
  let batch = await progress();
  while (batch.status !== 'completed') batch = await progress();
  expect(batch.request_counts).toEqual({ total: LINES, completed: LINES, failed: 0 });
  expect(batch.error_file_id).toBeNull();
  const output = await (await node.openai.files.content(batch.output_file_id ?? '')).text();
  const ids = output
    .trim()
    .split('\n')
    .map((line) => (JSON.parse(line) as { custom_id: string }).custom_id);
  expect(ids.toSorted()).toEqual(lines.map(({ custom_id }) => custom_id).toSorted());
  const answer = await fetch(`${node.adminAddress}/api/admin/usage?by=kind`);
  const { usage } = (await answer.json()) as { usage: { kind: string; requests: number; outputTokens: number }[] };
  // The last quarter of a second before a kill may be missing, and lines that were running then are there twice.
  const { requests = 0 } = usage.find(({ kind }) => kind === 'request') ?? {};
  expect(requests).toBeGreaterThan(LINES / 2);
});
