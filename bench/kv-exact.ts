/**
 * Does a conversation say the same, whatever became of its KV? Random histories on the runners themselves, each told twice: once
 * undisturbed, its KV idle on the device between turns; once put to sleep, moved to another process, pushed out by others,
 * preempted in an answer and resumed. Both compute the same ranges of tokens in the same chunks, with the same cells of the cache,
 * so that their greedy texts must be equal, token for token.
 *
 * Some are told once more in another shape: the last turn's whole text computed cold, or the disturbed history with others' KV around
 * it. There sums are added up in another order, and texts may part, but only where two tokens are nearer to each other than such an
 * order can move them. How far that is gets measured wherever texts of different shape agree, on texts of their own besides.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gemmaPath, smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { result } from './harness.ts';
import type { Count, Parting, Told } from './lib/kv-histories.ts';
import { gapDifferences, logprobDifference, parting, randomHistory, tell } from './lib/kv-histories.ts';
import type { Said } from './lib/kv-runner.ts';
import { KvRunner } from './lib/kv-runner.ts';
import type { Random } from './lib/random.ts';
import { seeded } from './lib/random.ts';

const HISTORIES_A_MODEL = 500;
/** Of so many histories one is told in another shape, too. */
const OTHER_SHAPE_EVERY = 4;
const NOISE_TEXTS = 20;
const NOISE_TOKENS = 12;

export const about = 'greedy texts with and without save, restore, preemption and unload: 1,000 random histories';

const MODELS = [
  { name: 'SmolLM2', path: smollm2Path, seed: 1 },
  { name: 'Gemma', path: gemmaPath, seed: 2 },
];

interface Seen {
  readonly histories: number;
  /** Histories whose disturbed texts are the undisturbed ones. */
  equal: number;
  /** The largest difference of a chosen token's log-probability between these, in nats. */
  equalDifference: number;
  readonly counts: Record<string, number>;
  /** Texts that were computed in another shape, and where they part. */
  others: number;
  readonly partings: Parting[];
  /** Samples of how far another shape moves the gap between the two best tokens, in nats. */
  readonly noise: number[];
}

export async function run({ quick }: BenchArgs): Promise<BenchResult> {
  const histories = quick ? 10 : HISTORIES_A_MODEL;
  const noiseTexts = quick ? 5 : NOISE_TEXTS;
  const folder = mkdtempSync(join(tmpdir(), 'berth-kv-exact-'));
  try {
    // A core each.
    const all = await Promise.all(
      MODELS.map(async ({ name, path, seed }) => {
        const runner = await KvRunner.start(path(), folder);
        try {
          return rowsOf(name, await measure(runner, name, seeded(seed), histories, noiseTexts));
        } finally {
          await runner.stop();
        }
      }),
    );
    return result('kv-exact', all.flat(), { histories: histories * MODELS.length });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function measure(
  runner: KvRunner,
  name: string,
  random: Random,
  histories: number,
  noiseTexts: number,
): Promise<Seen> {
  const seen: Seen = { histories, equal: 0, equalDifference: 0, counts: {}, others: 0, partings: [], noise: [] };
  for (let index = 0; index < noiseTexts; index++) {
    const [whole, inPieces] = await bothWays(runner, `${name}-n${index}`, random);
    seen.noise.push(...gapDifferences(whole, inPieces));
  }
  for (let index = 0; index < histories; index++) {
    const history = randomHistory(random);
    const plain = await tell(runner, history, `${name}-p${index}`, 'undisturbed', random);
    const disturbed = await tell(runner, history, `${name}-d${index}`, 'disturbed', random);
    for (const [count, value] of Object.entries(disturbed.counts))
      seen.counts[count] = (seen.counts[count] ?? 0) + value;
    if (isSame(plain, disturbed, `${name}, history ${index}`)) seen.equal++;
    for (const [turn, said] of plain.turns.entries())
      seen.equalDifference = Math.max(seen.equalDifference, logprobDifference(said, disturbed.turns[turn] ?? said));
    if (index % OTHER_SHAPE_EVERY !== 0) continue;
    if (index % (2 * OTHER_SHAPE_EVERY) === 0) {
      const maxTokens = history.at(-1)?.maxTokens ?? 1;
      const cold = await runner.ask({ tenant: `${name}-c${index}`, text: plain.prompt, maxTokens, entry: null });
      compare(seen, plain.turns.at(-1) as Said, cold);
    } else {
      const crowded = await tell(runner, history, `${name}-o${index}`, 'crowded', random);
      // What follows the first difference answers another text.
      for (const [turn, said] of plain.turns.entries()) {
        if (compare(seen, said, crowded.turns[turn] as Said)) break;
      }
    }
  }
  return seen;
}

/** True if the two part. */
function compare(seen: Seen, said: Said, other: Said): boolean {
  seen.others++;
  seen.noise.push(...gapDifferences(said, other));
  const parted = parting(said, other);
  if (parted !== null) seen.partings.push(parted);
  return parted !== null;
}

/** Texts, and that the same tokens were at hand: else the shapes were not the same. */
function isSame(plain: Told, disturbed: Told, what: string): boolean {
  const turn = plain.turns.findIndex((said, index) => {
    const again = disturbed.turns[index];
    return again === undefined || again.cachedTokens !== said.cachedTokens || parting(said, again) !== null;
  });
  if (turn < 0) return true;
  // Whoever reads the row must be able to tell what happened.
  const [said, again] = [plain.turns[turn], disturbed.turns[turn]];
  const cached = `cached ${said?.cachedTokens} and ${again?.cachedTokens} of ${said?.promptTokens} tokens`;
  console.error(`${what}, turn ${turn}: ${cached}; ${JSON.stringify(said && again && parting(said, again))}`);
  return false;
}

/** One text computed whole, and grown in pieces whose KV stays. */
async function bothWays(runner: KvRunner, name: string, random: Random): Promise<readonly [Said, Said]> {
  let text = random.words(random.between(30, 40));
  let entry = '';
  const piece = (count: number, maxTokens: number): Promise<Said> => {
    entry = `${name}-${count}`;
    return runner.ask({ tenant: `${name}-pieces`, text, maxTokens, entry });
  };
  for (let count = 0; count < 3; count++) {
    await piece(count, 1);
    text += ` ${random.words(random.between(1, 12))}`;
  }
  const inPieces = await piece(3, NOISE_TOKENS);
  const whole = await runner.ask({ tenant: `${name}-whole`, text, maxTokens: NOISE_TOKENS, entry: null });
  runner.clear(entry);
  return [whole, inPieces];
}

function rowsOf(name: string, seen: Seen): BenchRow[] {
  const { histories, equal, partings, noise, others } = seen;
  const of = `of ${histories}`;
  const count = (which: Count): number => seen.counts[which] ?? 0;
  const mostNoise = Math.max(...noise);
  const largest = Math.max(0, ...partings.map(({ gap }) => gap));
  const ties = partings.filter(({ gap }) => gap <= mostNoise).length;
  const same = { case: `${name}, equal batch shapes` };
  const other = { case: `${name}, other batch shapes` };
  const tried = count('restored') + count('refused');
  return [
    {
      ...same,
      metric: 'histories with identical texts',
      unit: of,
      berth: equal,
      bar: 'all',
      pass: equal === histories,
    },
    { ...same, metric: 'largest difference of a log-probability', unit: 'nats', berth: seen.equalDifference },
    ...(['restored', 'slept', 'other process', 'pushed out', 'preempted'] as const).map((which) => ({
      ...same,
      metric: `sequences: ${which}`,
      unit: '',
      berth: count(which),
    })),
    {
      ...same,
      metric: 'restores refused',
      unit: `of ${tried}`,
      berth: count('refused'),
      bar: 'none',
      pass: count('refused') === 0,
    },
    {
      ...other,
      metric: `batch noise of the gap between two tokens (${noise.length} samples)`,
      unit: 'nats',
      berth: mostNoise,
    },
    { ...other, metric: 'turns that part from the undisturbed ones', unit: `of ${others}`, berth: partings.length },
    {
      ...other,
      metric: 'of these, at a near-tie',
      unit: `of ${partings.length}`,
      berth: ties,
      bar: 'all',
      pass: ties === partings.length,
    },
    { ...other, metric: 'largest gap where they part', unit: 'nats', berth: largest },
  ];
}
