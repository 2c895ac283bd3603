/** Random conversations, told to a runner undisturbed and with all that can happen to their KV, and where their texts part. */
import { rmSync } from 'node:fs';
import type { KvFile, TokenLogprob } from '../../src/engines/engine.ts';
import type { Absence, KvRunner, Said } from './kv-runner.ts';
import type { Random } from './random.ts';

interface Turn {
  readonly words: string;
  readonly maxTokens: number;
  /** Since the turn before; the first has none. */
  readonly absence: Absence;
  /** Preempted after so many tokens, and what happens until it goes on; null: it isn't. */
  readonly cut: { readonly afterTokens: number; readonly absence: Absence } | null;
}

export type History = readonly Turn[];

/** The quick ones more often: another process takes as long as half a history, pushing out nearly as long as a whole one. */
const ABSENCES: readonly Absence[] = [
  ...Array.from({ length: 21 }, (): Absence => 'sleep'),
  ...Array.from({ length: 4 }, (): Absence => 'others compute'),
  ...Array.from({ length: 4 }, (): Absence => 'stays'),
  'pushed out',
  'another process',
  'another process',
];
const CUT_PART = 0.3;

/** Two or three turns. The first is long enough to be kept when it is preempted in its answer. */
export function randomHistory(random: Random): History {
  const absence = (): Absence => random.pick(ABSENCES);
  return Array.from({ length: random.pick([2, 2, 2, 3]) }, (_, index) => {
    const maxTokens = random.between(3, 6);
    const cut = { afterTokens: random.between(1, maxTokens - 2), absence: absence() };
    return {
      words: random.words(index === 0 ? random.between(34, 44) : random.between(3, 8)),
      maxTokens,
      absence: index === 0 ? 'stays' : absence(),
      cut: random.next() < CUT_PART ? cut : null,
    };
  });
}

export interface Told {
  readonly turns: readonly Said[];
  /** The last turn's whole text, as it was asked. */
  readonly prompt: string;
  readonly counts: Readonly<Record<Count, number>>;
}

const COUNTS = ['preempted', 'restored', 'refused', 'slept', 'other process', 'pushed out'] as const;
export type Count = (typeof COUNTS)[number];

const COUNTED: Readonly<Partial<Record<Absence, Count>>> = {
  sleep: 'slept',
  'another process': 'other process',
  'pushed out': 'pushed out',
};

/**
 * `undisturbed`: its KV stays where it is. `disturbed`: with its absences and cuts; when it goes on, others have left, and it lies in
 * the same cells as undisturbed. `crowded`: others stay, and it lies wherever there is room.
 */
export type Manner = 'undisturbed' | 'disturbed' | 'crowded';

/** One turn after the other, as a client does that sends the whole text each time. Nothing of it stays. */
export async function tell(
  runner: KvRunner,
  history: History,
  tenant: string,
  manner: Manner,
  random: Random,
): Promise<Told> {
  const counts = Object.fromEntries(COUNTS.map((count) => [count, 0])) as Record<Count, number>;
  const turns: Said[] = [];
  let prompt = '';
  let asked = 0;
  let entry = '';
  const other = (): string => random.words(random.between(34, 44));
  const away = async (absence: Absence): Promise<KvFile | null> => {
    const counted = COUNTED[absence];
    if (counted !== undefined) counts[counted]++;
    const file = await runner.leave(entry, tenant, absence, other);
    if (manner === 'disturbed') runner.clear();
    return file;
  };
  const see = (said: Said, file: KvFile | null): Said => {
    if (said.restored === 'yes') counts.restored++;
    if (said.restored === 'refused') counts.refused++;
    if (file !== null) rmSync(file.path, { force: true });
    return said;
  };
  if (manner === 'crowded') await runner.another(other());
  for (const [index, turn] of history.entries()) {
    const restore = index > 0 && manner !== 'undisturbed' ? await away(turn.absence) : null;
    prompt = `${prompt}${turns.at(-1)?.text ?? ''}${index === 0 ? '' : '. '}${turn.words}`;
    const name = (): string => (entry = `${tenant}-${asked++}`);
    const question = { tenant, text: prompt, maxTokens: turn.maxTokens, entry: name(), restore };
    if (manner === 'undisturbed' || turn.cut === null) {
      turns.push(see(await runner.ask(question), restore));
      continue;
    }
    const { said, isWhole } = await runner.askAndPreempt(question, turn.cut.afterTokens);
    see(said, restore);
    if (isWhole) {
      turns.push(said);
      continue;
    }
    counts.preempted++;
    const file = await away(turn.cut.absence);
    const rest = await runner.ask({ ...question, entry: name(), restore: file, resumeTokens: said.tokenIds });
    turns.push(joined(said, see(rest, file)));
  }
  runner.clear(entry);
  return { turns, prompt, counts };
}

const joined = (begin: Said, rest: Said): Said => ({
  ...begin,
  text: begin.text + rest.text,
  tokenIds: [...begin.tokenIds, ...rest.tokenIds],
  logprobs: [...begin.logprobs, ...rest.logprobs],
});

export interface Parting {
  /** Of the answer's tokens. */
  readonly position: number;
  /** How much likelier each side found its own token than the other's, in nats; the larger of both. */
  readonly gap: number;
}

/** Where two answers to the same text part; null: nowhere. */
export function parting(one: Said, other: Said): Parting | null {
  const position = one.tokenIds.findIndex((token, index) => token !== other.tokenIds[index]);
  if (position < 0 && one.tokenIds.length === other.tokenIds.length) return null;
  const [a, b] = [one.logprobs[position], other.logprobs[position]];
  if (a === undefined || b === undefined) return { position, gap: Infinity };
  return { position, gap: Math.max(a.logprob - logprobOf(a, b.tokenId), b.logprob - logprobOf(b, a.tokenId)) };
}

/** Minus infinity: it is none of the likeliest. */
const logprobOf = ({ top }: TokenLogprob, token: number): number =>
  top.find(({ tokenId }) => tokenId === token)?.logprob ?? -Infinity;

/** Both sides' log-probabilities of the tokens before they part. */
function agreed(one: Said, other: Said): (readonly [TokenLogprob, TokenLogprob])[] {
  const end = parting(one, other)?.position ?? one.tokenIds.length;
  return one.logprobs.slice(0, end).map((a, index) => [a, other.logprobs[index] ?? a]);
}

/** The largest difference of a chosen token's log-probability, as far as both say the same. */
export const logprobDifference = (one: Said, other: Said): number =>
  Math.max(0, ...agreed(one, other).map(([a, b]) => Math.abs(a.logprob - b.logprob)));

/** By how much the gap between the two best tokens differs, for each token that both say. */
export function gapDifferences(one: Said, other: Said): number[] {
  return agreed(one, other).flatMap(([a, b]) => {
    const second = a.top[1]?.tokenId ?? -1;
    const difference = a.logprob - logprobOf(a, second) - (b.logprob - logprobOf(b, second));
    return Number.isFinite(difference) ? [Math.abs(difference)] : [];
  });
}
