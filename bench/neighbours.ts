/**
 * What a person notices of busy neighbours: an interactive stream a second on one of four resident models, first while the other
 * three are saturated by four streams each, then while one of them reads 4,000-token prompts back to back. Time to the first token
 * and between tokens, on a Berth node and on llama-server's router with one and with two threads a model. The streams start by the
 * clock, whether the earlier ones are done or not, and their times count from when they were meant to start. Meanwhile every
 * server's /health is asked: does it still answer?
 */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { Agent, get } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { findPeer, peerThreads, peerVersion, percentile, result } from './harness.ts';
import type { Answer } from './lib/client.ts';
import { ask } from './lib/client.ts';
import type { Server } from './lib/servers.ts';
import { copyModels, startBerth, startRouter } from './lib/servers.ts';

const MODELS = 4;
const LANES = 2;
const STREAMS_A_MODEL = 4;
const CONTEXT_TOKENS = 4608;
const PROMPT_TOKENS = 4000;
const NEIGHBOUR_TOKENS = 96;
const INTERACTIVE_TOKENS = 32;
const SECONDS = 40;
/** The neighbours run for so long before the first stream that counts. */
const LEAD_SECONDS = 3;
/** Streams that are not done so long after the last one started are cut off; what they had waited by then counts. */
const TAIL_SECONDS = 30;
const HEALTH_EVERY_MILLIS = 50;
/** Twice the inter-token goal of `balanced`, which sets the quantum. */
const GAP_BAR_MILLIS = 400;
const PERCENTILES = [50, 95, 99];

export const about = 'an interactive stream beside saturated neighbours, and beside one that reads long prompts';

interface Timing {
  readonly seconds: number;
  readonly leadSeconds: number;
  readonly tailSeconds: number;
}

interface Seen {
  readonly ttft: readonly number[];
  readonly gaps: readonly number[];
  readonly health: readonly number[];
  /** Streams that were cut off. */
  readonly unfinished: number;
}

/** Keeps neighbours busy until the signal. */
type Load = (server: Server, names: readonly string[], signal: AbortSignal) => Promise<unknown>;

const SCENARIOS: readonly { readonly name: string; readonly load: Load }[] = [
  { name: 'three saturated neighbours', load: saturate },
  { name: 'a neighbour that reads 4,000 tokens', load: readLongPrompts },
];

export async function run(args: BenchArgs): Promise<BenchResult> {
  const timing: Timing = args.quick
    ? { seconds: 2, leadSeconds: 0.5, tailSeconds: 0.5 }
    : { seconds: SECONDS, leadSeconds: LEAD_SECONDS, tailSeconds: TAIL_SECONDS };
  const folder = mkdtempSync(join(tmpdir(), 'berth-neighbours-'));
  const names = copyModels(folder, MODELS, [smollm2Path()], copyFileSync);
  const binary = findPeer(args, 'llama-server');
  const contenders = [
    {
      name: 'berth',
      start: () =>
        startBerth({
          config: {
            modelsDir: folder,
            device: { memory: '8GiB', lanes: LANES },
            defaults: { context: CONTEXT_TOKENS, parallel: STREAMS_A_MODEL },
          },
        }),
    },
    ...peerThreads(args, binary).map((threads) => ({
      name: `router -t ${threads}`,
      start: () =>
        startRouter({
          binary: binary as string,
          modelsDir: folder,
          modelsMax: MODELS,
          threads,
          contextTokens: CONTEXT_TOKENS * STREAMS_A_MODEL,
          parallel: STREAMS_A_MODEL,
        }),
    })),
  ];
  const seen = new Map<string, Seen>();
  try {
    for (const { name, start } of contenders) {
      const server = await start();
      try {
        for (const model of names) {
          const { error } = await ask(question(server, model, 'Hello', 8));
          if (error !== null) throw new Error(`${server.name}: ${error}`);
        }
        for (const scenario of SCENARIOS)
          seen.set(`${name}|${scenario.name}`, await measure(server, names, scenario.load, timing));
      } finally {
        await server.stop();
      }
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const peers = contenders.slice(1).map(({ name }) => name);
  return result('neighbours', rowsOf(seen, peers), {
    peer: peerVersion(binary),
    seconds: timing.seconds,
    interactiveTokens: INTERACTIVE_TOKENS,
    promptTokens: PROMPT_TOKENS,
  });
}

type Question = Parameters<typeof ask>[0];
const question = (
  server: Server,
  model: string,
  prompt: NonNullable<Question['prompt']>,
  maxTokens: number,
): Question => ({ url: server.url, model, prompt, maxTokens, extra: { ignore_eos: true } });

/** The last model gets the interactive streams, the others are its neighbours. */
async function measure(server: Server, names: readonly string[], load: Load, timing: Timing): Promise<Seen> {
  const neighbours = new AbortController();
  const ending = new AbortController();
  const own = names.at(-1) as string;
  const loaded = load(server, names.slice(0, -1), neighbours.signal);
  // What goes wrong there before the end must not be an unhandled rejection.
  loaded.catch(() => {});
  await pause(timing.leadSeconds * 1000);
  const health = watchHealth(server.url);
  const start = performance.now();
  const streams = Array.from({ length: timing.seconds }, async (_, index) => {
    const intendedAt = start + index * 1000;
    await pause(Math.max(0, intendedAt - performance.now()));
    const prompt = `Question ${index + 1}: what is the sea like in winter?`;
    return ask({ ...question(server, own, prompt, INTERACTIVE_TOKENS), intendedAt, signal: ending.signal });
  });
  const tail = setTimeout(() => ending.abort(), (timing.seconds + timing.tailSeconds) * 1000);
  const answers = await Promise.all(streams);
  clearTimeout(tail);
  const delays = health();
  neighbours.abort();
  await loaded;
  const failed = answers.find(({ error }) => error !== null && !ending.signal.aborted);
  if (failed !== undefined) throw new Error(`${server.name}: ${failed.error}`);
  return {
    ttft: answers.map(({ ttftMillis }) => ttftMillis),
    gaps: answers.flatMap(gapsOf),
    health: delays,
    unfinished: answers.filter(({ error }) => error !== null).length,
  };
}

/** Milliseconds between tokens; of a stream that was cut off also how long it had waited for the next one. */
function gapsOf({ chunkMillis, totalMillis, error }: Answer): number[] {
  const gaps = chunkMillis.slice(1).map((at, index) => at - (chunkMillis[index] as number));
  const last = chunkMillis.at(-1);
  return error === null || last === undefined ? gaps : [...gaps, totalMillis - last];
}

/** Four streams a model, the next one as soon as one ends. */
async function saturate(server: Server, names: readonly string[], signal: AbortSignal): Promise<void> {
  const stream = async (model: string, index: number): Promise<void> => {
    for (let turn = 0; !signal.aborted; turn++) {
      const prompt = `Chapter ${turn + 1}, part ${index + 1}. The ship`;
      const { error } = await ask({ ...question(server, model, prompt, NEIGHBOUR_TOKENS), signal });
      if (error !== null && !signal.aborted) throw new Error(`a neighbour on ${server.name}: ${error}`);
    }
  };
  await Promise.all(
    names.flatMap((model) => Array.from({ length: STREAMS_A_MODEL }, (_, index) => stream(model, index))),
  );
}

/** One long prompt after the other, given as token ids, none like another. */
async function readLongPrompts(server: Server, names: readonly string[], signal: AbortSignal): Promise<void> {
  const model = names[0] as string;
  let seed = 7;
  const token = (): number => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return 1000 + (seed % 20_000);
  };
  while (!signal.aborted) {
    const prompt = Array.from({ length: PROMPT_TOKENS }, token);
    const { error } = await ask({ ...question(server, model, prompt, 1), signal });
    if (error !== null && !signal.aborted) throw new Error(`a neighbour on ${server.name}: ${error}`);
  }
}

/** Asks for /health on a connection of its own, by the clock; what it returns ends it and tells the milliseconds of each answer. */
function watchHealth(url: string): () => number[] {
  const agent = new Agent({ keepAlive: true });
  const delays: number[] = [];
  const open = new Set<number>();
  const timer = setInterval(() => {
    const asked = performance.now();
    open.add(asked);
    const done = (): void => {
      if (open.delete(asked)) delays.push(performance.now() - asked);
    };
    get(new URL('/health', url), { agent }, (response) => response.resume().on('end', done).on('error', done)).on(
      'error',
      done,
    );
  }, HEALTH_EVERY_MILLIS);
  return () => {
    clearInterval(timer);
    const now = performance.now();
    for (const asked of open) delays.push(now - asked);
    open.clear();
    agent.destroy();
    return delays;
  };
}

function rowsOf(seen: ReadonlyMap<string, Seen>, peers: readonly string[]): BenchRow[] {
  const rows: BenchRow[] = [];
  const kinds = [
    { metric: 'TTFT', key: 'ttft' },
    { metric: 'inter-token', key: 'gaps' },
    { metric: '/health', key: 'health' },
  ] as const;
  for (const { name: scenario } of SCENARIOS) {
    const of = (name: string): Seen => seen.get(`${name}|${scenario}`) as Seen;
    for (const { metric, key } of kinds) {
      for (const p of PERCENTILES) {
        const berth = percentile(of('berth')[key], p);
        const what = { case: scenario, unit: 'ms' };
        for (const name of peers) {
          const peer = percentile(of(name)[key], p);
          rows.push({ ...what, metric: `${metric} p${p}, peer ${name}`, berth, peer, ratio: berth / peer });
        }
        const isBarred = key === 'gaps' && p === 99;
        if (peers.length > 0 && !isBarred) continue;
        const bar = { bar: `≤ ${GAP_BAR_MILLIS}`, pass: berth <= GAP_BAR_MILLIS };
        rows.push({ ...what, metric: `${metric} p${p}`, berth, ...(isBarred ? bar : {}) });
      }
    }
    for (const name of ['berth', ...peers].filter((one) => of(one).unfinished > 0)) {
      const { unfinished, ttft } = of(name);
      const what = { case: scenario, metric: `streams cut off, ${name}`, unit: `of ${ttft.length}` };
      rows.push(
        name === 'berth'
          ? { ...what, berth: unfinished }
          : { ...what, berth: of('berth').unfinished, peer: unfinished },
      );
    }
  }
  return rows;
}
