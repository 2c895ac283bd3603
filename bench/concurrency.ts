/**
 * One busy model with 1 to 32 requests in flight: decode throughput of a Berth node in one configuration, against llama-server with
 * the same threads, sequences and KV cache. For SmolLM2 also against the node's own runner without the node: what slices, the
 * gateway and HTTP cost together. Contenders take turns; each is started once per round and model.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gemmaPath, smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { atLeast, findPeer, median, peerVersion, result } from './harness.ts';
import { ask } from './lib/client.ts';
import type { Server } from './lib/servers.ts';
import { startBerth, startLlamaServer } from './lib/servers.ts';
import { openUngated } from './lib/ungated.ts';

const LEVELS = [1, 4, 8, 16, 32];
const PARALLEL = 32;
/** Room of one request: its prompt and its output. */
const CONTEXT_TOKENS = 256;
const KV_TOKENS = PARALLEL * CONTEXT_TOKENS;
const MAX_TOKENS = 96;
const THREADS = 2;
const ROUNDS = 3;
/** Where the node is compared with its own runner. */
const UNGATED_LEVEL = 4;
/** All of a wave start together; so many waves follow each other, for a case to last some seconds. */
const wavesFor = (level: number): number => (level <= 4 ? 4 : 1);

const MODELS = [
  { id: 'smollm2', path: smollm2Path, bar: (level: number): number => (level >= 4 ? 1.05 : 1) },
  { id: 'gemma', path: gemmaPath, bar: (): number => 1 },
];

export const about = 'one busy model, 1 to 32 in flight, against llama-server with the same threads';

/** Streams one greedy answer; resolves with its tokens. */
type Generate = (prompt: string, maxTokens: number) => Promise<number>;

interface Contender {
  readonly name: string;
  readonly levels: readonly number[];
  readonly start: () => Promise<{ readonly generate: Generate; readonly stop: () => Promise<void> }>;
}

export async function run(args: BenchArgs): Promise<BenchResult> {
  const rounds = args.quick ? 1 : ROUNDS;
  const levels = args.quick ? [1, 4, 32] : LEVELS;
  const maxTokens = args.quick ? 8 : MAX_TOKENS;
  const binary = findPeer(args, 'llama-server');
  const folder = mkdtempSync(join(tmpdir(), 'berth-concurrency-'));
  const rows: BenchRow[] = [];
  try {
    for (const { id, path, bar } of MODELS) {
      const contenders = contendersOf(path(), folder, levels, binary).filter(
        // A runner without a model computes nothing.
        ({ name }) => name !== 'ungated' || args.fake !== true,
      );
      const seen = new Map<string, number[]>();
      for (let round = 0; round < rounds; round++) {
        // Each is first in some round: what the machine does over time is nobody's advantage.
        const order = contenders.map((_, index) => contenders[(index + round) % contenders.length] as Contender);
        for (const { name, levels: own, start } of order) {
          const { generate, stop } = await start();
          try {
            // The same prompts for every contender, none of them twice.
            const prompts = Array.from({ length: 1000 }, (_, index) => promptOf(index));
            await tokensPerSecond(generate, prompts, Math.max(...own), 1, 4);
            for (const level of own) {
              const rate = await tokensPerSecond(generate, prompts, level, args.quick ? 1 : wavesFor(level), maxTokens);
              seen.set(`${name}|${level}`, [...(seen.get(`${name}|${level}`) ?? []), rate]);
            }
          } finally {
            await stop();
          }
        }
      }
      const rateOf = (name: string, level: number): number => median(seen.get(`${name}|${level}`) ?? []);
      for (const level of levels) {
        const what = { case: `${id}, ${level} in flight`, unit: 'tokens/s' };
        const berth = rateOf('berth', level);
        if (binary === null) rows.push({ ...what, metric: 'in all', berth });
        else rows.push({ ...what, metric: 'in all', ...atLeast(bar(level), berth, rateOf('llama-server', level)) });
        if (id !== 'smollm2' || !seen.has(`ungated|${level}`)) continue;
        rows.push({
          ...what,
          metric: 'added by slicing: against the ungated runner',
          ...atLeast(0.98, berth, rateOf('ungated', level)),
        });
      }
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return result('concurrency', rows, {
    rounds,
    peer: peerVersion(binary),
    threads: THREADS,
    parallel: PARALLEL,
    kvTokens: KV_TOKENS,
    tokens: maxTokens,
  });
}

function contendersOf(
  modelPath: string,
  folder: string,
  levels: readonly number[],
  binary: string | null,
): Contender[] {
  const berth: Contender = {
    name: 'berth',
    levels,
    start: async () =>
      served(
        await startBerth({
          config: {
            modelsDir: folder,
            device: { memory: '8GiB', lanes: THREADS },
            models: { busy: { source: modelPath, context: CONTEXT_TOKENS, parallel: PARALLEL, kv: KV_TOKENS } },
          },
        }),
      ),
  };
  const ungated: Contender = {
    name: 'ungated',
    levels: [UNGATED_LEVEL],
    start: async () => {
      const launch = { path: modelPath, contextTokens: CONTEXT_TOKENS, kvTokens: KV_TOKENS, parallel: PARALLEL };
      const runners = await openUngated([launch], THREADS);
      const [model] = runners.models;
      if (model === undefined) throw new Error('no model');
      return { generate: (prompt, maxTokens) => model.generate(prompt, maxTokens), stop: () => runners.close() };
    },
  };
  if (binary === null) return [berth, ungated];
  const peer: Contender = {
    name: 'llama-server',
    levels,
    start: async () =>
      served(
        await startLlamaServer({
          binary,
          modelPath,
          threads: THREADS,
          contextTokens: KV_TOKENS,
          parallel: PARALLEL,
        }),
      ),
  };
  return [berth, peer, ungated];
}

function served(server: Server): Awaited<ReturnType<Contender['start']>> {
  return {
    async generate(prompt, maxTokens) {
      const answer = await ask({ url: server.url, model: 'busy', prompt, maxTokens, extra: { ignore_eos: true } });
      if (answer.error !== null) throw new Error(`${server.name}: ${answer.error}`);
      return answer.outputTokens;
    },
    stop: () => server.stop(),
  };
}

const OPENINGS = ['Once upon a time', 'The sea was calm and', 'In the year 2050', 'My grandmother said'];
/** Short, and different from the first token on: what is measured is decoding, not a cache of earlier prompts. */
const promptOf = (index: number): string => `${101 + index * 7}. ${OPENINGS[index % OPENINGS.length]}`;

/** Output tokens of all streams over the time from the first request to the last answer, prompts included. */
async function tokensPerSecond(
  generate: Generate,
  prompts: string[],
  level: number,
  waves: number,
  maxTokens: number,
): Promise<number> {
  let tokens = 0;
  const started = performance.now();
  for (let wave = 0; wave < waves; wave++) {
    const streams = prompts.splice(0, level).map((prompt) => generate(prompt, maxTokens));
    tokens += (await Promise.all(streams)).reduce((sum, each) => sum + each, 0);
  }
  return tokens / ((performance.now() - started) / 1000);
}
