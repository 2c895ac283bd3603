/**
 * Over-commit: 24 models on a device with room for six, asked by Zipf(1.0) in conversations of two or three turns that begin by a
 * Poisson process, at 60 and 90 % of what this node can do with these models. The same conversations at the same times for
 * llama-server's router with `--models-max 6` and for llama-swap with six places. What is not answered a minute after the load's end
 * is cut off and counts as missed, so that a run ends although a contender collapses. Room for six is the memory of three of the
 * smaller and three of the larger model.
 */
import { closeSync, copyFileSync, fdatasyncSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gemmaPath, smollm2Path } from '../test/models.ts';
import type { ModelsResponse } from '../src/gateway/admin-types.ts';
import type { Driven } from '../src/load/driver.ts';
import { drive } from '../src/load/driver.ts';
import type { LoadShape } from '../src/load/plan.ts';
import { plan, zipfWeights } from '../src/load/plan.ts';
import { switchesSoFar } from '../src/load/server.ts';
import { wordsOf } from '../src/load/text.ts';
import type { BenchArgs, BenchResult } from './harness.ts';
import { findPeer, peerVersion, result } from './harness.ts';
import { tokensPerWord } from './lib/conversation.ts';
import type { Level, Played } from './lib/headline-rows.ts';
import { goodput, rowsOf, tokensWithin, ttft } from './lib/headline-rows.ts';
import { heldBytes } from './lib/node-admin.ts';
import { descendants } from './lib/processes.ts';
import type { Server } from './lib/servers.ts';
import { copyModels, startBerth, startRouter } from './lib/servers.ts';
import { startSwap } from './lib/swap.ts';

const MODELS = 24;
const FIT = 6;
const LANES = 2;
const PARALLEL = 4;
/** The longest conversation: three turns of 120 + 64 tokens and what stands between them. */
const CONTEXT_TOKENS = 1024;
const PROMPT_TOKENS = 120;
const OUTPUT_TOKENS = 64;
const THINK_SECONDS = 2;
const PERCENTS = [60, 90];
const CAPACITY_IN_FLIGHT = 16;
/** Of each server that the peers start. With two, several busy models wait for each other: 10 of 37 requests failed at 0.5 a second. */
const PEER_THREADS = 1;
/** Each level of each contender takes so long, and a minute more at most. */
const SECONDS = { capacity: 60, load: 300, grace: 60 };
const QUICK = { capacity: 10, load: 20, grace: 20 };
/** Long enough to load every model once. */
const FAKE = { capacity: 3, load: 3, grace: 5 };
const SAMPLE_MILLIS = 500;

export const about = '24 models, memory for 6, Zipf(1.0), Poisson arrivals at 60 and 90 % of the capacity, 2–3 turns';

interface Contender {
  readonly name: string;
  readonly start: () => Promise<Server>;
}

export async function run(args: BenchArgs): Promise<BenchResult> {
  const seconds = args.fake === true ? FAKE : args.quick ? QUICK : SECONDS;
  const folder = mkdtempSync(join(tmpdir(), 'berth-headline-'));
  try {
    const names = copyModels(folder, MODELS, [smollm2Path(), gemmaPath()], copyWhole);
    const { memoryBytes, perWord } = await measureAlone(folder, names.slice(0, 2));
    const stage: Stage = {
      names,
      tokensPerWord: (name) => perWord[names.indexOf(name) % perWord.length] ?? 1,
      seconds,
    };
    const contenders = contendersOf(args, folder, names, memoryBytes);
    const [berth] = contenders as [Contender];
    const capacity = await withServer(berth, (server) => measureCapacity(server, stage));
    const levels: Level[] = [];
    for (const percent of PERCENTS) {
      const played = new Map<string, Played>();
      for (const contender of contenders) {
        const seen = await withServer(contender, (server) => play(server, stage, (capacity * percent) / 100));
        played.set(contender.name, seen);
        tell(contender.name, percent, seen, seconds.load * 1e6);
      }
      levels.push({ percent, loadMicros: seconds.load * 1e6, played });
    }
    const rarest = new Set(names.slice(MODELS / 2));
    return result('headline', rowsOf(levels, rarest), {
      peer: peerVersion(findPeer(args, 'llama-server')),
      swap: peerVersion(findPeer(args, 'llama-swap')),
      capacityRequestsPerSecond: Number(capacity.toFixed(3)),
      memoryBytes,
      seconds: seconds.load,
      thinkSeconds: THINK_SECONDS,
      promptTokens: PROMPT_TOKENS,
      outputTokens: OUTPUT_TOKENS,
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** On the disk when it returns: gigabytes that are still to be written would take time from whoever is measured first. */
function copyWhole(from: string, to: string): void {
  copyFileSync(from, to);
  const file = openSync(to, 'r+');
  try {
    fdatasyncSync(file);
  } finally {
    closeSync(file);
  }
}

const configOf = (modelsDir: string, memory: string): Record<string, unknown> => ({
  modelsDir,
  device: { memory, lanes: LANES },
  defaults: { context: CONTEXT_TOKENS, parallel: PARALLEL },
});

/** Berth first. */
function contendersOf(args: BenchArgs, modelsDir: string, names: readonly string[], memoryBytes: number): Contender[] {
  const binary = findPeer(args, 'llama-server');
  const swap = findPeer(args, 'llama-swap');
  const shape = { modelsDir, modelsMax: FIT, contextTokens: CONTEXT_TOKENS * PARALLEL, parallel: PARALLEL };
  const contenders = [{ name: 'berth', start: () => startBerth({ config: configOf(modelsDir, `${memoryBytes}`) }) }];
  if (binary === null) return contenders;
  const threads = PEER_THREADS;
  contenders.push({ name: `router -t ${threads}`, start: () => startRouter({ ...shape, binary, threads }) });
  if (swap === null) return contenders;
  const swapOptions = { ...shape, names, binary: swap, llamaServer: binary, threads };
  contenders.push({ name: `llama-swap -t ${threads}`, start: () => startSwap(swapOptions) });
  return contenders;
}

async function withServer<T>({ start }: Contender, act: (server: Server) => Promise<T>): Promise<T> {
  const server = await start();
  try {
    return await act(server);
  } finally {
    const below = descendants(server.pid);
    await server.stop();
    // One that had to be killed leaves its servers behind, and they would compute beside the next contender.
    for (const pid of below) killIfThere(pid);
  }
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It is gone, as it should be.
  }
}

/** What three of each of the two models take on this machine, and how many tokens each makes of a word. */
async function measureAlone(
  folder: string,
  names: readonly string[],
): Promise<{ memoryBytes: number; perWord: number[] }> {
  const server = await startBerth({ config: configOf(folder, '8GiB') });
  try {
    const perWord: number[] = [];
    for (const name of names) perWord.push(await tokensPerWord(server.url, name, wordsOf(0, 0, 0, PROMPT_TOKENS)));
    const { models } = (await (await fetch(`${server.adminUrl}/api/admin/models`)).json()) as ModelsResponse;
    const bytes = names.map((name) => models.find(({ id }) => id === name)?.chargedBytes ?? 0);
    const { overheadBytes } = await heldBytes(server);
    const memoryBytes = overheadBytes + (FIT / names.length) * bytes.reduce((sum, its) => sum + its, 0);
    return { memoryBytes: Math.ceil(memoryBytes), perWord };
  } finally {
    await server.stop();
  }
}

interface Stage {
  /** Most popular first. */
  readonly names: readonly string[];
  readonly tokensPerWord: (name: string) => number;
  readonly seconds: typeof SECONDS;
}

const shapeOf = ({ names }: Stage, arrivals: LoadShape['arrivals'], seconds: number): LoadShape => ({
  seed: 24,
  arrivals,
  models: zipfWeights(names, 1),
  tenants: [{ name: 'default', weight: 1 }],
  durationMicros: seconds * 1e6,
  requests: null,
  turns: { least: 2, most: 3 },
  // In a closed loop somebody else asks while one thinks.
  thinkMicros: arrivals.kind === 'closed' ? 0 : THINK_SECONDS * 1e6,
  promptTokens: { least: PROMPT_TOKENS, most: PROMPT_TOKENS },
  outputTokens: { least: OUTPUT_TOKENS, most: OUTPUT_TOKENS },
  cancelShare: 0,
  batchShare: 0,
});

function send({ url }: Server, stage: Stage, shape: LoadShape): Promise<Driven> {
  const { arrivals } = shape;
  return drive({
    url,
    // One of the two models has no chat template, for which servers have different stand-ins.
    api: 'completions',
    keyOf: () => null,
    conversations: plan(shape),
    concurrency: arrivals.kind === 'closed' ? arrivals.concurrency : null,
    durationMicros: shape.durationMicros,
    graceMicros: stage.seconds.grace * 1e6,
    timeoutMicros: 2 * (stage.seconds.load + stage.seconds.grace) * 1e6,
    seed: shape.seed,
    tokensPerWord: stage.tokensPerWord,
    fields: { ignore_eos: true },
  });
}

/**
 * Requests a second with always so many in flight: output tokens by the clock, so that those half done count by half. The first third
 * of the time, in which the device fills, is left out.
 */
async function measureCapacity(server: Server, stage: Stage): Promise<number> {
  const { capacity } = stage.seconds;
  const shape = shapeOf(stage, { kind: 'closed', concurrency: CAPACITY_IN_FLIGHT }, capacity);
  const { records } = await send(server, stage, shape);
  const perSecond = tokensWithin(records, (capacity * 1e6) / 3, capacity * 1e6) / OUTPUT_TOKENS / ((capacity * 2) / 3);
  if (perSecond === 0) throw new Error('the node answered nothing: its capacity can’t be measured');
  return perSecond;
}

async function play(server: Server, stage: Stage, perSecond: number): Promise<Played> {
  // The others don't count their loads, but start a process for each.
  const starts = watchStarts(server.pid);
  try {
    const driven = await send(server, stage, shapeOf(stage, { kind: 'poisson', perSecond }, stage.seconds.load));
    return { ...driven, switches: server.adminUrl === null ? starts.count() : await switchesOf(server.adminUrl) };
  } finally {
    starts.stop();
  }
}

const switchesOf = async (adminUrl: string): Promise<number | null> =>
  switchesSoFar(await (await fetch(`${adminUrl}/metrics`)).text());

/** How many processes were seen below this one that had not been there before. */
function watchStarts(pid: number): { count(): number; stop(): void } {
  const seen = new Set(descendants(pid));
  let count = 0;
  const timer = setInterval(() => {
    for (const child of descendants(pid)) {
      if (seen.has(child)) continue;
      seen.add(child);
      count++;
    }
  }, SAMPLE_MILLIS);
  return { count: () => count, stop: () => clearInterval(timer) };
}

/** Also the driver's own part in the numbers, and the numbers themselves, so that they are not lost if what follows fails. */
function tell(name: string, percent: number, seen: Played, loadMicros: number): void {
  const { lagP99Micros, loopDelayP99Micros, cpuShare } = seen.overhead;
  const millis = (micros: number): string => (micros / 1_000).toFixed(1);
  console.error(
    `${name}, ${percent} %: ${seen.records.length} requests, ${goodput(seen, loadMicros).toFixed(3)} good ones a second, ` +
      `TTFT p50 ${ttft(seen.records, 50).toFixed(0)} ms, p99 ${ttft(seen.records, 99).toFixed(0)} ms; ` +
      `sent ${millis(lagP99Micros)} ms late (p99), event loop ${millis(loopDelayP99Micros)} ms late (p99), ` +
      `${(100 * cpuShare).toFixed(0)} % of a core`,
  );
}
