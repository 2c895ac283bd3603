/**
 * Engines of two kinds on one device: two llama.cpp models and one of vLLM, each with its own streams, first each alone, then all
 * together on two lanes. Does anybody starve, what does each keep of its pace, and do the books still balance? Needs vLLM.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { gemmaPath, smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { percentile, result } from './harness.ts';
import { balanceRow, readBooks } from './lib/books.ts';
import type { Answer } from './lib/client.ts';
import { ask } from './lib/client.ts';
import type { Server } from './lib/servers.ts';
import { startBerth } from './lib/servers.ts';
import { settled } from './lib/tenants.ts';
import { findVllm } from './lib/vllm.ts';

const LANES = 2;
const STREAMS = 2;
const TOKENS = 48;
const FULL = { alone: 20, together: 90 };
const QUICK = { alone: 3, together: 6 };
/** Longest that a stream may wait for its next token while three models share two lanes. */
const GAP_BAR_MILLIS = 2_000;

export const about = 'two llama.cpp models and one of vLLM together: nobody starves, the books balance';

const NAMES = ['smollm2', 'gemma', 'vllm'] as const;
type Name = (typeof NAMES)[number];

export async function run(args: BenchArgs): Promise<BenchResult> {
  const seconds = args.quick ? QUICK : FULL;
  const vllm = args.fake === true ? null : findVllm(args);
  if (vllm === null && args.fake !== true) throw new Error('this benchmark needs vLLM');
  const shared = { context: 1024, parallel: 4 };
  const server = await startBerth({
    config: {
      device: { memory: '8GiB', lanes: LANES },
      residency: { keepAlive: -1 },
      models: [
        { id: 'smollm2', source: smollm2Path(), ...shared },
        { id: 'gemma', source: gemmaPath(), ...shared },
        {
          id: 'vllm',
          source: vllm?.modelPath ?? smollm2Path(),
          ...shared,
          ...(vllm === null ? {} : { engine: 'vllm' }),
        },
      ],
    },
    ...(vllm !== null && { env: { BERTH_VLLM: vllm.program } }),
  });
  try {
    for (const model of NAMES) {
      const { error } = await ask({ ...question(server, model, 'Hello'), maxTokens: 4 });
      if (error !== null) throw new Error(`${model}: ${error}`);
    }
    const alone = new Map<Name, Played>();
    for (const model of NAMES) alone.set(model, (await play(server, [model], seconds.alone)).get(model) as Played);
    await settled(server);
    const before = await booksOf(server);
    const together = await play(server, NAMES, seconds.together);
    await settled(server);
    const after = await booksOf(server);
    const rows = [...NAMES.flatMap((model) => rowsOf(model, alone, together)), ...balance(before, after)];
    return result('mixed', rows, { lanes: LANES, streams: STREAMS, tokens: TOKENS, seconds: seconds.together });
  } finally {
    await server.stop();
  }
}

const question = (server: Server, model: string, prompt: string): Parameters<typeof ask>[0] => ({
  url: server.url,
  model,
  prompt,
  maxTokens: TOKENS,
  extra: { ignore_eos: true },
});

interface Played {
  readonly answers: readonly Answer[];
  readonly seconds: number;
}

/** Closed loops of streams on each of these models, for so long; what is under way then may end. */
async function play(server: Server, models: readonly Name[], seconds: number): Promise<Map<Name, Played>> {
  const stop = new AbortController();
  const started = performance.now();
  const played = models.map(async (model): Promise<[Name, Played]> => {
    const answers: Answer[] = [];
    const loop = async (stream: number): Promise<void> => {
      for (let turn = 0; !stop.signal.aborted; turn++) {
        const answer = await ask(question(server, model, `Part ${stream}, chapter ${turn}: the harbour at dawn and`));
        if (answer.error !== null) throw new Error(`${model}: ${answer.error}`);
        answers.push(answer);
      }
    };
    await Promise.all(Array.from({ length: STREAMS }, (_, stream) => loop(stream)));
    return [model, { answers, seconds: (performance.now() - started) / 1000 }];
  });
  const all = Promise.all(played);
  all.catch(() => {});
  await Promise.race([pause(seconds * 1000), all]);
  stop.abort();
  return new Map(await all);
}

const rateOf = ({ answers, seconds }: Played): number =>
  answers.reduce((sum, { outputTokens }) => sum + outputTokens, 0) / seconds;
const gapsOf = ({ chunkMillis }: Answer): number[] =>
  chunkMillis.slice(1).map((at, index) => at - (chunkMillis[index] as number));

function rowsOf(model: Name, alone: ReadonlyMap<Name, Played>, together: ReadonlyMap<Name, Played>): BenchRow[] {
  const [own, shared] = [alone.get(model) as Played, together.get(model) as Played];
  const what = { case: model === 'vllm' ? 'vLLM, SmolLM2' : `llama.cpp, ${model}` };
  const ttft = shared.answers.map(({ ttftMillis }) => ttftMillis);
  const gaps = shared.answers.flatMap(gapsOf);
  const longest = Math.max(...gaps);
  return [
    {
      ...what,
      metric: 'tokens a second together, peer: alone',
      unit: 'tok/s',
      berth: rateOf(shared),
      peer: rateOf(own),
      ratio: rateOf(shared) / rateOf(own),
    },
    { ...what, metric: 'time to first token p50', unit: 'ms', berth: percentile(ttft, 50) },
    { ...what, metric: 'time to first token p95', unit: 'ms', berth: percentile(ttft, 95) },
    { ...what, metric: 'between tokens p99', unit: 'ms', berth: percentile(gaps, 99) },
    {
      ...what,
      metric: 'between tokens, longest: nobody starves',
      unit: 'ms',
      berth: longest,
      bar: `≤ ${GAP_BAR_MILLIS}`,
      pass: longest <= GAP_BAR_MILLIS,
    },
  ];
}

interface Books {
  readonly at: number;
  readonly laneSeconds: number;
  readonly compute: ReadonlyMap<string, number>;
}

async function booksOf(server: Server): Promise<Books> {
  const { sums, at } = await readBooks(server, ['kind', 'model']);
  const compute = new Map<string, number>();
  let laneSeconds = 0;
  for (const { kind, model, laneMicros } of sums) {
    if (kind === 'request') continue;
    laneSeconds += laneMicros / 1e6;
    if (kind === 'compute') compute.set(model ?? '', (compute.get(model ?? '') ?? 0) + laneMicros / 1e6);
  }
  return { at, laneSeconds, compute };
}

function balance(before: Books, after: Books): BenchRow[] {
  const wall = (LANES * (after.at - before.at)) / 1000;
  const what = { case: 'the books' };
  return [
    balanceRow(what.case, after.laneSeconds - before.laneSeconds, wall),
    ...NAMES.map((model) => ({
      ...what,
      metric: `of it computed by ${model}`,
      unit: '%',
      berth: (100 * ((after.compute.get(model) ?? 0) - (before.compute.get(model) ?? 0))) / wall,
    })),
  ];
}
