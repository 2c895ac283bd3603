/** From what clients saw under over-commit to the rows that are published. Pure. */
import type { Driven, LoadRecord } from '../../src/load/driver.ts';
import type { Slo } from '../../src/load/report.ts';
import { figuresOf, ttftOf } from '../../src/load/report.ts';
import type { BenchRow } from '../harness.ts';
import { percentile } from '../harness.ts';

/** One contender under one load. */
export interface Played extends Driven {
  /** null: it could not be told. */
  readonly switches: number | null;
}

export interface Level {
  readonly percent: number;
  /** When the last request may be sent, micros from the start. */
  readonly loadMicros: number;
  /** By contender; Berth's is `berth`. */
  readonly played: ReadonlyMap<string, Played>;
}

export const SLO: Slo = { ttftMicros: 2_000_000, tpotMicros: null, gapMicros: 200_000 };
/** What others call goodput: the same, but of the mean time between tokens. */
const MEAN_SLO: Slo = { ...SLO, tpotMicros: SLO.gapMicros, gapMicros: null };
const TTFT_BAR = 1 / 3;
const GOODPUT_BAR = 1.5;
/** The level at which the bars are. */
export const BAR_PERCENT = 90;
/** Of the picture. */
const PERCENTILES = [10, 25, 50, 75, 90, 95, 99];

interface Measure {
  readonly metric: string;
  readonly unit: string;
  readonly of: (played: Played, loadMicros: number) => number;
}

const millis = (micros: number): number => micros / 1_000;
export const ttft = (records: readonly LoadRecord[], p: number): number =>
  millis(percentile(records.flatMap(ttftOf), p));

/** Good answers a second of the load; what was cut off or never sent is none. */
export const goodput = ({ records }: Driven, loadMicros: number): number =>
  figuresOf(records, loadMicros, SLO).goodPerSecond;

/** Output tokens that came in this time, spread evenly over the pieces of their answers. */
export const tokensWithin = (records: readonly LoadRecord[], from: number, to: number): number =>
  records.reduce((sum, { piecesAt, outputTokens }) => {
    const within = piecesAt.filter((at) => at >= from && at < to).length;
    return sum + (within === 0 ? 0 : (within * outputTokens) / piecesAt.length);
  }, 0);

function measures(rarest: ReadonlySet<string>): Measure[] {
  const ofRarest = ({ records }: Played): LoadRecord[] => records.filter(({ model }) => rarest.has(model));
  return [
    ...PERCENTILES.map((p) => ({ metric: `TTFT p${p}`, unit: 'ms', of: ({ records }: Played) => ttft(records, p) })),
    ...[50, 95, 99].map((p) => ({
      metric: `TTFT p${p} of the rarest half`,
      unit: 'ms',
      of: (played: Played) => ttft(ofRarest(played), p),
    })),
    { metric: 'good requests', unit: '1/s', of: goodput },
    {
      metric: 'good requests, gaps on average',
      unit: '1/s',
      of: ({ records }, loadMicros) => figuresOf(records, loadMicros, MEAN_SLO).goodPerSecond,
    },
    {
      metric: 'good requests, of those sent',
      unit: '%',
      of: ({ records }, loadMicros) => 100 * figuresOf(records, loadMicros, SLO).goodShare,
    },
    {
      metric: 'output',
      unit: 'tokens/s',
      of: ({ records, elapsedMicros }) => figuresOf(records, elapsedMicros, SLO).outputTokensPerSecond,
    },
    { metric: 'switches of models', unit: '', of: ({ switches }) => switches ?? Number.NaN },
    {
      metric: 'requests refused or failed',
      unit: '',
      of: ({ records }) => records.filter(({ outcome }) => outcome !== 'done' && outcome !== 'cut_off').length,
    },
    {
      metric: 'requests cut off a minute after the load',
      unit: '',
      of: ({ records }) => records.filter(({ outcome }) => outcome === 'cut_off').length,
    },
    { metric: 'later turns never sent', unit: '', of: ({ unsent }) => unsent },
  ];
}

/** @param rarest names of the models of the less popular half */
export function rowsOf(levels: readonly Level[], rarest: ReadonlySet<string>): BenchRow[] {
  return levels.flatMap(({ percent, loadMicros, played }) => {
    const what = { case: `${percent} % of capacity` };
    const berth = played.get('berth') as Played;
    const peers = [...played].filter(([name]) => name !== 'berth');
    const rows = measures(rarest).flatMap(({ metric, unit, of }): BenchRow[] => {
      const own = of(berth, loadMicros);
      if (peers.length === 0) return [{ ...what, metric, unit, berth: own }];
      return peers.map(([name, other]) => {
        const peer = of(other, loadMicros);
        return { ...what, metric: `${metric}, peer ${name}`, unit, berth: own, peer, ratio: own / peer };
      });
    });
    return [...(percent === BAR_PERCENT ? barsOf(what.case, berth, peers, loadMicros) : []), ...rows];
  });
}

/** Against whoever of the peers is better at each. */
function barsOf(
  level: string,
  berth: Played,
  peers: readonly (readonly [string, Played])[],
  loadMicros: number,
): BenchRow[] {
  if (peers.length === 0) return [];
  const own = { ttft: ttft(berth.records, 99), goodput: goodput(berth, loadMicros) };
  const best = {
    ttft: Math.min(...peers.map(([, { records }]) => ttft(records, 99))),
    goodput: Math.max(...peers.map(([, played]) => goodput(played, loadMicros))),
  };
  return [
    {
      case: level,
      metric: 'TTFT p99, better of the peers',
      unit: 'ms',
      berth: own.ttft,
      peer: best.ttft,
      ratio: own.ttft / best.ttft,
      bar: '≤ 1/3',
      pass: own.ttft / best.ttft <= TTFT_BAR,
    },
    {
      case: level,
      metric: 'good requests, better of the peers',
      unit: '1/s',
      berth: own.goodput,
      peer: best.goodput,
      ratio: own.goodput / best.goodput,
      bar: `≥ ${GOODPUT_BAR}`,
      pass: own.goodput >= GOODPUT_BAR * best.goodput && own.goodput > 0,
    },
  ];
}
