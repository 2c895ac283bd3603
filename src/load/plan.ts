/**
 * What a load will ask for, decided before anything is sent: the same seed and shape give the same conversations, on every machine and
 * for every server. Pure; a generator, so that an endless plan takes no memory.
 */
import type { Micros } from '../core/ids.ts';
import { SECOND } from '../core/ids.ts';
import type { Arrival } from '../sim/arrivals.ts';
import { modelName } from '../sim/generate.ts';
import type { Random } from '../sim/random.ts';
import { createRandom } from '../sim/random.ts';

/** A name, and how often it is drawn beside the others. */
export interface Weighted {
  readonly name: string;
  readonly weight: number;
}

/** Drawn evenly, both ends included. */
export interface Range {
  readonly least: number;
  readonly most: number;
}

export type Arrivals =
  /** So many conversations at once, each followed by the next one. */
  | { readonly kind: 'closed'; readonly concurrency: number }
  /** By the clock, whether earlier ones are done or not; requests a second, all turns counted. */
  | { readonly kind: 'poisson'; readonly perSecond: number }
  /** Gamma-distributed gaps: above a coefficient of variation of 1 in bursts, below it evenly. */
  | { readonly kind: 'gamma'; readonly perSecond: number; readonly variation: number }
  /** When others asked once. With `perSecond` at that mean rate, else at the trace's own. */
  | { readonly kind: 'trace'; readonly arrivals: () => Iterable<Arrival>; readonly perSecond: number | null };

export interface LoadShape {
  readonly seed: number;
  readonly arrivals: Arrivals;
  readonly models: readonly Weighted[];
  readonly tenants: readonly Weighted[];
  /** No conversation begins later. null: no limit. */
  readonly durationMicros: Micros | null;
  /** Most requests, all turns counted. null: no limit. */
  readonly requests: number | null;
  readonly turns: Range;
  /** Mean of the exponential wait between an answer and the next turn; 0: none. */
  readonly thinkMicros: Micros;
  /** Of each turn's own words. null: as the trace says. */
  readonly promptTokens: Range | null;
  readonly outputTokens: Range | null;
  /** Shares of 1: requests that are hung up on in mid-answer, conversations that are not urgent. */
  readonly cancelShare: number;
  readonly batchShare: number;
}

export interface PlannedTurn {
  /** From the end of the answer before to when this turn is meant to be sent. */
  readonly thinkMicros: Micros;
  readonly promptTokens: number;
  readonly maxTokens: number;
  /** Hangs up after so many pieces of text. null: never. */
  readonly cancelAfter: number | null;
}

export interface PlannedConversation {
  readonly id: number;
  /** From the load's start. Of a closed loop 0: as soon as there is room. */
  readonly startMicros: Micros;
  readonly model: string;
  readonly tenant: string;
  readonly priority: 'interactive' | 'batch';
  readonly turns: readonly PlannedTurn[];
}

/** Where the trace says nothing and nobody else does. */
const USUAL_TOKENS: Range = { least: 64, most: 64 };

/** Weights by Zipf's law: the rank of a name is its place. */
export const zipfWeights = (names: readonly string[], exponent: number): Weighted[] =>
  names.map((name, rank) => ({ name, weight: (rank + 1) ** -exponent }));

export function* plan(shape: LoadShape): Generator<PlannedConversation> {
  const mostTurns = shape.requests ?? Infinity;
  const until = shape.durationMicros ?? Infinity;
  const modelOf = modelsByTrace(shape);
  let planned = 0;
  let id = 0;
  for (const begin of begins(shape)) {
    if (planned >= mostTurns || begin.at >= until) return;
    // A stream of its own for each conversation: what one draws changes no other.
    const random = createRandom(Math.imul(shape.seed + 1, 0x9e3779b1) ^ Math.imul(id + 1, 0x85ebca77));
    const conversation = converse(shape, random, id, begin, mostTurns - planned);
    const model = begin.arrival === null ? null : modelOf(begin.arrival.model);
    yield model === null ? conversation : { ...conversation, model };
    planned += conversation.turns.length;
    id++;
  }
}

interface Begin {
  readonly at: Micros;
  readonly arrival: Arrival | null;
}

function* begins({ arrivals, turns, seed }: LoadShape): Generator<Begin> {
  if (arrivals.kind === 'trace') {
    const stretch = stretchOf(arrivals.arrivals, arrivals.perSecond);
    for (const arrival of arrivals.arrivals()) yield { at: Math.round(arrival.at * stretch), arrival };
    return;
  }
  const random = createRandom(seed ^ 0x10ad);
  let at = 0;
  for (;;) {
    if (arrivals.kind !== 'closed') at += gap(arrivals, (turns.least + turns.most) / 2, random);
    yield { at: Math.round(at), arrival: null };
  }
}

/** To the next conversation: each brings so many requests. */
function gap(
  arrivals: Extract<Arrivals, { readonly kind: 'poisson' | 'gamma' }>,
  turns: number,
  random: Random,
): number {
  const mean = (SECOND * turns) / arrivals.perSecond;
  if (arrivals.kind === 'poisson') return random.exponential(mean);
  const shape = arrivals.variation ** -2;
  return random.gamma(shape, mean / shape);
}

/** What the trace's times are multiplied by. */
function stretchOf(arrivals: () => Iterable<Arrival>, perSecond: number | null): number {
  if (perSecond === null) return 1;
  let [count, last] = [0, 0];
  for (const { at } of arrivals()) {
    count++;
    last = at;
  }
  return last === 0 ? 1 : ((count / perSecond) * SECOND) / last;
}

function converse(
  shape: LoadShape,
  random: Random,
  id: number,
  { at, arrival }: Begin,
  most: number,
): PlannedConversation {
  const length = (range: Range | null, traced: number | undefined): number =>
    range === null && traced !== undefined ? traced : between(random, range ?? USUAL_TOKENS);
  // Drawn first and always, so that another length of conversations leaves models and tenants as they are.
  const model = draw(random, shape.models);
  const tenant = draw(random, shape.tenants);
  const priority = random.uniform() < shape.batchShare ? 'batch' : 'interactive';
  const turns = Array.from({ length: Math.min(most, between(random, shape.turns)) }, (_, turn): PlannedTurn => {
    const thinkMicros = Math.round(random.exponential(shape.thinkMicros));
    const maxTokens = length(shape.outputTokens, arrival?.outputTokens);
    const isCancelled = random.uniform() < shape.cancelShare;
    const cancelAfter = 1 + random.below(Math.max(1, maxTokens - 1));
    return {
      thinkMicros: turn === 0 ? 0 : thinkMicros,
      promptTokens: length(shape.promptTokens, arrival?.promptTokens),
      maxTokens,
      cancelAfter: isCancelled ? cancelAfter : null,
    };
  });
  return { id, startMicros: at, model, tenant, priority, turns };
}

const between = (random: Random, { least, most }: Range): number => least + random.below(most - least + 1);

function draw(random: Random, from: readonly Weighted[]): string {
  let left = random.uniform() * from.reduce((sum, { weight }) => sum + weight, 0);
  return (from.find(({ weight }) => (left -= weight) < 0) ?? from.at(-1))?.name ?? '';
}

/** A trace's own models stand for the given ones, in the order in which they come. null: the trace names none. */
function modelsByTrace({ models }: LoadShape): (name: string) => string | null {
  const seen = new Map<string, string>();
  return (name) => {
    // What the reader gives to rows without a model if it is told of one model only.
    if (name === modelName(0)) return null;
    const known = seen.get(name) ?? (models[seen.size % models.length] as Weighted).name;
    seen.set(name, known);
    return known;
  };
}
