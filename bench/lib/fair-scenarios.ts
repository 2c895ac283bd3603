/**
 * The loads of VTC's evaluation (Sheng et al., “Fairness in Serving Large Language Models”, OSDI'24, §5), by their names, for any number
 * of tenants: who sends how long a request when. Rates are given as parts of a tenant's share of what the node can serve, so that a
 * scenario means the same on every machine; the paper's own rates are those of its machine.
 */
import type { Random } from './random.ts';

export interface Shape {
  readonly promptTokens: number;
  readonly outputTokens: number;
}

export interface Arrival extends Shape {
  readonly tenant: string;
  /** Milliseconds from the start. */
  readonly at: number;
}

export interface ScenarioOptions {
  readonly tenants: readonly string[];
  readonly millis: number;
  /** Weighted tokens a second that the node serves when it is full. */
  readonly capacity: number;
  readonly random: Random;
}

export interface Scenario {
  readonly name: string;
  /** Of the tenants' indices those that never ask for more than their share. */
  readonly modest: (index: number) => boolean;
  readonly arrivals: (options: ScenarioOptions) => Arrival[];
}

/** No request is longer. */
export const LONGEST: Shape = { promptTokens: 40, outputTokens: 24 };
const USUAL = LONGEST;
const SHORT: Shape = { promptTokens: 12, outputTokens: 8 };
const NONE = (): boolean => false;
const isFirst = (index: number): boolean => index % 2 === 0;

const weighted = ({ promptTokens, outputTokens }: Shape): number => promptTokens + 2 * outputTokens;

interface Source {
  readonly shape: Shape;
  /** In parts of its share, at a time from 0 to 1 of the run. 0: silent. */
  readonly rate: (time: number) => number;
  readonly isPoisson?: boolean;
}

const always =
  (rate: number): Source['rate'] =>
  () =>
    rate;
/** Silent every other eighth of the run. */
const onOff =
  (rate: number): Source['rate'] =>
  (time) =>
    Math.floor(time * 8) % 2 === 0 ? rate : 0;

const from =
  (source: (index: number) => Source) =>
  ({ tenants, millis, capacity, random }: ScenarioOptions): Arrival[] =>
    tenants
      .flatMap((tenant, index) => {
        const { shape, rate, isPoisson = false } = source(index);
        /** Milliseconds between two requests at just its share. */
        const apart = (1000 * weighted(shape) * tenants.length) / capacity;
        const arrivals: Arrival[] = [];
        // Time runs by what is due: where the rate is zero nothing becomes due. Tenants don't all begin in one moment.
        let due = isPoisson ? random.exponential(1) : random.next();
        const step = Math.min(10, millis / 100);
        for (let at = 0; at < millis; at += step) {
          due -= (rate(at / millis) * step) / apart;
          while (due <= 0) {
            arrivals.push({ tenant, at, ...shape });
            due += isPoisson ? random.exponential(1) : 1;
          }
        }
        return arrivals;
      })
      .toSorted((a, b) => a.at - b.at);

export const SCENARIOS: readonly Scenario[] = [
  {
    // All more than their share, half of them four times as much as the others (twice in the paper): runs here are shorter.
    name: 'overload',
    modest: NONE,
    arrivals: from((index) => ({ shape: USUAL, rate: always(isFirst(index) ? 1.5 : 6) })),
  },
  {
    // From less than a share to a multiple of it.
    name: 'proportional',
    modest: (index) => index % 2 === 0,
    arrivals: from((index) => ({ shape: USUAL, rate: always(isFirst(index) ? 0.5 : index % 4 === 1 ? 3 : 1.5) })),
  },
  {
    name: 'on/off',
    modest: NONE,
    arrivals: from((index) => ({ shape: USUAL, rate: isFirst(index) ? onOff(3) : always(2) })),
  },
  {
    name: 'Poisson short/long',
    modest: NONE,
    arrivals: from((index) => ({ shape: isFirst(index) ? SHORT : USUAL, rate: always(2), isPoisson: true })),
  },
  {
    name: 'increasing',
    modest: isFirst,
    arrivals: from((index) => ({ shape: USUAL, rate: isFirst(index) ? always(0.5) : (time) => 4 * time })),
  },
  {
    // On and off below the share; overload by both; short against long, the roles changed.
    name: 'distribution shift',
    modest: NONE,
    arrivals: ({ millis, ...options }) => {
      const third = millis / 3;
      const phases = [
        from((index) => ({ shape: USUAL, rate: isFirst(index) ? onOff(0.8) : always(2) })),
        from((index) => ({ shape: USUAL, rate: always(isFirst(index) ? 1.5 : 6) })),
        from((index) => ({
          shape: isFirst(index) ? USUAL : SHORT,
          rate: always(isFirst(index) ? 3 : 1.5),
          isPoisson: true,
        })),
      ];
      return phases.flatMap((phase, index) =>
        phase({ ...options, millis: third }).map((arrival) => ({ ...arrival, at: arrival.at + index * third })),
      );
    },
  },
];
