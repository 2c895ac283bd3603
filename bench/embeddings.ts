/**
 * Short texts, each a request of its own, through /v1/embeddings on SmolLM2: texts a second with 64 in flight, against llama-server
 * at the best of several batch shapes. And what the window in which embeddings wait for company does, with 64 in flight and with
 * eight, where the next texts come while none is computed.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { atLeast, findPeer, median, peerVersion, percentile, result } from './harness.ts';
import { embed, inFlight } from './lib/client.ts';
import type { Server } from './lib/servers.ts';
import { startBerth, startLlamaServer } from './lib/servers.ts';

const IN_FLIGHT = 64;
const FEW_IN_FLIGHT = 8;
const TEXTS = 128;
const ROUNDS = 3;
const THREADS = 2;
const WINDOWS_MILLIS = [0, 1, 3, 10];
/** The window that a model has if nobody says otherwise. */
const DEFAULT_WINDOW_MILLIS = 3;
/** What llama-server is tried with: sequences at once, and tokens in a decode. */
const PEER_SHAPES = [
  { parallel: 16, batchTokens: 512 },
  { parallel: 32, batchTokens: 512 },
  { parallel: 64, batchTokens: 512 },
  { parallel: 64, batchTokens: 2048 },
];
type Shape = (typeof PEER_SHAPES)[number];
/** Room of a sequence: far more than a text. */
const SEQUENCE_TOKENS = 256;

export const about = 'embeddings/s of short texts, against llama-server, and what the window does';

export async function run(args: BenchArgs): Promise<BenchResult> {
  const rounds = args.quick ? 1 : ROUNDS;
  const texts = textsOf(args.quick ? 64 : TEXTS);
  const folder = mkdtempSync(join(tmpdir(), 'berth-embeddings-'));
  const binary = findPeer(args, 'llama-server');
  try {
    const shape =
      binary === null ? null : await bestShape(binary, texts, args.quick ? PEER_SHAPES.slice(0, 1) : PEER_SHAPES);
    const rates = { berth: [] as number[], peer: [] as number[] };
    const windows = new Map<string, Seen[]>();
    let likeness = Number.NaN;
    for (let round = 0; round < rounds; round++) {
      const peer = async (): Promise<number[]> => {
        if (binary === null || shape === null) return [];
        return using(await startShape(binary, shape), async (server) => {
          await throughput(server, 'm', texts.slice(0, IN_FLIGHT), IN_FLIGHT);
          rates.peer.push((await throughput(server, 'm', texts, IN_FLIGHT)).rate);
          return (await embed(server.url, 'm', texts[0] as string)).vector as number[];
        });
      };
      const berth = async (): Promise<number[]> =>
        using(await startWindows(folder), async (server) => {
          const measured = args.quick ? [DEFAULT_WINDOW_MILLIS] : WINDOWS_MILLIS;
          for (const window of [...measured.slice(round), ...measured.slice(0, round)]) {
            await throughput(server, nameOf(window), texts.slice(0, IN_FLIGHT), IN_FLIGHT);
            for (const most of [IN_FLIGHT, FEW_IN_FLIGHT]) {
              const seen = await throughput(server, nameOf(window), texts, most);
              const key = `${window}|${most}`;
              windows.set(key, [...(windows.get(key) ?? []), seen]);
              if (window === DEFAULT_WINDOW_MILLIS && most === IN_FLIGHT) rates.berth.push(seen.rate);
            }
          }
          return (await embed(server.url, nameOf(DEFAULT_WINDOW_MILLIS), texts[0] as string)).vector as number[];
        });
      const isBerthFirst = round % 2 === 0;
      const first = await (isBerthFirst ? berth : peer)();
      const second = await (isBerthFirst ? peer : berth)();
      likeness = cosine(first, second);
    }
    return result('embeddings', rowsOf(rates, windows, likeness), {
      rounds,
      peer: peerVersion(binary),
      peerShape: shape === null ? null : `-np ${shape.parallel} -b ${shape.batchTokens} -ub ${shape.batchTokens}`,
      texts: texts.length,
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

interface Seen {
  /** Texts a second. */
  readonly rate: number;
  readonly p50Millis: number;
}

async function throughput(server: Server, model: string, texts: readonly string[], most: number): Promise<Seen> {
  const started = performance.now();
  const answers = await inFlight(
    most,
    texts.map((text) => () => embed(server.url, model, text)),
  );
  const seconds = (performance.now() - started) / 1000;
  const millis = answers.map((answer) => answer.millis);
  return { rate: texts.length / seconds, p50Millis: percentile(millis, 50) };
}

async function using<T>(server: Server, work: (server: Server) => Promise<T>): Promise<T> {
  try {
    return await work(server);
  } finally {
    await server.stop();
  }
}

const nameOf = (window: number): string => `window-${window}`;

/** One file under several names, each with another window. */
const startWindows = (folder: string): Promise<Server> =>
  startBerth({
    config: {
      modelsDir: folder,
      device: { memory: '8GiB', lanes: THREADS },
      defaults: { context: SEQUENCE_TOKENS },
      models: Object.fromEntries(
        WINDOWS_MILLIS.map((window) => [nameOf(window), { source: smollm2Path(), embedWindow: `${window}ms` }]),
      ),
    },
  });

const startShape = (binary: string, { parallel, batchTokens }: Shape): Promise<Server> =>
  startLlamaServer({
    binary,
    modelPath: smollm2Path(),
    threads: THREADS,
    contextTokens: parallel * SEQUENCE_TOKENS,
    parallel,
    extra: ['--embedding', '--pooling', 'mean', '--batch-size', `${batchTokens}`, '--ubatch-size', `${batchTokens}`],
  });

async function bestShape(binary: string, texts: readonly string[], shapes: readonly Shape[]): Promise<Shape> {
  const tried: { readonly shape: Shape; readonly rate: number }[] = [];
  for (const shape of shapes) {
    if (shapes.length === 1) return shape;
    await using(await startShape(binary, shape), async (server) => {
      await throughput(server, 'm', texts.slice(0, IN_FLIGHT), IN_FLIGHT);
      tried.push({ shape, rate: (await throughput(server, 'm', texts, IN_FLIGHT)).rate });
    });
  }
  const best = tried.toSorted((a, b) => b.rate - a.rate)[0];
  if (best === undefined) throw new Error('no shape to try');
  return best.shape;
}

const SUBJECTS = ['The harbour', 'A small engine', 'My neighbour', 'The winter sea', 'An old clock', 'The night train'];
const VERBS = ['waits for', 'remembers', 'is afraid of', 'carries', 'has never seen', 'belongs to'];
const OBJECTS = ['the first ships of spring', 'a letter', 'the long road north', 'two red apples', 'the lighthouse'];

/** Some ten tokens each, no two alike. */
const textsOf = (count: number): string[] =>
  Array.from({ length: count }, (_, index) => {
    const pick = (words: readonly string[], by: number): string =>
      words[Math.floor(index / by) % words.length] as string;
    return `${pick(SUBJECTS, 1)} ${pick(VERBS, 6)} ${pick(OBJECTS, 36)}, ${index}.`;
  });

function cosine(a: readonly number[], b: readonly number[]): number {
  if (a.length === 0 || a.length !== b.length) return Number.NaN;
  const dot = (x: readonly number[], y: readonly number[]): number =>
    x.reduce((sum, value, index) => sum + value * (y[index] as number), 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

function rowsOf(
  rates: { readonly berth: readonly number[]; readonly peer: readonly number[] },
  windows: ReadonlyMap<string, readonly Seen[]>,
  likeness: number,
): BenchRow[] {
  const what = { case: `${IN_FLIGHT} in flight`, metric: 'embeddings', unit: 'texts/s' };
  const berth = median(rates.berth);
  const rows: BenchRow[] = [];
  if (rates.peer.length === 0) rows.push({ ...what, berth });
  else {
    rows.push({ ...what, ...atLeast(1, berth, median(rates.peer)) });
    rows.push({
      case: 'one text',
      metric: 'cosine with the peer’s vector',
      unit: '',
      berth: likeness,
      bar: '≥ 0.99',
      pass: likeness >= 0.99,
    });
  }
  for (const most of [IN_FLIGHT, FEW_IN_FLIGHT]) {
    for (const window of WINDOWS_MILLIS) {
      const seen = windows.get(`${window}|${most}`);
      if (seen === undefined) continue;
      const own = { case: `${most} in flight, window ${window} ms` };
      rows.push({ ...own, metric: 'embeddings', unit: 'texts/s', berth: median(seen.map(({ rate }) => rate)) });
      rows.push({ ...own, metric: 'latency p50', unit: 'ms', berth: median(seen.map((one) => one.p50Millis)) });
    }
  }
  return rows;
}
