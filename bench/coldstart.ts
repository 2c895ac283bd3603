/**
 * The first token of a model that is not on the device, its file in the page cache, on an idle machine: Berth and llama-server's
 * router in turn; beside it the same of a loaded model, which is what remains when nothing has to be loaded. The bar is 0.5 × the
 * router for SmolLM2, 0.6 × for Gemma.
 */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { gemmaPath, smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { findPeer, median, peerVersion, result } from './harness.ts';
import { ask } from './lib/client.ts';
import type { Server } from './lib/servers.ts';
import { startBerth, startRouter } from './lib/servers.ts';

const MODELS = [
  { id: 'smollm2', bar: 0.5 },
  { id: 'gemma', bar: 0.6 },
] as const;
const ROUNDS = 7;
/** Long enough for the last process to be reaped and the next spare to be ready: what is measured is a start from rest. */
const REST_MILLIS = 1_500;
/** The fake engine has nothing to rest from. */
const FAKE_REST_MILLIS = 50;

export const about = 'first token of a model that is not on the device, against llama-server’s router';

export async function run(args: BenchArgs): Promise<BenchResult> {
  const rounds = args.quick ? 2 : ROUNDS;
  const restMillis = args.fake === true ? FAKE_REST_MILLIS : REST_MILLIS;
  const folder = mkdtempSync(join(tmpdir(), 'berth-coldstart-'));
  copyFileSync(smollm2Path(), join(folder, 'smollm2.gguf'));
  copyFileSync(gemmaPath(), join(folder, 'gemma.gguf'));
  const binary = findPeer(args, 'llama-server');
  const started: Server[] = [];
  try {
    const berth = await startBerth({ config: { modelsDir: folder, device: { memory: '4GiB', lanes: 2 } } });
    started.push(berth);
    const router =
      binary === null
        ? null
        : await startRouter({ binary, modelsDir: folder, modelsMax: 4, threads: 2, contextTokens: 4096, parallel: 4 });
    if (router !== null) started.push(router);
    const rows: BenchRow[] = [];
    for (const { id, bar } of MODELS) {
      const seen = { cold: [] as number[], peer: [] as number[] };
      for (let round = 0; round < rounds; round++) {
        await pause(restMillis);
        seen.cold.push(await firstToken(berth, id));
        await unload(berth, id);
        if (router === null) continue;
        await pause(restMillis);
        seen.peer.push(await firstToken(router, id));
        await unloadOnRouter(router, id);
      }
      const berthMillis = median(seen.cold);
      const peerMillis = seen.peer.length > 0 ? median(seen.peer) : null;
      rows.push({
        case: `${id}, cold, file in page cache`,
        metric: 'first token',
        unit: 'ms',
        berth: berthMillis,
        ...(peerMillis === null
          ? {}
          : {
              peer: peerMillis,
              ratio: berthMillis / peerMillis,
              bar: `≤ ${bar} × the router`,
              pass: berthMillis <= bar * peerMillis,
            }),
      });
      rows.push({ case: `${id}, loaded`, metric: 'first token', unit: 'ms', berth: await warm(berth, id, rounds) });
    }
    return result('coldstart', rows, { peer: peerVersion(binary), rounds });
  } finally {
    for (const server of started) await server.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function firstToken(server: Server, model: string): Promise<number> {
  const answer = await ask({ url: server.url, model, prompt: 'Once upon a time', maxTokens: 2 });
  if (answer.error !== null || answer.chunkMillis.length === 0)
    throw new Error(`${server.name}: ${answer.error ?? 'no token'}`);
  return answer.ttftMillis;
}

async function warm(server: Server, model: string, rounds: number): Promise<number> {
  await firstToken(server, model);
  const seen: number[] = [];
  for (let round = 0; round < rounds; round++) seen.push(await firstToken(server, model));
  return median(seen);
}

async function post(url: string, body: object): Promise<void> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${url}: ${response.status} ${await response.text()}`);
  await response.body?.cancel();
}

const unload = (berth: Server, id: string): Promise<void> =>
  post(`${berth.adminUrl}/api/admin/models/${id}/stop`, { force: false });
const unloadOnRouter = (router: Server, id: string): Promise<void> =>
  post(`${router.url}/models/unload`, { model: id });
