/**
 * Twelve models on a device with room for four: 200 requests by Zipf(1.0), eight in flight. Every request must be answered, and
 * correctly by model: each answer is compared with the one that the same model gave alone. The memory of all processes below the
 * node is sampled by the bench itself.
 */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gemmaPath, smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { percentile, result } from './harness.ts';
import type { Answer, StreamToken } from './lib/client.ts';
import { ask, inFlight } from './lib/client.ts';
import { heldBytes } from './lib/node-admin.ts';
import { watchMemory } from './lib/processes.ts';
import type { Server } from './lib/servers.ts';
import { copyModels, startBerth } from './lib/servers.ts';

const MODELS = 12;
const FIT = 4;
const REQUESTS = 200;
const IN_FLIGHT = 8;
const MAX_TOKENS = 32;
const CONTEXT_TOKENS = 1024;

export const about = '12 models, memory for 4, 200 requests by Zipf(1.0), 8 in flight';

export async function run(args: BenchArgs): Promise<BenchResult> {
  const requests = args.quick ? 40 : REQUESTS;
  const folder = mkdtempSync(join(tmpdir(), 'berth-overcommit-'));
  const names = copyModels(folder, MODELS, [smollm2Path(), gemmaPath()], copyFileSync);
  let berth: Server | null = null;
  try {
    const largest = await measureLargest(folder, names.slice(0, 2));
    const budgetBytes = FIT * largest.largestBytes + largest.overheadBytes;
    berth = await startBerth({ config: config(folder, `${budgetBytes}`) });
    const alone = await answersAlone(berth, names);
    const memory = watchMemory(berth.pid);
    const started = performance.now();
    const order = zipfOrder(names, requests);
    const server = berth;
    const answers = await inFlight(
      IN_FLIGHT,
      order.map((model, index) => () => ask(question(server, model, index))),
    );
    const seconds = (performance.now() - started) / 1000;
    memory.stop();
    return result(
      'overcommit',
      rowsOf(answers, alone, { seconds, budgetBytes, peakBytes: memory.peakBytes, samples: memory.samples }),
      { requests, budgetBytes },
    );
  } finally {
    await berth?.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

export const config = (modelsDir: string, memory: string): Record<string, unknown> => ({
  modelsDir,
  device: { memory, lanes: 2 },
  defaults: { context: CONTEXT_TOKENS, parallel: 4 },
});

const PROMPTS = ['The capital of France is', 'Once upon a time', 'Water boils at'];
export const question = (server: Server, model: string, index: number): Parameters<typeof ask>[0] => ({
  url: server.url,
  model,
  prompt: PROMPTS[index % PROMPTS.length] as string,
  maxTokens: MAX_TOKENS,
  extra: { ignore_eos: true },
});

/** What the larger of the two models takes on this machine, and what the node holds beside models. */
export async function measureLargest(folder: string, names: readonly string[]): ReturnType<typeof heldBytes> {
  const server = await startBerth({ config: config(folder, '4GiB') });
  try {
    for (const model of names) await ask(question(server, model, 0));
    return await heldBytes(server);
  } finally {
    await server.stop();
  }
}

/** What each model says to each prompt with the device to itself, and how likely the next best tokens were. */
async function answersAlone(server: Server, names: readonly string[]): Promise<Map<string, Answer>> {
  const alone = new Map<string, Answer>();
  for (const model of names.slice(0, 2)) {
    for (const [index, prompt] of PROMPTS.entries()) {
      const asked = question(server, model, index);
      alone.set(`${model}|${prompt}`, await ask({ ...asked, extra: { ...asked.extra, logprobs: 5 } }));
    }
  }
  return alone;
}

/** Zipf(1.0) by a fixed seed: the rank of a model is its place in the list. */
export function zipfOrder(names: readonly string[], count: number): string[] {
  const weights = names.map((_, rank) => 1 / (rank + 1));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let seed = 42;
  const random = (): number => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return seed / 2 ** 32;
  };
  return Array.from({ length: count }, () => {
    let left = random() * total;
    return names[weights.findIndex((weight) => (left -= weight) < 0)] ?? (names.at(-1) as string);
  });
}

/**
 * Batches of other shapes round differently, and move the gap between the two likeliest tokens by up to so much (nats; measured by
 * kv-exact): where that is larger than the gap, texts of one model may part.
 */
const NEAR_TIE_NATS = 0.5;

/** How much less likely than its own the model alone found the token with which `text` parts from what it said; 0: nowhere. */
export function partingGap(text: string, alone: readonly StreamToken[]): number {
  let rest = text;
  for (const token of alone) {
    if (rest.startsWith(token.text)) {
      rest = rest.slice(token.text.length);
      continue;
    }
    const others = Object.entries(token.top).filter(([other]) => other !== '' && rest.startsWith(other));
    return token.logprob - Math.max(-Infinity, ...others.map(([, logprob]) => logprob));
  }
  return rest === '' ? 0 : Infinity;
}

/** Copies of one model say the same: nats by which an answer parts from what its model said alone. */
function gapOf(answer: Answer, index: number, alone: ReadonlyMap<string, Answer>): number {
  const original = Number(answer.model.slice(1)) % 2 === 1 ? 'm01' : 'm02';
  const expected = alone.get(`${original}|${PROMPTS[index % PROMPTS.length]}`);
  if (expected === undefined) throw new Error(`${original} was not asked alone`);
  const gap = answer.error === null ? partingGap(answer.text, expected.tokens) : Infinity;
  // Whoever reads the row must be able to tell a near-tie from a stranger's words.
  if (gap > NEAR_TIE_NATS)
    console.error(`${answer.model} said ${JSON.stringify(answer.text)}; alone ${JSON.stringify(expected.text)}`);
  return gap;
}

interface Run {
  readonly seconds: number;
  readonly budgetBytes: number;
  readonly peakBytes: number;
  readonly samples: number;
}

function rowsOf(answers: readonly Answer[], alone: ReadonlyMap<string, Answer>, run: Run): BenchRow[] {
  const what = { case: `${MODELS} models, memory for ${FIT}` };
  const answered = answers.filter(({ error, status }) => error === null && status === 200).length;
  const gaps = answers.map((answer, index) => gapOf(answer, index, alone));
  const right = gaps.filter((gap) => gap <= NEAR_TIE_NATS).length;
  const parted = gaps.filter((gap) => gap > 0 && gap <= NEAR_TIE_NATS);
  const ttft = answers.map(({ ttftMillis }) => ttftMillis);
  const tokens = answers.reduce((sum, { outputTokens }) => sum + outputTokens, 0);
  const mib = (bytes: number): number => Math.round(bytes / 1024 / 1024);
  return [
    {
      ...what,
      metric: 'requests answered',
      unit: `of ${answers.length}`,
      berth: answered,
      bar: 'all',
      pass: answered === answers.length,
    },
    {
      ...what,
      metric: 'answers that are the model’s own',
      unit: `of ${answers.length}`,
      berth: right,
      bar: 'all',
      pass: right === answers.length,
    },
    { ...what, metric: 'of these, parted at a near-tie', unit: `of ${answers.length}`, berth: parted.length },
    { ...what, metric: 'the widest of these gaps', unit: 'nats', berth: Math.max(0, ...parted) },
    {
      ...what,
      metric: `peak memory of all runners (${run.samples} samples)`,
      unit: 'MiB',
      berth: mib(run.peakBytes),
      bar: `≤ ${mib(run.budgetBytes)}`,
      pass: run.peakBytes <= run.budgetBytes,
    },
    { ...what, metric: 'TTFT p50', unit: 'ms', berth: percentile(ttft, 50) },
    { ...what, metric: 'TTFT p95', unit: 'ms', berth: percentile(ttft, 95) },
    { ...what, metric: 'TTFT p99', unit: 'ms', berth: percentile(ttft, 99) },
    { ...what, metric: 'output', unit: 'tokens/s', berth: tokens / run.seconds },
  ];
}
