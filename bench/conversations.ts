/**
 * Far more conversations than fit the device: 200 of six turns, over four models of which two fit, with KV for 16 on the device; each
 * turn comes some time after the answer before it, so that between two turns of one conversation those of many others are computed.
 * The same on the node without KV tiers, and on llama-server's router with its own prompt cache. How much of what was computed once
 * is computed again, and how long is the first token? Turns are a third as long as people's, so that the run ends in ten minutes;
 * who takes longer is cut off and counted by what had come.
 */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gemmaPath, smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { findPeer, peerThreads, peerVersion, percentile, result } from './harness.ts';
import { ask } from './lib/client.ts';
import type { Style } from './lib/conversation.ts';
import type { Dialogue, DialogueShape, Played } from './lib/dialogues.ts';
import { planDialogues, play } from './lib/dialogues.ts';
import { heldBytes, kvOf } from './lib/node-admin.ts';
import { seeded } from './lib/random.ts';
import type { Server } from './lib/servers.ts';
import { copyModels, startBerth, startRouter } from './lib/servers.ts';

const MODELS = 4;
const FIT = 2;
const LANES = 2;
const IN_FLIGHT = 8;
/** The longest conversation has so many tokens. */
const CONTEXT_TOKENS = 512;
/** Conversations a model has room for on the device. */
const PARALLEL = 4;
const SHAPE: DialogueShape = {
  dialogues: 200,
  turns: 6,
  systemWords: 40,
  userWords: [16, 52],
  answerTokens: [8, 12],
  thinkMillis: 8_000,
};
const QUICK: DialogueShape = { ...SHAPE, dialogues: 16, turns: 3, thinkMillis: 1_000 };
const SECONDS = { berth: 240, others: 100 };
const FAKE_SECONDS = { berth: 4, others: 2 };
const SAVED_BAR_PERCENT = 80;
const TIERS = { hostMemory: '256MiB', disk: '2GiB' };
const NO_TIERS = { hostMemory: 0, disk: 0 };

export const about = '200 conversations of 6 turns, 4 models, memory for 2, KV on the device for 16';

type KvStats = NonNullable<Awaited<ReturnType<typeof kvOf>>>['stats'];
interface Seen extends Played {
  /** Of a node with KV tiers. */
  readonly kv: KvStats | null;
}

export async function run(args: BenchArgs): Promise<BenchResult> {
  const shape = args.quick ? QUICK : SHAPE;
  const seconds = args.fake === true ? FAKE_SECONDS : args.quick ? { berth: 20, others: 8 } : SECONDS;
  const folder = mkdtempSync(join(tmpdir(), 'berth-conversations-'));
  try {
    const names = copyModels(folder, MODELS, [smollm2Path(), gemmaPath()], copyFileSync);
    const models = names.map((id, index): { id: string; style: Style } => ({
      id,
      style: index % 2 === 0 ? 'chat' : 'text',
    }));
    const dialogues = planDialogues(models, shape, seeded(11));
    const { memoryBytes, systemTokens } = await measureAlone(folder, dialogues);
    const binary = findPeer(args, 'llama-server');
    const berth = (kv: object) => () => startBerth({ config: { ...configOf(folder, `${memoryBytes}`), kv } });
    const contenders = [
      { name: 'berth', start: berth(TIERS) },
      { name: 'Berth without KV tiers', start: berth(NO_TIERS) },
      ...peerThreads(args, binary).map((threads) => ({
        name: `router -t ${threads}`,
        start: () =>
          startRouter({
            binary: binary as string,
            modelsDir: folder,
            modelsMax: FIT,
            threads,
            contextTokens: CONTEXT_TOKENS * PARALLEL,
            parallel: PARALLEL,
          }),
      })),
    ];
    const seen = new Map<string, Seen>();
    for (const { name, start } of contenders) {
      const server = await start();
      try {
        for (const { id } of models) await warm(server, id);
        const limit = name === 'berth' ? seconds.berth : seconds.others;
        const played = await play(dialogues, { url: server.url, inFlight: IN_FLIGHT, seconds: limit, systemTokens });
        seen.set(name, { ...played, kv: name === 'berth' ? ((await kvOf(server))?.stats ?? null) : null });
      } finally {
        await server.stop();
      }
    }
    return result('conversations', rowsOf(seen, shape), {
      peer: peerVersion(binary),
      conversations: shape.dialogues,
      turns: shape.turns,
      memoryBytes,
      kvTokens: CONTEXT_TOKENS * PARALLEL,
      hostMemory: TIERS.hostMemory,
      disk: TIERS.disk,
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const configOf = (modelsDir: string, memory: string): Record<string, unknown> => ({
  modelsDir,
  device: { memory, lanes: LANES },
  models: Array.from({ length: MODELS }, (_, index) => ({
    id: `m0${index + 1}`,
    context: CONTEXT_TOKENS,
    kv: CONTEXT_TOKENS * PARALLEL,
    parallel: PARALLEL,
  })),
});

async function warm(server: Server, model: string): Promise<void> {
  const { error } = await ask({ url: server.url, model, prompt: 'Hello', maxTokens: 2 });
  if (error !== null) throw new Error(`${server.name}: ${error}`);
}

/** What two of the larger models take, and what a model makes of its system prompt. */
async function measureAlone(
  folder: string,
  dialogues: readonly Dialogue[],
): Promise<{ memoryBytes: number; systemTokens: Map<string, number> }> {
  const server = await startBerth({ config: { ...configOf(folder, '8GiB'), kv: NO_TIERS } });
  const systemTokens = new Map<string, number>();
  try {
    for (const { model, system } of dialogues.slice(0, MODELS)) {
      const { promptTokens, error } = await ask({ url: server.url, model, prompt: system, maxTokens: 1 });
      if (error !== null) throw new Error(`${model}: ${error}`);
      systemTokens.set(model, promptTokens);
    }
    const { largestBytes, overheadBytes } = await heldBytes(server);
    return { memoryBytes: FIT * largestBytes + overheadBytes, systemTokens };
  } finally {
    await server.stop();
  }
}

interface Sums {
  readonly promptTokens: number;
  readonly computedTokens: number;
  readonly repeatedTokens: number;
}

function sumsOf({ turns }: Played): Sums {
  let [promptTokens, computedTokens, repeatedTokens] = [0, 0, 0];
  for (const { answer, repeatedTokens: its } of turns) {
    promptTokens += answer.promptTokens;
    computedTokens += answer.computedTokens;
    repeatedTokens += its;
  }
  return { promptTokens, computedTokens, repeatedTokens };
}

/** Of the tokens that need not have been computed, those that were not; percent. */
const savedPercent = ({ promptTokens, computedTokens, repeatedTokens }: Sums): number =>
  (100 * (promptTokens - computedTokens)) / repeatedTokens;

const MEASURES: readonly { readonly metric: string; readonly unit: string; readonly of: (seen: Seen) => number }[] = [
  {
    metric: 'TTFT p50',
    unit: 'ms',
    of: ({ turns }) =>
      percentile(
        turns.map(({ answer }) => answer.ttftMillis),
        50,
      ),
  },
  {
    metric: 'TTFT p95',
    unit: 'ms',
    of: ({ turns }) =>
      percentile(
        turns.map(({ answer }) => answer.ttftMillis),
        95,
      ),
  },
  {
    metric: 'TTFT p50, later turns',
    unit: 'ms',
    of: ({ turns }) =>
      percentile(
        turns.filter(({ turn }) => turn > 0).map(({ answer }) => answer.ttftMillis),
        50,
      ),
  },
  { metric: 'prefill computed', unit: 'tokens', of: (seen) => sumsOf(seen).computedTokens },
  { metric: 'prefill computed, of the prompts', unit: '%', of: (seen) => percentOfPrompts(seen, 'computedTokens') },
  { metric: 'prefill saved, of the possible', unit: '%', of: (seen) => savedPercent(sumsOf(seen)) },
  { metric: 'turns', unit: '1/s', of: ({ turns, seconds }) => turns.length / seconds },
];

const percentOfPrompts = (seen: Seen, which: keyof Sums): number => {
  const sums = sumsOf(seen);
  return (100 * sums[which]) / sums.promptTokens;
};

function rowsOf(seen: ReadonlyMap<string, Seen>, { dialogues, turns }: DialogueShape): BenchRow[] {
  const what = { case: `${dialogues} conversations` };
  const berth = seen.get('berth') as Seen;
  const peers = [...seen].filter(([name]) => name !== 'berth');
  const saved = savedPercent(sumsOf(berth));
  const rows: BenchRow[] = [
    {
      ...what,
      metric: 'prefill saved, of the possible',
      unit: '%',
      berth: saved,
      bar: `≥ ${SAVED_BAR_PERCENT}`,
      pass: saved >= SAVED_BAR_PERCENT,
    },
    {
      ...what,
      metric: 'turns failed',
      unit: `of ${dialogues * turns}`,
      berth: berth.failed.length,
      bar: 'none',
      pass: berth.failed.length === 0,
    },
    { ...what, metric: 'prompt tokens', unit: 'tokens', berth: sumsOf(berth).promptTokens },
    {
      ...what,
      metric: 'prefill that could be saved, of the prompts',
      unit: '%',
      berth: percentOfPrompts(berth, 'repeatedTokens'),
    },
  ];
  for (const { metric, unit, of } of MEASURES) {
    for (const [name, other] of peers) {
      const [own, peer] = [of(berth), of(other)];
      rows.push({ ...what, metric: `${metric}, peer ${name}`, unit, berth: own, peer, ratio: own / peer });
    }
  }
  for (const tier of ['device', 'host', 'disk'] as const) {
    const count = berth.turns.filter(({ answer }) => answer.berth?.kv_tier === tier).length;
    rows.push({
      ...what,
      metric: `turns that began with KV from ${tier}`,
      unit: `of ${berth.turns.length}`,
      berth: count,
    });
  }
  if (berth.kv !== null) {
    const { restores, refusedRestores, failures, bytesMoved } = berth.kv;
    const mib = Object.values(bytesMoved).reduce((sum, bytes) => sum + bytes, 0) / 1024 ** 2;
    rows.push(
      { ...what, metric: 'restores proven', unit: '', berth: restores },
      { ...what, metric: 'restores refused', unit: '', berth: refusedRestores },
      { ...what, metric: 'files that failed', unit: '', berth: failures },
      { ...what, metric: 'KV moved', unit: 'MiB', berth: mib },
    );
  }
  for (const [name, { cutOff, failed }] of seen) {
    if (name === 'berth' && cutOff > 0)
      rows.push({ ...what, metric: 'turns cut off', unit: `of ${dialogues * turns}`, berth: cutOff });
    if (name === 'berth') continue;
    if (cutOff > 0)
      rows.push({
        ...what,
        metric: `turns cut off, peer ${name}`,
        unit: `of ${dialogues * turns}`,
        berth: berth.cutOff,
        peer: cutOff,
      });
    if (failed.length > 0)
      rows.push({
        ...what,
        metric: `turns failed, peer ${name}`,
        unit: `of ${dialogues * turns}`,
        berth: berth.failed.length,
        peer: failed.length,
      });
  }
  return rows;
}
