/** Chance by a fixed seed, so that every contender and every run gets the same work. */

export interface Random {
  /** From 0 to 1, 1 not included. */
  next(): number;
  /** A whole number, both ends included. */
  between(least: number, most: number): number;
  pick<T>(values: readonly T[]): T;
  exponential(mean: number): number;
  /** So many common words; some 1.1 to 1.3 tokens each. */
  words(count: number): string;
}

const WORDS =
  'the a of to in on and but so then when while where who one two three old new small large quiet bright early late long short cold warm ' +
  'ship harbour river bridge garden window letter street market winter summer morning evening doctor teacher sailor farmer child brother ' +
  'stone glass paper silver water bread music story question answer number reason walked found asked wrote opened closed carried counted ' +
  'remembered forgot waited turned began ended before after under over near beyond never always again slowly quickly together alone';
const VOCABULARY = WORDS.split(' ');

/** Mulberry32 (T. Ettinger): 32 bits of state are plenty for texts and orders. */
export function seeded(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const between = (least: number, most: number): number => least + Math.floor(next() * (most - least + 1));
  const pick = <T>(values: readonly T[]): T => values[Math.floor(next() * values.length)] as T;
  return {
    next,
    between,
    pick,
    exponential: (mean) => -mean * Math.log(1 - next()),
    words: (count) => Array.from({ length: count }, () => pick(VOCABULARY)).join(' '),
  };
}
