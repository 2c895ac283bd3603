/**
 * Does the simulator say what will happen on this machine? A node's journal of some requests gives the costs (`berth profile`); with them
 * the over-commit benchmark is simulated, and then really run on a new node. Neither run sees the other.
 */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SECOND } from '../src/core/ids.ts';
import { readJournal } from '../src/runtime/journal.ts';
import type { Arrival } from '../src/sim/arrivals.ts';
import { profileOf, profileSetting } from '../src/sim/profile.ts';
import { replay } from '../src/sim/replay.ts';
import type { SimResult } from '../src/sim/simulate.ts';
import { simulate } from '../src/sim/simulate.ts';
import { gemmaPath, smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { percentile, result } from './harness.ts';
import type { Answer } from './lib/client.ts';
import { ask, inFlight } from './lib/client.ts';
import { copyModels, startBerth } from './lib/servers.ts';
import { config, measureLargest, question, zipfOrder } from './overcommit.ts';

export const about = 'the over-commit benchmark, predicted by the simulator from a journal, then measured';

const MODELS = 12;
const FIT = 4;
const IN_FLIGHT = 8;
const OUTPUT_TOKENS = 32;

interface Ran {
  readonly answers: readonly Answer[];
  readonly seconds: number;
}

export async function run({ quick }: BenchArgs): Promise<BenchResult> {
  const requests = quick ? 40 : 200;
  const folder = mkdtempSync(join(tmpdir(), 'berth-predict-'));
  const journal = join(folder, 'journal.jsonl');
  try {
    const names = copyModels(folder, MODELS, [smollm2Path(), gemmaPath()], copyFileSync);
    const largest = await measureLargest(folder, names.slice(0, 2));
    const budgetBytes = FIT * largest.largestBytes + largest.overheadBytes;
    const order = zipfOrder(names, requests);
    const sample = zipfOrder(names, 2 * requests).slice(requests);
    const profiled = await load(folder, budgetBytes, sample, journal);
    const entries = await readJournal(journal);
    const predicted = predict(order, entries, profiled);
    const measured = await load(folder, budgetBytes, order);
    return result('simulate-predict', [...rowsOf(predicted, measured), replayed(entries)], { requests, budgetBytes });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function load(folder: string, budgetBytes: number, order: readonly string[], journal?: string): Promise<Ran> {
  const server = await startBerth({
    config: config(folder, `${budgetBytes}`),
    ...(journal === undefined ? {} : { journal }),
  });
  try {
    const started = performance.now();
    const answers = await inFlight(
      IN_FLIGHT,
      order.map((model, index) => () => ask(question(server, model, index))),
    );
    return { answers, seconds: (performance.now() - started) / 1000 };
  } finally {
    await server.stop();
  }
}

function predict(
  order: readonly string[],
  entries: Awaited<ReturnType<typeof readJournal>>,
  { answers }: Ran,
): SimResult {
  const promptTokens = Math.max(
    1,
    Math.round(
      percentile(
        answers.map((answer) => answer.promptTokens),
        50,
      ),
    ),
  );
  const lengths = { promptTokens, outputTokens: OUTPUT_TOKENS, maxTokens: OUTPUT_TOKENS };
  const arrivals = order.map((model): Arrival => ({ at: 0, model, tenant: 'default', ...lengths }));
  const setting = profileSetting(profileOf(entries), { ttftMicros: 2 * SECOND, tpotMicros: SECOND / 5 });
  return simulate(arrivals, { ...setting, inFlight: IN_FLIGHT });
}

function rowsOf(predicted: SimResult, { answers, seconds }: Ran): BenchRow[] {
  const ttft = answers.map(({ ttftMillis }) => ttftMillis);
  const tokens = answers.reduce((sum, { outputTokens }) => sum + outputTokens, 0);
  const said = (metric: string, unit: string, is: number, really: number, within: number): BenchRow => ({
    case: `${MODELS} models, memory for ${FIT}, predicted`,
    metric: `${metric}, peer measured`,
    unit,
    berth: is,
    peer: really,
    ratio: is / really,
    bar: `within ${within} %`,
    pass: Math.abs(is / really - 1) <= within / 100,
  });
  const simulated = (answers.length * OUTPUT_TOKENS * 1e6) / predicted.makespanMicros;
  return [
    said('TTFT p50', 'ms', predicted.ttft.p50 / 1e3, percentile(ttft, 50), 15),
    said('TTFT p95', 'ms', predicted.ttft.p95 / 1e3, percentile(ttft, 95), 25),
    said('output', 'tokens/s', simulated, tokens / seconds, 15),
  ];
}

const replayed = (entries: Awaited<ReturnType<typeof readJournal>>): BenchRow => {
  const index = replay(entries)?.index ?? -1;
  return {
    case: 'the journal, replayed in the simulator',
    metric: 'decisions alike',
    unit: `of ${entries.length}`,
    berth: index < 0 ? entries.length : index,
    bar: 'all',
    pass: index < 0,
  };
};
