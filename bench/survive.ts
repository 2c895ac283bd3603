/**
 * Streams whose engine dies: 200 times the model's runner is killed with SIGKILL at a random moment of a stream, while it waits,
 * reads its prompt, or answers; on two models at the same time. Each stream is asked for again without a kill, by another tenant, who
 * finds none of its KV, and both greedy texts are compared token for token. Where a runner has to compute a text again, sums are added
 * up in another order: texts may then part where two tokens are nearer to each other than such an order moves them, which is measured
 * on all tokens that agree. Whatever parts anywhere else counts as lost or given twice. With `--peer vllm=PATH` (`node
 * scripts/vllm-setup.mjs whole`), in `all` with an installed one, 20 more streams run on vLLM, of whose processes any one is killed.
 */
import { basename } from 'node:path';
import { gemmaPath, smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { percentile, result } from './harness.ts';
import { ask } from './lib/client.ts';
import { seeded } from './lib/random.ts';
import type { Server } from './lib/servers.ts';
import { startBerth } from './lib/servers.ts';
import type { Strike, Struck } from './lib/strikes.ts';
import { gapDifferences, partingOf, strike } from './lib/strikes.ts';
import { addTenants } from './lib/tenants.ts';
import { anyProcessOf, findVllm } from './lib/vllm.ts';

const KILLS = 200;
const QUICK_KILLS = 5;
const VLLM_KILLS = 20;
const QUICK_VLLM_KILLS = 2;
const LANES = 2;
const CONTEXT_TOKENS = 768;

export const about = '200 × kill -9 of a runner in mid-stream: tokens lost, given twice, and time to go on';

const MODELS = [
  { id: 'smollm2', name: 'SmolLM2', path: smollm2Path, seed: 1 },
  { id: 'gemma', name: 'Gemma', path: gemmaPath, seed: 2 },
];

export async function run(args: BenchArgs): Promise<BenchResult> {
  const { quick } = args;
  const kills = quick ? QUICK_KILLS : KILLS;
  const server = await startBerth({
    config: {
      // A runner that dies is what is measured, not news.
      log: { level: 'silent' },
      device: { memory: '4GiB', lanes: LANES },
      models: MODELS.map(({ id, path }) => ({ id, source: path(), context: CONTEXT_TOKENS, parallel: 2 })),
    },
  });
  try {
    const keys = await addTenants(server, ['struck', 'undisturbed']);
    for (const { id } of MODELS) {
      const { error } = await ask({ url: server.url, model: id, prompt: 'Hello', maxTokens: 2, key: keys.struck });
      if (error !== null) throw new Error(`${id}: ${error}`);
    }
    const rows = await Promise.all(
      MODELS.map(async ({ id, name, path, seed }, index) => {
        const share = Math.floor(kills / MODELS.length) + (index < kills % MODELS.length ? 1 : 0);
        const struck = await strike({ server, model: id, file: basename(path()), keys }, share, seeded(seed));
        return rowsOf(name, struck);
      }),
    );
    return result('survive', [...rows.flat(), ...(await onVllm(args))], { kills });
  } finally {
    await server.stop();
  }
}

/** Only if it is asked for: each of these kills costs a start of vLLM. */
async function onVllm(args: BenchArgs): Promise<BenchRow[]> {
  const vllm = args.peers['vllm'] === undefined ? null : findVllm(args);
  if (vllm === null) return [];
  const model = 'vllm';
  const server: Server = await startBerth({
    config: {
      log: { level: 'silent' },
      device: { memory: '8GiB', lanes: LANES },
      models: [{ id: model, engine: 'vllm', source: vllm.modelPath, context: CONTEXT_TOKENS, parallel: 2 }],
    },
    env: { BERTH_VLLM: vllm.program },
  });
  try {
    const keys = await addTenants(server, ['struck', 'undisturbed']);
    const { error } = await ask({ url: server.url, model, prompt: 'Hello', maxTokens: 2, key: keys.struck });
    if (error !== null) throw new Error(`${model}: ${error}`);
    const random = seeded(3);
    const victim = (pid: number): number | null => anyProcessOf(pid, vllm.modelPath, random);
    const target = { server, model, file: '', keys, victim };
    return rowsOf('vLLM', await strike(target, args.quick ? QUICK_VLLM_KILLS : VLLM_KILLS, random));
  } finally {
    await server.stop();
  }
}

const partsBefore = ({ struck, undisturbed, tokensBefore }: Strike): boolean =>
  (partingOf(struck.tokens, undisturbed.tokens)?.position ?? Infinity) < tokensBefore;

function rowsOf(name: string, { strikes, late }: Struck): BenchRow[] {
  const what = { case: `${name}, ${strikes.length} kills` };
  const noise = Math.max(
    0,
    ...strikes.flatMap(({ struck, undisturbed }) => gapDifferences(struck.tokens, undisturbed.tokens)),
  );
  const partings = strikes.flatMap(({ struck, undisturbed }) => partingOf(struck.tokens, undisturbed.tokens) ?? []);
  const elsewhere = partings.filter(({ gap }) => gap > noise).length;
  const failed = strikes.filter(({ struck }) => struck.error !== null);
  for (const { struck } of failed) console.error(`${name}: ${struck.error}`);
  const sum = (of: (strike: Strike) => number): number =>
    strikes.reduce((total, one) => total + Math.max(0, of(one)), 0);
  const missing = ({ struck, maxTokens }: Strike): number => maxTokens - struck.tokens.length;
  const miscounted = strikes.filter(({ struck }) => struck.outputTokens !== struck.tokens.length).length;
  const none = (metric: string, unit: string, berth: number): BenchRow => ({
    ...what,
    metric,
    unit,
    berth,
    bar: 'none',
    pass: berth === 0,
  });
  const resumes = strikes.filter(({ struck }) => struck.error === null).map(({ resumeMillis }) => resumeMillis);
  const loads = strikes.flatMap(({ struck }) => struck.berth?.load_ms ?? []);
  const tokens = strikes.reduce((total, { maxTokens }) => total + maxTokens, 0);
  return [
    none('streams that failed', `of ${strikes.length}`, failed.length),
    none('tokens lost', `of ${tokens}`, sum(missing)),
    none(
      'tokens given twice',
      `of ${tokens}`,
      sum((one) => -missing(one)),
    ),
    none('texts that part where no near-tie is', `of ${strikes.length}`, elsewhere),
    none('streams with another count in `usage`', `of ${strikes.length}`, miscounted),
    {
      ...what,
      metric: 'texts equal to the last token',
      unit: `of ${strikes.length}`,
      berth: strikes.length - partings.length,
    },
    {
      ...what,
      metric: 'texts that part at a near-tie',
      unit: `of ${strikes.length}`,
      berth: partings.length - elsewhere,
    },
    {
      ...what,
      metric: 'of these, before the kill: the seam is not compared',
      unit: `of ${strikes.length}`,
      berth: strikes.filter(partsBefore).length,
    },
    { ...what, metric: 'near-tie: another order moves the gap by up to', unit: 'nats', berth: noise },
    {
      ...what,
      metric: 'killed before the first token',
      unit: `of ${strikes.length}`,
      berth: strikes.filter(({ tokensBefore }) => tokensBefore === 0).length,
    },
    { ...what, metric: 'time until the stream goes on p50', unit: 'ms', berth: percentile(resumes, 50) },
    { ...what, metric: 'time until the stream goes on p95', unit: 'ms', berth: percentile(resumes, 95) },
    { ...what, metric: 'time until the stream goes on, longest', unit: 'ms', berth: Math.max(...resumes) },
    { ...what, metric: 'load of the model, in the answer’s words, p50', unit: 'ms', berth: percentile(loads, 50) },
    { ...what, metric: 'kills that came too late, not counted', unit: '', berth: late.length },
  ];
}
