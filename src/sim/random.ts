/**
 * Seeded chance for generated traces: the same seed gives the same numbers on every machine. The generator is sfc32 (C. Doty-Humphrey,
 * PractRand); exponential by inversion, Gamma by Marsaglia and Tsang (“A simple method for generating gamma variables”, TOMS 2000).
 */
export interface Random {
  /** 0 ≤ result < 1. */
  uniform(): number;
  /** 0 ≤ result < bound, whole. */
  below(bound: number): number;
  exponential(mean: number): number;
  /** Mean is `shape × scale`. */
  gamma(shape: number, scale: number): number;
}

export function createRandom(seed: number): Random {
  let [a, b, c, counter] = [0x9e3779b9, seed | 0, Math.imul(seed, 0x85ebca6b) ^ 0x243f6a88, 1];
  const next = (): number => {
    const sum = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum;
    return sum >>> 0;
  };
  for (let round = 0; round < 12; round++) next();
  const uniform = (): number => next() / 2 ** 32;
  /** Box and Muller; the second of the pair is not kept, so that each draw takes the same number of random words. */
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  const gamma = (shape: number, scale: number): number => {
    // Below 1 the method does not apply: draw one shape higher and correct by a power.
    if (shape < 1) return gamma(shape + 1, scale) * (1 - uniform()) ** (1 / shape);
    const d = shape - 1 / 3;
    const spread = 1 / Math.sqrt(9 * d);
    for (;;) {
      const x = normal();
      const v = (1 + spread * x) ** 3;
      if (v > 0 && Math.log(1 - uniform()) < x * x * 0.5 + d - d * v + d * Math.log(v)) return d * v * scale;
    }
  };
  return {
    uniform,
    below: (bound) => Math.floor(uniform() * bound),
    exponential: (mean) => -mean * Math.log(1 - uniform()),
    gamma,
  };
}

/** Draws ranks 0 … n − 1 with probability ∝ 1 / (rank + 1) ** exponent. */
export function zipf(random: Random, n: number, exponent: number): () => number {
  const upTo = new Float64Array(n);
  let total = 0;
  for (let rank = 0; rank < n; rank++) upTo[rank] = total += (rank + 1) ** -exponent;
  return () => {
    const drawn = random.uniform() * total;
    let low = 0;
    let high = n - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((upTo[middle] as number) > drawn) high = middle;
      else low = middle + 1;
    }
    return low;
  };
}
