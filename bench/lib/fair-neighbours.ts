/** Two neighbours that want too much: one floods the node with requests, one has a cold model switched in for each of its own. */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { gemmaPath, smollm2Path } from '../../test/models.ts';
import type { BenchRow } from '../harness.ts';
import { percentile } from '../harness.ts';
import type { Answer } from './client.ts';
import { ask } from './client.ts';
import type { Loop, Stage } from './fair-runs.ts';
import { playLoop } from './fair-runs.ts';
import { heldBytes } from './node-admin.ts';
import { seeded } from './random.ts';
import type { Server } from './servers.ts';
import { copyModels, startBerth } from './servers.ts';
import type { Served } from './service.ts';
import { addTenants, settled, usageOf } from './tenants.ts';

const LANES = 2;
const CONTEXT_TOKENS = 256;
/** The neighbour is there for so long before anything counts. */
const LEAD_SECONDS = 1;

async function withNode<T>(
  { models, fit }: { readonly models: number; readonly fit: number | null },
  run: (server: Server, names: readonly string[]) => Promise<T>,
): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'berth-fairness-'));
  const start = (memory: string): Promise<Server> =>
    startBerth({
      config: {
        modelsDir: folder,
        device: { memory, lanes: LANES },
        defaults: { context: CONTEXT_TOKENS, parallel: 4 },
      },
    });
  try {
    const names = copyModels(folder, models, [smollm2Path(), gemmaPath()], copyFileSync);
    let memory = '8GiB';
    if (fit !== null) {
      const measured = await start(memory);
      try {
        for (const model of names.slice(0, 2)) await warm(measured, model);
        const { largestBytes, overheadBytes } = await heldBytes(measured);
        memory = `${fit * largestBytes + overheadBytes}`;
      } finally {
        await measured.stop();
      }
    }
    const server = await start(memory);
    try {
      return await run(server, names);
    } finally {
      await server.stop();
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

export async function warm({ url }: Server, model: string, key?: string): Promise<void> {
  const { error } = await ask({ url, model, prompt: 'Hello', maxTokens: 4, ...(key !== undefined && { key }) });
  if (error !== null) throw new Error(`${model}: ${error}`);
}

/** Runs `act` while the loops do; they are cut off when it is done. */
async function beside<T>(
  stage: Stage,
  loops: readonly { loop: Loop; key: string }[],
  act: (start: number) => Promise<T>,
) {
  const ending = new AbortController();
  const start = performance.now();
  const playing = Promise.all(loops.map(({ loop, key }) => playLoop(stage, loop, key, start, ending.signal)));
  // A loop that fails ends the run, and not as an unhandled rejection.
  const failing = playing.then(() => new Promise<never>(() => undefined));
  try {
    const seen = await Promise.race([act(start), failing]);
    ending.abort();
    return { seen, served: await playing };
  } finally {
    ending.abort();
    await settled(stage.server);
  }
}

// ---------------------------------------------------------------- the flood

const FLOOD = { inFlight: 64, promptTokens: 32, outputTokens: 48 };
/** What the same tenant does when it behaves: one request on each of the three models. */
const CALM = { ...FLOOD, inFlight: 3 };
const INTERACTIVE_TOKENS = 16;
const TTFT_BARS = { 50: 1.5, 99: 2 } as const;

/** An interactive request a second, by turns to each model, beside a neighbour with 64 requests in flight and beside one with three. */
export async function flood(seconds: number): Promise<BenchRow[]> {
  const [calm, flooded] = await withNode({ models: 3, fit: null }, async (server, names) => {
    const keys = await addTenants(server, ['neighbour', 'own']);
    for (const model of names) await warm(server, model, keys.own);
    const stage: Stage = { server, models: names, random: seeded(21) };
    const ttft = async (load: typeof FLOOD): Promise<number[]> => {
      const loop = { tenant: 'neighbour', models: names, ...load };
      const { seen } = await beside(stage, [{ loop, key: keys.neighbour }], async () => {
        await pause(LEAD_SECONDS * 1000);
        return interactive(server, names, keys.own, seconds);
      });
      return seen.map(({ ttftMillis }) => ttftMillis);
    };
    return [await ttft(CALM), await ttft(FLOOD)];
  });
  return ([50, 99] as const).map((p) => {
    const [berth, peer] = [percentile(flooded, p), percentile(calm, p)];
    return {
      case: 'a neighbour with 64 in flight on three models',
      metric: `interactive TTFT p${p}, peer: beside three in flight`,
      unit: 'ms',
      berth,
      peer,
      ratio: berth / peer,
      bar: `≤ ${TTFT_BARS[p]}`,
      pass: berth / peer <= TTFT_BARS[p],
    };
  });
}

async function interactive(server: Server, names: readonly string[], key: string, seconds: number): Promise<Answer[]> {
  const start = performance.now();
  const asking = Array.from({ length: seconds }, async (_, index) => {
    const intendedAt = start + index * 1000;
    await pause(Math.max(0, intendedAt - performance.now()));
    const answer = await ask({
      url: server.url,
      model: names[index % names.length] as string,
      prompt: `Question ${index + 1}: what is the sea like in winter?`,
      maxTokens: INTERACTIVE_TOKENS,
      key,
      extra: { ignore_eos: true },
      intendedAt,
    });
    if (answer.error !== null) throw new Error(`interactive: ${answer.error}`);
    return answer;
  });
  return Promise.all(asking);
}

// ---------------------------------------------------------------- the switch storm

const STORM = { inFlight: 2, promptTokens: 16, outputTokens: 4 };
const STEADY = { inFlight: 2, promptTokens: 24, outputTokens: 32 };
const GOODPUT_BAR = 0.9;

interface Storm {
  /** Output tokens a second of the two others. */
  readonly goodput: number;
  /** Of the tenant itself: milliseconds until a first token, and lane-milliseconds on its bill, a request. */
  readonly ttftMillis: number;
  readonly billMillis: number;
  readonly requests: number;
}

/** One tenant asks for three models by turns, which don't fit beside those of two others; against the same requests to one of them. */
export async function storm(seconds: number): Promise<BenchRow[]> {
  const [calm, stormy] = await withNode({ models: 5, fit: 3 }, async (server, names) => {
    const keys = await addTenants(server, ['x', 'y', 'switcher']);
    const [first, second, ...cold] = names as [string, string, ...string[]];
    const stage: Stage = { server, models: names, random: seeded(22) };
    for (const model of [first, second, cold[0] as string]) await warm(server, model, keys.x);
    const measure = async (models: readonly string[]): Promise<Storm> => {
      const before = await billOf(server);
      const span = { from: LEAD_SECONDS * 1000, to: (LEAD_SECONDS + seconds) * 1000 };
      const loops = [
        { loop: { tenant: 'x', models: [first], ...STEADY }, key: keys.x },
        { loop: { tenant: 'y', models: [second], ...STEADY }, key: keys.y },
        { loop: { tenant: 'switcher', models, ...STORM }, key: keys.switcher },
      ];
      const { served } = await beside(stage, loops, () => pause(span.to));
      const [x = [], y = [], own = []] = served;
      const tokens = [...x, ...y]
        .flatMap(({ chunksAt, outputTokens }) => chunksAt.map((at) => ({ at, tokens: outputTokens / chunksAt.length })))
        .filter(({ at }) => at >= span.from && at < span.to)
        .reduce((sum, one) => sum + one.tokens, 0);
      const begun = own.filter(({ chunksAt }) => chunksAt.length > 0);
      return {
        goodput: tokens / seconds,
        ttftMillis: percentile(begun.map(waitOf), 50),
        billMillis: (await billOf(server)) - before,
        requests: begun.length,
      };
    };
    return [await measure(cold.slice(0, 1)), await measure(cold)];
  });
  const what = { case: 'a neighbour that alternates cold models' };
  const row = (
    metric: string,
    unit: string,
    of: (one: Storm) => number,
    bar: string,
    keeps: (ratio: number) => boolean,
  ): BenchRow => {
    const [berth, peer] = [of(stormy), of(calm)];
    const named = `${metric}, peer: all its requests to one model`;
    return { ...what, metric: named, unit, berth, peer, ratio: berth / peer, bar, pass: keeps(berth / peer) };
  };
  return [
    row(
      'the others’ output',
      'tokens/s',
      ({ goodput }) => goodput,
      `≥ ${GOODPUT_BAR}`,
      (ratio) => ratio >= GOODPUT_BAR,
    ),
    row(
      'its own TTFT p50',
      'ms',
      ({ ttftMillis }) => ttftMillis,
      '> 1',
      (ratio) => ratio > 1,
    ),
    row(
      'its own bill a request',
      'lane-ms',
      ({ billMillis, requests }) => billMillis / requests,
      '> 1',
      (ratio) => ratio > 1,
    ),
    { ...what, metric: 'its requests served', unit: '', berth: stormy.requests, peer: calm.requests },
  ];
}

const waitOf = ({ sentAt, chunksAt }: Served): number => (chunksAt[0] as number) - sentAt;

/** Lane-milliseconds that the ledger has for the switching tenant: computed, and switched for it. */
async function billOf(server: Server): Promise<number> {
  const sums = await usageOf(server, ['tenant', 'kind']);
  return sums.reduce((sum, { tenant, laneMicros }) => sum + (tenant === 'switcher' ? laneMicros / 1000 : 0), 0);
}
