/**
 * Does `berth bench` measure what others measure? It, aiperf and guidellm in turn load the same running node with the same kind of
 * requests in a closed loop, three rounds, each first in one of them. The node computes with one thread, so that of two cores one
 * is left to the programs: aiperf keeps a core busy while it waits, and would measure what it takes away from the engine.
 */
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult } from './harness.ts';
import { findPeer, result } from './harness.ts';
import { crossRows } from './lib/cross.ts';
import type { CrossLoad, CrossSeen, CrossTool } from './lib/cross-tools.ts';
import { berthBench, CROSS_PEERS, versionOf } from './lib/cross-tools.ts';
import type { Server } from './lib/servers.ts';
import { startBerth } from './lib/servers.ts';

const LOAD = { model: 'smollm2', promptWords: 120, outputTokens: 64 } as const;
/**
 * Each run takes about so long once its program has started. With three programs, of which two need some 7 s for that, all of it is
 * done in 6 minutes. With several in flight a run has fewer waves, and varies more.
 */
const LEVELS = [
  { concurrency: 1, seconds: 7 },
  { concurrency: 4, seconds: 20 },
] as const;
/** As many requests as are in flight, one after the other. A run is some of these: nobody has the node to itself at the end. */
const WAVES = { least: 2, most: 100 };
const ROUNDS = 3;

export const about = 'TTFT and tokens/s as berth bench, aiperf and guidellm report them of the same node';

export async function run(args: BenchArgs): Promise<BenchResult> {
  const folder = mkdtempSync(join(tmpdir(), 'berth-cross-'));
  const modelsDir = join(folder, 'models');
  mkdirSync(modelsDir);
  copyFileSync(smollm2Path(), join(modelsDir, `${LOAD.model}.gguf`));
  let berth: Server | null = null;
  try {
    const peers = peersOf(args);
    const tools = new Map<string, CrossTool>([
      ['berth', berthBench],
      ...peers.map(({ name, tool }) => [name, tool] as const),
    ]);
    berth = await startBerth({ config: { modelsDir, device: { memory: '4GiB', lanes: 1 } } });
    const rounds = args.quick ? 1 : ROUNDS;
    const rows = [];
    for (const { concurrency, seconds } of LEVELS) {
      const load = { ...LOAD, url: berth.url, concurrency, requests: concurrency, seed: 0 };
      const waves = await measureWaves(load, folder, args.quick ? 0 : seconds);
      const seen = await play({ ...load, requests: waves * concurrency }, tools, rounds, folder);
      rows.push(...crossRows(`${concurrency} in flight`, seen));
    }
    const versions = Object.fromEntries(peers.map(({ name, version }) => [name, version]));
    return result('cross-check', rows, {
      ...versions,
      rounds,
      promptWords: LOAD.promptWords,
      outputTokens: LOAD.outputTokens,
    });
  } finally {
    await berth?.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A missing one is left out, with a line that says how to get it. */
function peersOf(args: BenchArgs): { name: string; tool: CrossTool; version: string }[] {
  return Object.entries(CROSS_PEERS).flatMap(([name, { how, toolOf }]) => {
    const found = findPeer(args, name);
    // It runs in another folder.
    const binary = found === null ? null : resolve(found);
    if (binary !== null) return [{ name, tool: toolOf(binary), version: versionOf(binary) }];
    if (args.fake !== true)
      console.error(`${name} is not there, its rows are left out. To have them: ${how}; --peer ${name}=PATH`);
    return [];
  });
}

/** How many waves take so long, by one. It also loads the model, and computes how the chat template begins every prompt. */
async function measureWaves(load: CrossLoad, folder: string, seconds: number): Promise<number> {
  if (load.concurrency === 1) await berthBench({ ...load, seed: 1 }, folder);
  const { tokensPerSecond } = await berthBench({ ...load, seed: 1 + load.concurrency }, folder);
  const waveSeconds = (load.outputTokens * load.requests) / tokensPerSecond;
  return Math.min(WAVES.most, Math.max(WAVES.least, Math.round(seconds / waveSeconds)));
}

/** Every program is first in some round. */
async function play(
  load: CrossLoad,
  tools: ReadonlyMap<string, CrossTool>,
  rounds: number,
  folder: string,
): Promise<Map<string, CrossSeen[]>> {
  const all = [...tools];
  const seen = new Map<string, CrossSeen[]>(all.map(([name]) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < all.length; turn++) {
      const [name, tool] = all[(round + turn) % all.length] as (typeof all)[number];
      const seed = 1_000 * load.concurrency + 10 * (round + 1) + turn;
      seen.get(name)?.push(await tool({ ...load, seed }, mkdtempSync(join(folder, `${name}-`))));
    }
  }
  return seen;
}
