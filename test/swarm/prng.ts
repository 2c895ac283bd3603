/** Chance for tests: a small seeded generator of 32-bit integers (xorshift with a Weyl sequence, Marsaglia 2003). No floats. */
export interface Prng {
  /** 0 ≤ result < bound. */
  below(bound: number): number;
  /** Both ends included. */
  between(least: number, most: number): number;
  /** True `chances` times in `of`. */
  chance(chances: number, of: number): boolean;
  pick<T>(choices: readonly T[]): T;
}

export function createPrng(seed: number): Prng {
  let x = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) | 1;
  let weyl = seed | 0;
  const next = (): number => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    weyl = (weyl + 0x6d2b79f5) | 0;
    return Math.imul(x + weyl, 0x2c1b3c6d) >>> 0;
  };
  for (let i = 0; i < 8; i++) next();
  const below = (bound: number): number => (next() >>> 1) % bound;
  return {
    below,
    between: (least, most) => least + below(most - least + 1),
    chance: (chances, of) => below(of) < chances,
    pick: (choices) => {
      const choice = choices[below(choices.length)];
      if (choice === undefined) throw new Error('nothing to pick from');
      return choice;
    },
  };
}

/** Draws ranks 0 … n − 1 by Zipf's law with exponent 1, by integer weights. */
export function zipf(prng: Prng, n: number): () => number {
  const upTo: number[] = [];
  let total = 0;
  for (let rank = 0; rank < n; rank++) {
    total += Math.max(1, Math.floor(1_000_000 / (rank + 1)));
    upTo.push(total);
  }
  return () => {
    const drawn = prng.below(total);
    let low = 0;
    let high = n - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((upTo[middle] ?? total) > drawn) high = middle;
      else low = middle + 1;
    }
    return low;
  };
}
