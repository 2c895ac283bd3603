/** From the tracks of all requests to the figures that are compared. Requests that got nothing count as late in everything. */
import type { Micros } from '../core/ids.ts';
import type { FaultCosts } from './faults.ts';
import type { Slo, Track } from './recorder.ts';
import { timeQos } from './recorder.ts';

export interface Work {
  /** Models brought onto a device. */
  switches: number;
  /** Device time spent waiting for them. */
  switchMicros: Micros;
  /** Device time spent computing. */
  busyMicros: Micros;
  /** Bytes over the links, both ways. */
  linkBytes: number;
  /** The most KV that a model ever had on a device, as a share of its room; above 1 it would not have fitted. */
  peakKvShare: number;
}

export const noWork = (): Work => ({ switches: 0, switchMicros: 0, busyMicros: 0, linkBytes: 0, peakKvShare: 0 });

/** Each request has one. `cancelled`: its client left. `failed`: an engine's doing. */
export interface Outcomes {
  finished: number;
  refused: number;
  cancelled: number;
  failed: number;
}

/** Micros; of requests that finished late too, and infinite for those that never did. */
export interface Percentiles {
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
}

export interface Report extends Work {
  readonly requests: number;
  readonly finished: number;
  /** Refused, given up, or never finished. */
  readonly dropped: number;
  readonly outcomes: Outcomes;
  /** null: nothing was to go wrong. */
  readonly faults: FaultCosts | null;
  /** Shares of 1. */
  readonly timeQos: number;
  readonly tokensOnTime: number;
  readonly strict: number;
  readonly ttftAndMeanTpot: number;
  readonly ttftOnTime: number;
  readonly ttft: Percentiles;
  /** TTFT at each percent of all requests, from 0 to 100. */
  readonly ttftByPercent: readonly number[];
  /** Of requests that finished, as Aegaeon's tools count. */
  readonly ttftOfFinished: Percentiles;
  readonly tpot: Percentiles;
  readonly endToEnd: Percentiles;
  readonly longestGap: Percentiles;
  /** Tokens a second of requests whose every token was on time. */
  readonly goodput: number;
  readonly makespanMicros: Micros;
  /** Share of what each tenant asked for (tokens) that came all in time, in the order in which they first came. */
  readonly shareByTenant: readonly number[];
  /** Least and most service per tenant, as a share of what it asked for, and their difference. */
  readonly fairnessGap: number;
}

export class Tally {
  readonly #slo: Slo;
  readonly #ttft: number[] = [];
  readonly #tpot: number[] = [];
  readonly #endToEnd: number[] = [];
  readonly #gaps: number[] = [];
  readonly #asked: number[] = [];
  readonly #good: number[] = [];
  #requests = 0;
  #qos = 0;
  #tokens = 0;
  #late = 0;
  #strict = 0;
  #means = 0;
  #firsts = 0;
  #goodTokens = 0;
  #makespan = 0;
  readonly #outcomes: Outcomes = { finished: 0, refused: 0, cancelled: 0, failed: 0 };
  readonly #faults: FaultCosts | null;
  readonly work: Work = noWork();

  constructor(slo: Slo, faults: FaultCosts | null = null) {
    this.#slo = slo;
    this.#faults = faults;
  }

  get slo(): Slo {
    return this.#slo;
  }

  end(track: Track, outcome: keyof Outcomes): void {
    const { ttftMicros, tpotMicros } = this.#slo;
    this.#requests++;
    this.#outcomes[outcome]++;
    this.#tokens += track.outputTokens;
    this.#asked[track.tenant] = (this.#asked[track.tenant] ?? 0) + track.promptTokens + track.outputTokens;
    if (outcome !== 'finished') {
      this.#late += track.outputTokens;
      return;
    }
    const ttft = track.firstAt - track.arrivedAt;
    const tpot = track.tokens > 1 ? (track.lastAt - track.firstAt) / (track.tokens - 1) : 0;
    this.#ttft.push(ttft);
    this.#tpot.push(tpot);
    this.#endToEnd.push(track.lastAt - track.arrivedAt);
    this.#gaps.push(track.longestGap);
    this.#qos += timeQos(track);
    this.#late += track.lateTokens;
    this.#makespan = Math.max(this.#makespan, track.lastAt);
    if (ttft <= ttftMicros) this.#firsts++;
    if (ttft <= ttftMicros && tpot <= tpotMicros) this.#means++;
    if (track.lateTokens > 0) return;
    this.#strict++;
    this.#goodTokens += track.tokens;
    this.#good[track.tenant] = (this.#good[track.tenant] ?? 0) + track.promptTokens + track.outputTokens;
  }

  report(): Report {
    const n = Math.max(1, this.#requests);
    const finished = this.#ttft.length;
    const dropped = this.#requests - finished;
    const shares = this.#asked.map((asked, tenant) => (this.#good[tenant] ?? 0) / Math.max(1, asked));
    return {
      ...this.work,
      requests: this.#requests,
      finished,
      dropped,
      outcomes: { ...this.#outcomes },
      faults: this.#faults === null ? null : { ...this.#faults },
      timeQos: this.#qos / n,
      tokensOnTime: 1 - this.#late / Math.max(1, this.#tokens),
      strict: this.#strict / n,
      ttftAndMeanTpot: this.#means / n,
      ttftOnTime: this.#firsts / n,
      ttft: percentiles(this.#ttft, dropped),
      ttftByPercent: quantiles(
        this.#ttft,
        dropped,
        Array.from({ length: 101 }, (_, percent) => percent),
      ),
      ttftOfFinished: percentiles(this.#ttft, 0),
      tpot: percentiles(this.#tpot, dropped),
      endToEnd: percentiles(this.#endToEnd, dropped),
      longestGap: percentiles(this.#gaps, dropped),
      goodput: this.#makespan === 0 ? 0 : (this.#goodTokens * 1e6) / this.#makespan,
      makespanMicros: this.#makespan,
      shareByTenant: shares,
      fairnessGap: shares.length === 0 ? 0 : Math.max(...shares) - Math.min(...shares),
    };
  }
}

function percentiles(values: readonly number[], dropped: number): Percentiles {
  const [p50, p95, p99] = quantiles(values, dropped, [50, 95, 99]) as [number, number, number];
  return { p50, p95, p99 };
}

/** Linear between ranks, as numpy's; the dropped are the largest. NaN of none. */
function quantiles(values: readonly number[], dropped: number, percents: readonly number[]): number[] {
  const sorted = Float64Array.from(values).toSorted();
  return percents.map((percent) => {
    const rank = ((sorted.length + dropped - 1) * percent) / 100;
    const low = Math.floor(rank);
    const a = low < sorted.length ? (sorted[low] ?? Number.NaN) : Infinity;
    if (rank === low) return a;
    const b = low + 1 < sorted.length ? (sorted[low + 1] as number) : Infinity;
    return b === Infinity ? Infinity : a + (b - a) * (rank - low);
  });
}
