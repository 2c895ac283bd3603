/**
 * How long is the first token of a next turn, by where the conversation's KV is meanwhile: idle on the device, in host memory, on
 * disk, or saved because its model was unloaded and loaded again; against the same node that has to compute the history again. One
 * node with a tier in host memory, one with a tier on disk only; each text is a new one. A conversation is pushed off the device by
 * another one that needs its cells. Where the node's answer names another tier than the one meant, the sample is thrown out.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gemmaPath, smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { median, result } from './harness.ts';
import type { Answer } from './lib/client.ts';
import type { Conversation, Style } from './lib/conversation.ts';
import { beginConversation, tokensPerWord } from './lib/conversation.ts';
import { loadModel, stopModel } from './lib/node-admin.ts';
import { dropFromPageCache } from './lib/page-cache.ts';
import type { Random } from './lib/random.ts';
import { seeded } from './lib/random.ts';
import type { Server } from './lib/servers.ts';
import { startBerth } from './lib/servers.ts';

const SAMPLES = 5;
const PREFIX_TOKENS = [256, 1024, 2048];
const LANES = 2;
/** Beyond the prefix: room for some turns, and for nobody else. */
const ROOM_TOKENS = 384;
const PUSHING_TOKENS = 340;
const FIRST_ANSWER_TOKENS = 8;
const ANSWER_TOKENS = 4;
const NEXT_WORDS = 10;
/** From so long a prefix on the bars hold. */
const BARRED_TOKENS = 1024;
const BARS = { host: 2, disk: 5 };

export const about =
  'first token of a next turn, by where its KV is: device, host memory, disk, after an unload, nowhere';

interface Model {
  readonly name: string;
  readonly id: string;
  readonly style: Style;
  readonly path: () => string;
}

const MODELS: readonly Model[] = [
  { name: 'SmolLM2', id: 'smollm2', style: 'chat', path: smollm2Path },
  { name: 'Gemma', id: 'gemma', style: 'text', path: gemmaPath },
];

/** How a turn came about. `computed`: nothing of its text was at hand. */
const WAYS = ['computed', 'device', 'host', 'reload', 'disk', 'cold disk'] as const;
type Way = (typeof WAYS)[number];

const TIERS: Readonly<Record<Way, 'device' | 'host' | 'disk' | null>> = {
  computed: null,
  device: 'device',
  host: 'host',
  reload: 'host',
  disk: 'disk',
  'cold disk': 'disk',
};

interface Sample {
  readonly promptTokens: number;
  readonly ttftMillis: number;
  readonly restoreMillis: number;
}

interface Seen {
  readonly samples: Map<string, Sample[]>;
  /** Milliseconds of loads, as the client of the admin API sees them. */
  readonly loads: Map<string, number[]>;
  thrownOut: number;
  isCacheDropped: boolean;
}

const keyOf = (model: Model, prefix: number, way: Way): string => `${model.id}-${prefix} ${way}`;

export async function run({ quick }: BenchArgs): Promise<BenchResult> {
  const prefixes = quick ? PREFIX_TOKENS.slice(0, 1) : PREFIX_TOKENS;
  const samples = quick ? 1 : SAMPLES;
  const seen: Seen = { samples: new Map(), loads: new Map(), thrownOut: 0, isCacheDropped: true };
  const folder = mkdtempSync(join(tmpdir(), 'berth-kv-return-'));
  const nodes = [
    { kv: { hostMemory: '1GiB', disk: 0 }, tell: inHostMemory },
    { kv: { hostMemory: 0, disk: '2GiB', folder }, tell: onDisk },
  ];
  try {
    for (const { kv, tell } of nodes) {
      const server = await startBerth({ config: configOf(folder, prefixes, kv) });
      try {
        for (const model of MODELS) {
          for (const prefix of prefixes)
            await sampleAll({ server, model, prefix, seen, folder, random: seeded(prefix) }, tell, samples);
        }
      } finally {
        await server.stop();
      }
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return result('kv-return', rowsOf(seen, prefixes), {
    samples,
    pageCache: seen.isCacheDropped ? 'dropped by posix_fadvise' : 'could not be dropped',
  });
}

/** A model is served once for each prefix, with as many cells as that prefix needs, so that little pushes it out. */
const configOf = (modelsDir: string, prefixes: readonly number[], kv: object): Record<string, unknown> => ({
  modelsDir,
  device: { memory: '8GiB', lanes: LANES },
  kv,
  models: MODELS.flatMap(({ id, path }) =>
    prefixes.map((prefix) => {
      const tokens = prefix + ROOM_TOKENS;
      return { id: `${id}-${prefix}`, source: path(), context: tokens, kv: tokens, parallel: 2 };
    }),
  ),
});

interface Scene {
  readonly server: Server;
  readonly model: Model;
  readonly prefix: number;
  readonly seen: Seen;
  /** Of the KV on disk. */
  readonly folder: string;
  readonly random: Random;
}

type Tell = (scene: Scene, say: Say, push: () => Promise<void>) => Promise<void>;
/** The conversation's next turn, counted as come about so. */
type Say = (way: Way) => Promise<void>;

async function sampleAll(scene: Scene, tell: Tell, samples: number): Promise<void> {
  const { server, model, prefix, seen, random } = scene;
  const id = `${model.id}-${prefix}`;
  const perWord = await tokensPerWord(server.url, id, random.words(200));
  const wordsOf = (tokens: number): string => random.words(Math.ceil(tokens / perWord));
  const begin = (): Conversation => beginConversation(id, model.style, wordsOf(24));
  const spoken = async (conversation: Conversation, text: string, maxTokens: number): Promise<Answer> => {
    const answer = await conversation.turn(server.url, text, maxTokens);
    if (answer.error !== null) throw new Error(`${id}: ${answer.error}`);
    return answer;
  };
  for (let sample = 0; sample < samples; sample++) {
    const conversation = begin();
    const say: Say = async (way) => {
      // The system prompt is a part of the prefix.
      const isFirst = way === 'computed';
      const text = isFirst ? wordsOf(prefix - 24) : random.words(NEXT_WORDS);
      const answer = await spoken(conversation, text, isFirst ? FIRST_ANSWER_TOKENS : ANSWER_TOKENS);
      const { promptTokens, ttftMillis, berth } = answer;
      if (berth === null || berth.kv_tier !== TIERS[way]) {
        seen.thrownOut++;
        return;
      }
      const key = keyOf(model, prefix, way);
      const all = seen.samples.get(key) ?? [];
      seen.samples.set(key, [...all, { promptTokens, ttftMillis, restoreMillis: berth.restore_ms }]);
    };
    const push = async (): Promise<void> => void (await spoken(begin(), wordsOf(PUSHING_TOKENS - 24), 1));
    await tell(scene, say, push);
  }
}

const inHostMemory: Tell = async ({ server, model, prefix, seen }, say, push) => {
  const id = `${model.id}-${prefix}`;
  await say('computed');
  await say('device');
  await push();
  await say('host');
  await stopModel(server, id);
  const millis = await loadModel(server, id);
  seen.loads.set(id, [...(seen.loads.get(id) ?? []), millis]);
  await say('reload');
};

const onDisk: Tell = async ({ seen, folder }, say, push) => {
  await say('computed');
  await push();
  await say('disk');
  await push();
  if (dropFromPageCache(folder, '**/*.kv')) await say('cold disk');
  else seen.isCacheDropped = false;
};

const NAMES: Readonly<Record<Exclude<Way, 'computed'>, string>> = {
  device: 'on the device',
  host: 'in host memory',
  disk: 'on disk',
  'cold disk': 'on disk, not in the page cache',
  reload: 'saved by an unload, model loaded again',
};

function rowsOf(seen: Seen, prefixes: readonly number[]): BenchRow[] {
  const rows: BenchRow[] = [];
  let meant = 0;
  for (const model of MODELS) {
    for (const prefix of prefixes) {
      const of = (way: Way): readonly Sample[] => seen.samples.get(keyOf(model, prefix, way)) ?? [];
      const ttft = (way: Way): number => median(of(way).map(({ ttftMillis }) => ttftMillis));
      const what = { case: `${model.name}, ${prefix.toLocaleString('en')} tokens` };
      const again = ttft('computed');
      meant += of('computed').length;
      rows.push({
        ...what,
        metric: 'prompt computed',
        unit: 'tokens',
        berth: median(of('computed').map((one) => one.promptTokens)),
      });
      for (const way of WAYS) {
        if (way === 'computed' || of(way).length === 0) continue;
        meant += of(way).length;
        const [name, berth] = [NAMES[way], ttft(way)];
        rows.push({
          ...what,
          metric: `TTFT, KV ${name}; peer: computed again`,
          unit: 'ms',
          berth,
          peer: again,
          ratio: berth / again,
        });
        if (way === 'device') continue;
        const restore = median(of(way).map(({ restoreMillis }) => restoreMillis));
        const share = (100 * restore) / again;
        const most = way.endsWith('disk') ? BARS.disk : BARS.host;
        rows.push(
          { ...what, metric: `restore, KV ${name}`, unit: 'ms', berth: restore },
          {
            ...what,
            metric: `restore, KV ${name}: of the TTFT computed again`,
            unit: '%',
            berth: share,
            ...(prefix < BARRED_TOKENS ? {} : { bar: `≤ ${most}`, pass: share <= most }),
          },
        );
      }
      rows.push({
        ...what,
        metric: 'load of the model',
        unit: 'ms',
        berth: median(seen.loads.get(`${model.id}-${prefix}`) ?? []),
      });
    }
  }
  const all = meant + seen.thrownOut;
  return [
    ...rows,
    { case: 'all', metric: 'samples thrown out, KV elsewhere', unit: `of ${all}`, berth: seen.thrownOut },
  ];
}
