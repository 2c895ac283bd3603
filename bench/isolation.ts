/**
 * One text of 1,500 tokens by tenant A, by tenant B, and by A again, while A's KV lies on the device, in host memory, or on disk. B
 * must have none of it, by its answer's count and by its time: its first token must come as late as that of a text that nobody had
 * before. A must find its own, or “no cache at all” would pass. Beside each of B's texts that A had, B sends one of the same length
 * that is new, in changing order; the two samples are compared by a Mann–Whitney test, two-sided, since a slower answer tells as much
 * as a faster one. That the test can see a hit is shown by the same test on A's.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gemmaPath, smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { median, result } from './harness.ts';
import type { Answer } from './lib/client.ts';
import { ask } from './lib/client.ts';
import type { Random } from './lib/random.ts';
import { seeded } from './lib/random.ts';
import type { Server } from './lib/servers.ts';
import { startBerth } from './lib/servers.ts';
import { mannWhitney } from './lib/statistics.ts';
import { addTenants } from './lib/tenants.ts';

const PROMPT_TOKENS = 1500;
const SAMPLES = 7;
/** `--quick`: shorter texts, and so few of them that no test can say anything. */
const QUICK = { promptTokens: 256, samples: 1 };
const LANES = 2;
const ANSWER_TOKENS = 2;
/** Room beside the text, where no second one of them finds place. */
const ROOM_TOKENS = 96;
/** Six comparisons are made, and one in a hundred runs may fail by chance. */
const SURE = 0.01;
const COMPARISONS = 6;
/** Of A's prompt at least so much must have been at hand. */
const HIT_PERCENT = 95;

export const about = 'the same 1,500 tokens by A, by B and by A again: B finds nothing of A’s, by count and by time';

const MODELS = [
  { id: 'smollm2', name: 'SmolLM2', path: smollm2Path },
  { id: 'gemma', name: 'Gemma', path: gemmaPath },
];
type Tier = 'device' | 'host' | 'disk';
const TIERS: readonly { readonly tier: Tier; readonly where: string; readonly kv: object }[] = [
  // No room for a text: else A’s would make way for B’s.
  { tier: 'device', where: 'on the device', kv: { hostMemory: '1MiB', disk: 0 } },
  { tier: 'host', where: 'in host memory', kv: { hostMemory: '2GiB', disk: 0 } },
  { tier: 'disk', where: 'on disk', kv: { hostMemory: 0, disk: '2GiB' } },
];

interface Size {
  readonly promptTokens: number;
  readonly samples: number;
}

interface Seen {
  readonly name: string;
  readonly where: string;
  readonly tier: Tier;
  /** A's first, B's of the same text, B's of a new text, A's second; one of each a sample. */
  readonly first: Answer[];
  readonly others: Answer[];
  readonly fresh: Answer[];
  readonly again: Answer[];
}

export async function run({ quick }: BenchArgs): Promise<BenchResult> {
  const size: Size = quick ? QUICK : { promptTokens: PROMPT_TOKENS, samples: SAMPLES };
  const all: Seen[] = [];
  for (const { tier, where, kv } of TIERS) {
    const folder = mkdtempSync(join(tmpdir(), 'berth-isolation-'));
    const server = await startBerth({ config: configOf(size, tier, { ...kv, folder }) });
    try {
      const keys = await addTenants(server, ['a', 'b', 'c']);
      for (const { id, name } of MODELS) {
        const seen: Seen = { name, where, tier, first: [], others: [], fresh: [], again: [] };
        all.push(seen);
        const random = seeded(size.promptTokens + all.length);
        // The load of the model, and its first steps, are nobody's time.
        await say(server, id, keys.c, [1, 2, 3]);
        for (let index = 0; index < size.samples; index++)
          await sample({ server, model: id, keys, size, seen, random, index });
      }
    } finally {
      await server.stop();
      rmSync(folder, { recursive: true, force: true });
    }
  }
  return result('isolation', all.flatMap(rowsOf), { promptTokens: size.promptTokens, samples: size.samples });
}

/** On the device there is room for all texts of a sample, else for one, which the next one pushes out. */
const configOf = ({ promptTokens }: Size, tier: Tier, kv: object): Record<string, unknown> => {
  const context = promptTokens + ROOM_TOKENS;
  return {
    device: { memory: '8GiB', lanes: LANES },
    kv,
    models: MODELS.map(({ id, path }) => ({
      id,
      source: path(),
      context,
      kv: tier === 'device' ? 4 * context : context,
      parallel: 4,
    })),
  };
};

interface Scene {
  readonly server: Server;
  readonly model: string;
  readonly keys: Readonly<Record<'a' | 'b' | 'c', string>>;
  readonly size: Size;
  readonly seen: Seen;
  readonly random: Random;
  readonly index: number;
}

async function say({ url }: Server, model: string, key: string, prompt: readonly number[]): Promise<Answer> {
  const answer = await ask({ url, model, prompt, maxTokens: ANSWER_TOKENS, key });
  if (answer.error !== null) throw new Error(`${model}: ${answer.error}`);
  return answer;
}

async function sample({ server, model, keys, size, seen, random, index }: Scene): Promise<void> {
  // Token ids, so that each text has exactly so many, and no two begin alike.
  const text = (): number[] => Array.from({ length: size.promptTokens }, () => random.between(1_000, 20_000));
  const common = text();
  seen.first.push(await say(server, model, keys.a, common));
  // Somebody else's text, for whose cells A's have to leave the device.
  if (seen.tier !== 'device') await say(server, model, keys.c, text());
  const theirs = async (): Promise<void> => void seen.others.push(await say(server, model, keys.b, common));
  const fresh = async (): Promise<void> => void seen.fresh.push(await say(server, model, keys.b, text()));
  for (const one of index % 2 === 0 ? [theirs, fresh] : [fresh, theirs]) await one();
  seen.again.push(await say(server, model, keys.a, common));
}

function rowsOf({ name, where, tier, first, others, fresh, again }: Seen): BenchRow[] {
  const what = { case: `${name}, A’s KV ${where}` };
  const ttft = (answers: readonly Answer[]): number[] => answers.map(({ ttftMillis }) => ttftMillis);
  const cold = median(ttft([...fresh, ...first]));
  const cached = others.reduce((sum, { cachedTokens }) => sum + cachedTokens, 0);
  const elsewhere = again.filter(({ berth }) => berth?.kv_tier !== tier).length;
  const hits = again.map(({ cachedTokens, promptTokens }) => (100 * cachedTokens) / promptTokens);
  const [b, news, a] = [median(ttft(others)), median(ttft(fresh)), median(ttft(again))];
  const alike = mannWhitney(ttft(others), ttft(fresh));
  const seesHits = mannWhitney(ttft(again), ttft(fresh));
  const least = SURE / COMPARISONS;
  // Fewer samples can't be told apart, whatever they are.
  const isEnough =
    mannWhitney(
      fresh.map((_, index) => index),
      fresh.map((_, index) => index + fresh.length),
    ) <= SURE;
  const tested = (pass: boolean, bar: string): Partial<BenchRow> => (isEnough ? { bar, pass } : {});
  return [
    { ...what, metric: 'B: cached tokens', unit: 'tokens', berth: cached, bar: '0', pass: cached === 0 },
    { ...what, metric: 'B: TTFT, peer: of a new text', unit: 'ms', berth: b, peer: news, ratio: b / news },
    {
      ...what,
      metric: 'B: the same times as of new texts, p',
      unit: '',
      berth: alike,
      ...tested(alike >= least, `≥ ${least.toPrecision(1)}`),
    },
    {
      ...what,
      metric: 'A again: cached, least',
      unit: '% of the prompt',
      berth: Math.min(...hits),
      bar: `≥ ${HIT_PERCENT}`,
      pass: Math.min(...hits) >= HIT_PERCENT,
    },
    {
      ...what,
      metric: 'A again: KV that was elsewhere',
      unit: `of ${again.length}`,
      berth: elsewhere,
      bar: 'none',
      pass: elsewhere === 0,
    },
    { ...what, metric: 'A again: TTFT, peer: of a new text', unit: 'ms', berth: a, peer: cold, ratio: a / cold },
    {
      ...what,
      metric: 'A again: the same times as of new texts, p',
      unit: '',
      berth: seesHits,
      ...tested(seesHits <= SURE && a < news, `≤ ${SURE}`),
    },
  ];
}
