/**
 * What do more lanes buy a model? Learned as it runs: the time of a decode step on each number of lanes, by the size of its batch
 * (in powers of two). What was not seen is guessed from what was; now and then another width is tried, so that a guess, or a
 * neighbour outside of Berth that has come or gone, does not mislead for ever.
 */
import type { EventOf } from './events.ts';
import type { Micros } from './ids.ts';
import { MILLI, SECOND } from './ids.ts';

export interface Pace {
  readonly stepMicros: Micros;
  readonly at: Micros;
}

/** By `lanes x batch`, the batch as a power of two. */
export type Paces = Map<string, Pace>;

/** A second lane is worth about 0.8 of the first where nothing was measured (measured on two cores: 0.75 to 0.9). */
const GUESSED_EXPONENT = 0.85;
/** A slice's mean is believed if it had so many steps, or they took so long: what disturbs a step takes milliseconds. */
const FEWEST_STEPS = 3;
const LONG_MICROS = 50 * MILLI;
/** A width that is in use is compared with another one so often; a width that was given up is tried again sooner. */
const TRY_NARROWER_MICROS = 60 * SECOND;
const TRY_WIDER_MICROS = 10 * SECOND;

const key = (lanes: number, batch: number): string => `${lanes}x${batch}`;

const bucketOf = (sequences: number): number => Math.floor(Math.log2(Math.max(1, sequences)));

function decodedTokens({ decodeTokens }: EventOf<'sliceEnded'>): number {
  let tokens = 0;
  for (const count of Object.values(decodeTokens)) tokens += count;
  return tokens;
}

/** From a slice that only decoded: steps with prefill say little about the next step. */
export function learnPace(paces: Paces, event: EventOf<'sliceEnded'>, now: Micros): void {
  const { prefillTokens, steps, wallMicros } = event;
  if (prefillTokens > 0 || steps === 0 || (steps < FEWEST_STEPS && wallMicros < LONG_MICROS)) return;
  const batch = bucketOf(Math.round(decodedTokens(event) / event.steps));
  const seen = Math.round(event.wallMicros / event.steps);
  const before = paces.get(key(event.lanes, batch))?.stepMicros ?? seen;
  paces.set(key(event.lanes, batch), { stepMicros: Math.max(1, Math.round((before + seen) / 2)), at: now });
}

/** How many times as fast as on one lane it is on so many, with so many sequences. */
export function speedup(paces: Paces, lanes: number, sequences: number): number {
  const batch = bucketOf(sequences);
  const one = paces.get(key(1, batch));
  const many = paces.get(key(lanes, batch));
  return lanes > 1 && one !== undefined && many !== undefined
    ? one.stepMicros / many.stepMicros
    : lanes ** GUESSED_EXPONENT;
}

/** Another width of which too little is known, to be tried for a moment; null: no need. */
export function widthToTry(paces: Paces, lanes: number, most: number, sequences: number, now: Micros): number | null {
  if (most < 2) return null;
  const batch = bucketOf(sequences);
  const isWide = lanes > 1;
  // On one lane it is because two were slower, or because it was told to: then `most` is one.
  const other = isWide ? 1 : most;
  const seen = paces.get(key(other, batch));
  const here = paces.get(key(lanes, batch));
  if (here === undefined) return null;
  const stale = isWide ? TRY_NARROWER_MICROS : TRY_WIDER_MICROS;
  return seen === undefined || now - seen.at > stale ? other : null;
}
