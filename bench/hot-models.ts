/**
 * Several busy models on one device: N copies of SmolLM2, four requests each, all at once. Aggregate decode throughput of a Berth
 * node in its one configuration, against llama-server's router with one and with two threads a model, and against the node's own
 * runners without the node. Every contender holds all models while some of them are busy; contenders take turns.
 */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { atLeast, findPeer, median, peerThreads, peerVersion, result } from './harness.ts';
import { ask } from './lib/client.ts';
import { deviceSeconds } from './lib/node-metrics.ts';
import type { Server } from './lib/servers.ts';
import { copyModels, startBerth, startRouter } from './lib/servers.ts';
import { openUngated } from './lib/ungated.ts';

const COUNTS = [1, 2, 4, 8];
/** Where taking turns is compared with leaving it to the kernel, and where the device's idle share is taken. */
const UNGATED_COUNTS = [4, 8];
const IDLE_COUNT = 4;
const STREAMS_A_MODEL = 4;
const ROUNDS = 3;
const CONTEXT_TOKENS = 512;
/** The node's own choice for this context. */
const KV_TOKENS = 2 * CONTEXT_TOKENS;
const LANES = 2;
/** Whoever needs longer for one case is cut off and counted by what had come. */
const CUT_SECONDS = 25;
/** A contender that made nothing before it was cut off counts as this many tokens/s in a mean of ratios. */
const LEAST_RATE = 0.1;

/** Tokens of each stream: a case lasts some seconds whatever the number of models. */
const tokensFor = (count: number): number => (count <= 2 ? 96 : count <= 4 ? 72 : 48);

export const about = 'tokens/s in all with 1, 2, 4, 8 busy models, against llama-server’s router and ungated runners';

interface Seen {
  /** Tokens a second of all streams together, prompts included in the time. */
  readonly rate: number;
  /** The first model to be done, as a share of the last one's time. */
  readonly evenness: number;
  /** Lane time in which nothing computed, as a share; null where nobody tells, or the work was cut off. */
  readonly idle: number | null;
}

interface Running {
  busy(count: number, maxTokens: number, cutSeconds: number): Promise<Seen>;
  stop(): Promise<void>;
}

interface Contender {
  readonly name: string;
  readonly counts: readonly number[];
  readonly start: () => Promise<Running>;
}

export async function run(args: BenchArgs): Promise<BenchResult> {
  const rounds = args.quick ? 1 : ROUNDS;
  const counts = args.quick ? [1, 4] : COUNTS;
  const cutSeconds = args.quick ? 1.5 : CUT_SECONDS;
  const folder = mkdtempSync(join(tmpdir(), 'berth-hot-'));
  const names = copyModels(folder, Math.max(...counts), [smollm2Path()], copyFileSync);
  const contenders = contendersOf(args, folder, names, counts);
  const seen = new Map<string, Seen[]>();
  try {
    for (let round = 0; round < rounds; round++) {
      // Each is first in some round: what the machine does over time is nobody's advantage.
      const order = contenders.map((_, index) => contenders[(index + round) % contenders.length] as Contender);
      for (const { name, counts: own, start } of order) {
        const running = await start();
        try {
          for (const count of own) {
            const tokens = args.quick ? 16 : tokensFor(count);
            const key = `${name}|${count}`;
            seen.set(key, [...(seen.get(key) ?? []), await running.busy(count, tokens, cutSeconds)]);
          }
        } finally {
          await running.stop();
        }
      }
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const peers = contenders.map(({ name }) => name).filter((name) => name.startsWith('router'));
  return result('hot-models', rowsOf(seen, counts, peers), {
    rounds,
    peer: peerVersion(findPeer(args, 'llama-server')),
    streams: STREAMS_A_MODEL,
    tokens: counts.map(tokensFor).join(', '),
    cutSeconds,
  });
}

function contendersOf(
  args: BenchArgs,
  folder: string,
  names: readonly string[],
  counts: readonly number[],
): Contender[] {
  const binary = findPeer(args, 'llama-server');
  const berth: Contender = {
    name: 'berth',
    counts,
    start: async () =>
      served(
        names,
        await startBerth({
          config: {
            modelsDir: folder,
            device: { memory: '12GiB', lanes: LANES },
            defaults: { context: CONTEXT_TOKENS, parallel: STREAMS_A_MODEL },
          },
        }),
      ),
  };
  const routers = peerThreads(args, binary).map(
    (threads): Contender => ({
      name: `router -t ${threads}`,
      counts,
      start: async () =>
        served(
          names,
          await startRouter({
            binary: binary as string,
            modelsDir: folder,
            modelsMax: 16,
            threads,
            contextTokens: CONTEXT_TOKENS * STREAMS_A_MODEL,
            parallel: STREAMS_A_MODEL,
          }),
        ),
    }),
  );
  if (args.fake === true) return [berth];
  const ungated: Contender = {
    name: 'ungated',
    counts: UNGATED_COUNTS.filter((count) => counts.includes(count)),
    start: () => alone(names.map((name) => join(folder, `${name}.gguf`))),
  };
  return [berth, ...routers, ungated];
}

const PROMPTS = ['Once upon a time', 'The sea was calm and', 'In the year 2050', 'My grandmother said'];

/** One stream of one model: what came of it and when it was done. */
interface Done {
  readonly model: number;
  readonly tokens: number;
  readonly millis: number;
}

async function allAtOnce(
  count: number,
  stream: (model: number, prompt: string) => Promise<Omit<Done, 'model'>>,
): Promise<Omit<Seen, 'idle'> & { readonly seconds: number }> {
  const started = performance.now();
  const models = Array.from({ length: count }, (_, model) => model);
  const done: Done[] = await Promise.all(
    models.flatMap((model) => PROMPTS.map(async (prompt) => ({ model, ...(await stream(model, prompt)) }))),
  );
  const seconds = (performance.now() - started) / 1000;
  const ends = models.map((model) =>
    Math.max(...done.filter((one) => one.model === model).map(({ millis }) => millis)),
  );
  const tokens = done.reduce((sum, one) => sum + one.tokens, 0);
  return { rate: tokens / seconds, evenness: Math.min(...ends) / Math.max(...ends), seconds };
}

/** A server with all models loaded, each warmed by a request. */
async function served(names: readonly string[], server: Server): Promise<Running> {
  const question = (model: string, prompt: string, maxTokens: number) =>
    ({ url: server.url, model, prompt, maxTokens, extra: { ignore_eos: true } }) as const;
  const idleSeconds = async (): Promise<number> => (server.adminUrl === null ? 0 : deviceSeconds(server.adminUrl));
  try {
    for (const model of names) {
      const { error } = await ask(question(model, PROMPTS[0] as string, 8));
      if (error !== null) throw new Error(`${server.name}: ${error}`);
    }
  } catch (error) {
    await server.stop();
    throw error;
  }
  return {
    async busy(count, maxTokens, cutSeconds) {
      const before = await idleSeconds();
      const signal = AbortSignal.timeout(cutSeconds * 1000);
      const { seconds, ...seen } = await allAtOnce(count, async (model, prompt) => {
        const answer = await ask({ ...question(names[model] as string, prompt, maxTokens), signal });
        if (answer.error !== null && !signal.aborted) throw new Error(`${server.name}: ${answer.error}`);
        // Both servers send a chunk for each token of such texts; the usage comes with the end.
        return {
          tokens: answer.error === null ? answer.outputTokens : answer.chunkMillis.length,
          millis: answer.totalMillis,
        };
      });
      const computed = (await idleSeconds()) - before;
      return { ...seen, idle: server.adminUrl === null || signal.aborted ? null : 1 - computed / (seconds * LANES) };
    },
    stop: () => server.stop(),
  };
}

/** The runners without the node, one thread each. */
async function alone(paths: readonly string[]): Promise<Running> {
  const launches = paths.map((path) => ({
    path,
    contextTokens: CONTEXT_TOKENS,
    kvTokens: KV_TOKENS,
    parallel: STREAMS_A_MODEL,
  }));
  const ungated = await openUngated(launches, 1);
  const { models } = ungated;
  for (const model of models) await model.generate(PROMPTS[0] as string, 8);
  return {
    async busy(count, maxTokens) {
      const { rate, evenness } = await allAtOnce(count, async (model, prompt) => {
        const started = performance.now();
        const tokens = (await models[model]?.generate(prompt, maxTokens)) ?? 0;
        return { tokens, millis: performance.now() - started };
      });
      return { rate, evenness, idle: null };
    },
    stop: () => ungated.close(),
  };
}

function rowsOf(
  seen: ReadonlyMap<string, readonly Seen[]>,
  counts: readonly number[],
  peers: readonly string[],
): BenchRow[] {
  const at = (name: string, count: number): readonly Seen[] => seen.get(`${name}|${count}`) ?? [];
  const rateOf = (name: string, count: number): number => median(at(name, count).map(({ rate }) => rate));
  const rows: BenchRow[] = [];
  for (const count of counts) {
    const berth = rateOf('berth', count);
    const what = { case: `${count} busy model${count === 1 ? '' : 's'}`, unit: 'tokens/s' };
    for (const name of peers) {
      const peer = rateOf(name, count);
      rows.push({ ...what, metric: `in all, peer ${name}`, berth, peer, ratio: berth / peer });
    }
    if (peers.length === 0) rows.push({ ...what, metric: 'in all', berth });
    else {
      const best = Math.max(...peers.map((name) => rateOf(name, count)));
      rows.push({ ...what, metric: 'in all, better of the two', ...atLeast(1.1, berth, best) });
    }
    if (at('ungated', count).length > 0) {
      const ungated = rateOf('ungated', count);
      rows.push({ ...what, metric: 'scheduling costs: against ungated runners', ...atLeast(0.98, berth, ungated) });
    }
    if (count === IDLE_COUNT) {
      const idle = 100 * median(at('berth', count).flatMap((one) => one.idle ?? []));
      rows.push({
        ...what,
        metric: 'device idle while work waits',
        unit: '%',
        berth: idle,
        bar: '< 2',
        pass: idle < 2,
      });
    }
    rows.push({
      ...what,
      unit: '',
      metric: 'first model done / last',
      berth: median(at('berth', count).map(({ evenness }) => evenness)),
    });
  }
  for (const name of peers) {
    const logs = counts.reduce(
      (sum, count) => sum + Math.log(rateOf('berth', count) / Math.max(LEAST_RATE, rateOf(name, count))),
      0,
    );
    const ratio = Math.exp(logs / counts.length);
    rows.push({
      case: 'geometric mean',
      metric: `against ${name}`,
      unit: '×',
      berth: ratio,
      bar: '≥ 1.4',
      pass: ratio >= 1.4,
    });
  }
  return rows;
}
