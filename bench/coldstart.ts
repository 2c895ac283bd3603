/**
 * The first token of a model that is not on the device, on an idle machine: Berth and llama-server's router in turn, each first in
 * every other round; its file in the page cache, and taken out of it right before. Beside it the same of a loaded model, which is what
 * remains when nothing has to be loaded. The bar is 0.5 × the router for SmolLM2 and 0.6 × for Gemma from the page cache, 0.7 × from
 * the disk.
 */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { gemmaPath, smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { findPeer, median, peerVersion, result } from './harness.ts';
import { ask } from './lib/client.ts';
import { dropFromPageCache } from './lib/page-cache.ts';
import type { Server } from './lib/servers.ts';
import { startBerth, startRouter } from './lib/servers.ts';

const MODELS = [
  { id: 'smollm2', bar: 0.5 },
  { id: 'gemma', bar: 0.6 },
] as const;
const DROPPED_BAR = 0.7;
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
      const drop = (): boolean => dropFromPageCache(folder, `${id}.gguf`);
      const contenders = { berth, router, id, rounds, restMillis };
      const cached = await coldStarts({ ...contenders, ready: () => true });
      rows.push(rowOf(`${id}, cold, file in page cache`, bar, cached));
      if (drop())
        rows.push(rowOf(`${id}, cold, file on disk`, DROPPED_BAR, await coldStarts({ ...contenders, ready: drop })));
      else console.error(`${id}: its file can’t be taken out of the page cache here; the case is left out`);
      rows.push({ case: `${id}, loaded`, metric: 'first token', unit: 'ms', berth: await warm(berth, id, rounds) });
    }
    return result('coldstart', rows, { peer: peerVersion(binary), rounds });
  } finally {
    for (const server of started) await server.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

interface Starts {
  readonly berth: Server;
  readonly router: Server | null;
  readonly id: string;
  readonly rounds: number;
  readonly restMillis: number;
  /** Right before each start. false: what is to be measured can't be. */
  readonly ready: () => boolean;
}

/** Milliseconds to each first token: Berth's, the router's. */
async function coldStarts({ berth, router, id, rounds, restMillis, ready }: Starts): Promise<[number[], number[]]> {
  const [cold, peer]: [number[], number[]] = [[], []];
  const start = async (server: Server): Promise<number> => {
    await pause(restMillis);
    if (!ready()) throw new Error(`${id}: its file could not be taken out of the page cache`);
    return firstToken(server, id);
  };
  const contenders = [
    { server: berth, end: unload, millis: cold },
    ...(router === null ? [] : [{ server: router, end: unloadOnRouter, millis: peer }]),
  ];
  for (let round = 0; round < rounds; round++) {
    // Each is first in every other round: what the machine does over time is nobody's advantage.
    for (const { server, end, millis } of round % 2 === 0 ? contenders : contenders.toReversed()) {
      millis.push(await start(server));
      await end(server, id);
    }
  }
  return [cold, peer];
}

function rowOf(what: string, bar: number, [cold, others]: [number[], number[]]): BenchRow {
  const own = { case: what, metric: 'first token', unit: 'ms', berth: median(cold) };
  if (others.length === 0) return own;
  const peer = median(others);
  const pass = own.berth <= bar * peer;
  return { ...own, peer, ratio: own.berth / peer, bar: `≤ ${bar} × the router`, pass };
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
