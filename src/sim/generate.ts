/**
 * Generated traces: popularity by Zipf's law, arrivals in Gamma bursts, on and off, or by the hour, as measured on real services
 * (ServeGen, arXiv 2505.09999: Gamma or Weibull gaps, skewed clients). Streams, never lists: a million arrivals take no memory.
 */
import type { Micros } from '../core/ids.ts';
import { SECOND } from '../core/ids.ts';
import type { Arrival, Mapping } from './arrivals.ts';
import type { Random } from './random.ts';
import { createRandom, zipf } from './random.ts';

/** Names a model by its number, so that names sort as numbers do: `model-007`. */
export const modelName = (index: number): string => `model-${String(index).padStart(3, '0')}`;
export const tenantName = (index: number): string => `tenant-${String(index).padStart(2, '0')}`;

/** Draws model and tenant of one arrival after the other. A tenant is as popular as its models. */
export function assign({ models, tenants, zipf: exponent, seed }: Mapping): () => { model: string; tenant: string } {
  const random = createRandom(seed);
  const rank = zipf(random, Math.max(1, models), exponent);
  // Popularity must not follow the number by which a model gets its size.
  const shuffled = shuffle(models, random);
  return () => ({
    model: modelName(shuffled[rank()] ?? 0),
    tenant: tenantName(random.below(Math.max(1, tenants))),
  });
}

function shuffle(count: number, random: Random): number[] {
  const numbers = Array.from({ length: count }, (_, index) => index);
  for (let at = count - 1; at > 0; at--) {
    const other = random.below(at + 1);
    [numbers[at], numbers[other]] = [numbers[other] as number, numbers[at] as number];
  }
  return numbers;
}

export interface Shape extends Mapping {
  readonly requests: number;
  /** Mean arrivals a second, over all models. */
  readonly perSecond: number;
  /**
   * `poisson`: gaps without memory. `gamma`: the same mean, in bursts (coefficient of variation 2). `on-off`: Poisson at four times
   * the rate for a quarter of each minute. `diurnal`: the rate swings between a fifth and nine fifths within each hour.
   */
  readonly pattern: 'poisson' | 'gamma' | 'on-off' | 'diurnal';
  readonly meanPromptTokens: number;
  readonly meanOutputTokens: number;
}

const ON_OFF_MICROS = 60 * SECOND;
const DIURNAL_MICROS = 3_600 * SECOND;
/** Gamma of shape 1/4 has a coefficient of variation of 2. */
const BURST_SHAPE = 0.25;

/** Lengths are Gamma of shape 2 around their means: right-skewed, as real ones are. */
export function* generate(shape: Shape): Generator<Arrival> {
  const random = createRandom(shape.seed ^ 0x7ace);
  const give = assign(shape);
  const length = (mean: number): number => Math.max(1, Math.round(random.gamma(2, mean / 2)));
  let at = 0;
  for (let made = 0; made < shape.requests; made++) {
    at = nextAt(shape, random, at);
    yield {
      at,
      ...give(),
      promptTokens: length(shape.meanPromptTokens),
      outputTokens: length(shape.meanOutputTokens),
    };
  }
}

function nextAt({ pattern, perSecond }: Shape, random: Random, at: Micros): Micros {
  const mean = SECOND / perSecond;
  switch (pattern) {
    case 'poisson':
      return at + Math.round(random.exponential(mean));
    case 'gamma':
      return at + Math.round(random.gamma(BURST_SHAPE, mean / BURST_SHAPE));
    case 'on-off': {
      // In the time that counts only “on”, arrivals are Poisson; then the “off” quarters are put back between.
      const on = ON_OFF_MICROS / 4;
      const spent = Math.floor(at / ON_OFF_MICROS) * on + Math.min(at % ON_OFF_MICROS, on);
      const then = spent + Math.round(random.exponential(mean / 4));
      return Math.max(at, Math.floor(then / on) * ON_OFF_MICROS + (then % on));
    }
    case 'diurnal': {
      // Thinning (Lewis and Shedler 1979): draw at the highest rate, keep in proportion to the rate of the moment.
      const highest = 1.8;
      let then = at;
      do then += Math.max(1, Math.round(random.exponential(mean / highest)));
      while (random.uniform() * highest > 1 - 0.8 * Math.cos((2 * Math.PI * then) / DIURNAL_MICROS));
      return then;
    }
    default:
      return pattern satisfies never;
  }
}
