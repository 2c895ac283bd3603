/**
 * Several busy models on one device: N copies of SmolLM2, four requests each, all at once. Aggregate decode throughput of a Berth
 * node in its one configuration, against llama-server's router with one and with two threads a model, interleaved.
 */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { findPeer, median, peerVersion, result } from './harness.ts';
import type { Answer } from './lib/client.ts';
import { ask } from './lib/client.ts';
import type { Server } from './lib/servers.ts';
import { copyModels, startBerth, startRouter } from './lib/servers.ts';

const COUNTS = [1, 2, 4, 8];
const STREAMS_A_MODEL = 4;
const MAX_TOKENS = 96;
const ROUNDS = 3;
const CONTEXT_TOKENS = 512;

export const about = 'tokens/s in all with 1, 2, 4, 8 busy models, against llama-server’s router';

interface Contender {
  readonly name: string;
  readonly start: () => Promise<Server>;
}

export async function run(args: BenchArgs): Promise<BenchResult> {
  const rounds = args.quick ? 1 : ROUNDS;
  const folder = mkdtempSync(join(tmpdir(), 'berth-hot-'));
  const names = copyModels(folder, Math.max(...COUNTS), [smollm2Path()], copyFileSync);
  const binary = findPeer(args, 'llama-server');
  const contenders: Contender[] = [
    {
      name: 'berth',
      start: () =>
        startBerth({
          config: {
            modelsDir: folder,
            device: { memory: '12GiB', lanes: 2 },
            defaults: { context: CONTEXT_TOKENS, parallel: STREAMS_A_MODEL },
          },
        }),
    },
  ];
  for (const threads of binary === null ? [] : [1, 2]) {
    contenders.push({
      name: `router -t ${threads}`,
      start: () =>
        startRouter({
          binary: binary as string,
          modelsDir: folder,
          modelsMax: 16,
          threads,
          contextTokens: CONTEXT_TOKENS * STREAMS_A_MODEL,
          parallel: STREAMS_A_MODEL,
        }),
    });
  }
  const seen = new Map<string, number[]>();
  const spread = new Map<string, number[]>();
  try {
    for (let round = 0; round < rounds; round++) {
      for (const count of COUNTS) {
        for (const { name, start } of contenders) {
          const server = await start();
          try {
            const { rate, unevenness } = await busy(server, names.slice(0, count));
            const key = `${name}|${count}`;
            seen.set(key, [...(seen.get(key) ?? []), rate]);
            spread.set(key, [...(spread.get(key) ?? []), unevenness]);
          } finally {
            await server.stop();
          }
        }
      }
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const rateOf = (name: string, count: number): number => median(seen.get(`${name}|${count}`) ?? []);
  const peers = contenders.slice(1).map(({ name }) => name);
  const rows: BenchRow[] = [];
  for (const count of COUNTS) {
    const berth = rateOf('berth', count);
    const what = { case: `${count} busy models`, unit: 'tokens/s' };
    const best = Math.max(...peers.map((name) => rateOf(name, count)));
    for (const name of peers) {
      const peer = rateOf(name, count);
      rows.push({ ...what, metric: `in all, peer ${name}`, berth, peer, ratio: berth / peer });
    }
    if (peers.length === 0) rows.push({ ...what, metric: 'in all', berth });
    else {
      const ratio = berth / best;
      rows.push({
        ...what,
        metric: 'in all, better of the two',
        berth,
        peer: best,
        ratio,
        bar: '≥ 1.1',
        pass: ratio >= 1.1,
      });
    }
    rows.push({
      ...what,
      unit: '',
      metric: 'slowest / fastest model',
      berth: median(spread.get(`berth|${count}`) ?? []),
    });
  }
  for (const name of peers) {
    const product = COUNTS.reduce((sum, count) => sum + Math.log(rateOf('berth', count) / rateOf(name, count)), 0);
    const ratio = Math.exp(product / COUNTS.length);
    rows.push({
      case: 'geometric mean',
      metric: `against ${name}`,
      unit: '×',
      berth: ratio,
      bar: '≥ 1.4',
      pass: ratio >= 1.4,
    });
  }
  return result('hot-models', rows, { rounds, peer: peerVersion(binary), streams: STREAMS_A_MODEL, tokens: MAX_TOKENS });
}

/** Loads all models, then streams from all at once; the rate counts from the first token of all to the last. */
async function busy(server: Server, models: readonly string[]): Promise<{ rate: number; unevenness: number }> {
  for (const model of models) await ask(question(server, model, 0, 2));
  const started = performance.now();
  const answers = await Promise.all(
    models.flatMap((model) =>
      Array.from({ length: STREAMS_A_MODEL }, (_, index) => ask(question(server, model, index, MAX_TOKENS))),
    ),
  );
  const seconds = (performance.now() - started) / 1000;
  const failed = answers.find(({ error }) => error !== null);
  if (failed !== undefined) throw new Error(`${server.name}: ${failed.error}`);
  const tokens = answers.reduce((sum, { outputTokens }) => sum + outputTokens, 0);
  const done = models.map((model) =>
    Math.max(...answers.filter((answer: Answer) => answer.model === model).map(({ totalMillis }) => totalMillis)),
  );
  return { rate: tokens / seconds, unevenness: Math.min(...done) / Math.max(...done) };
}

const PROMPTS = ['Once upon a time', 'The sea was calm and', 'In the year 2050', 'My grandmother said'];
const question = (server: Server, model: string, index: number, maxTokens: number): Parameters<typeof ask>[0] => ({
  url: server.url,
  model,
  prompt: PROMPTS[index % PROMPTS.length] as string,
  maxTokens,
  extra: { ignore_eos: true },
});
