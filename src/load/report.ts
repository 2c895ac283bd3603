/**
 * From what happened to what is told: latencies, throughput, goodput and shares, in all, by model, by tenant and by priority. Pure. A
 * request that was cut off or ran into its time-out counts in latencies with what it had waited by then: leaving it out would flatter
 * whoever lets requests wait longest. One that was refused counts as an error only.
 */
import type { Micros } from '../core/ids.ts';
import type { Driven, LoadRecord } from './driver.ts';
import type { Overhead } from './overhead.ts';

/** A request is good if it was answered whole and kept all of these. null: not asked. */
export interface Slo {
  readonly ttftMicros: Micros | null;
  /** Mean time between its tokens. */
  readonly tpotMicros: Micros | null;
  /** Longest time between two pieces of its text. */
  readonly gapMicros: Micros | null;
}

/** Nearest rank, and the mean; NaN of none. */
export interface Percentiles {
  readonly mean: Micros;
  readonly p50: Micros;
  readonly p95: Micros;
  readonly p99: Micros;
}

export interface Figures {
  readonly requests: number;
  /** Answered whole. */
  readonly done: number;
  /** Hung up on by plan. */
  readonly cancelled: number;
  /** How many ended with which code, most frequent first. */
  readonly errors: Readonly<Record<string, number>>;
  /** From when it was meant to be sent to the first piece of text. */
  readonly ttft: Percentiles;
  /** Between two pieces of text of one answer. */
  readonly interToken: Percentiles;
  /** From when it was meant to be sent to the end. */
  readonly endToEnd: Percentiles;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly outputTokens: number;
  readonly outputTokensPerSecond: number;
  /** Of those that were not cancelled, the share of 1 that was good; and how many a second. */
  readonly goodShare: number;
  readonly goodPerSecond: number;
}

export interface Named extends Figures {
  readonly name: string;
}

export interface LoadReport {
  readonly elapsedMicros: Micros;
  readonly all: Figures;
  /** Most requests first. */
  readonly models: readonly Named[];
  readonly tenants: readonly Named[];
  /** `interactive`, `batch`, or both. */
  readonly priorities: readonly Named[];
  /** Weighted tokens between the tenant that got most and the one that got least. null: one tenant. */
  readonly fairnessGap: number | null;
  readonly unsent: number;
  readonly overhead: Overhead;
}

/** As VTC counts service (OSDI'24): a prompt token that had to be computed once, an output token twice. */
const OUTPUT_WEIGHT = 2;
const WAITED = new Set(['cut_off', 'timeout']);

export function report({ records, elapsedMicros, unsent, overhead }: Driven, slo: Slo): LoadReport {
  const group = (key: (record: LoadRecord) => string): Named[] =>
    [...Map.groupBy(records, key)]
      .map(([name, own]) => ({ name, ...figuresOf(own, elapsedMicros, slo) }))
      .toSorted((a, b) => b.requests - a.requests || (a.name < b.name ? -1 : 1));
  const tenants = group(({ tenant }) => tenant);
  const services = tenants.map(serviceOf);
  return {
    elapsedMicros,
    all: figuresOf(records, elapsedMicros, slo),
    models: group(({ model }) => model),
    tenants,
    priorities: group(({ priority }) => priority),
    fairnessGap: services.length < 2 ? null : Math.max(...services) - Math.min(...services),
    unsent,
    overhead,
  };
}

/** Weighted tokens. */
export const serviceOf = ({ promptTokens, cachedTokens, outputTokens }: Figures): number =>
  promptTokens - cachedTokens + OUTPUT_WEIGHT * outputTokens;

/** Of these records; rates are over the elapsed time. */
export function figuresOf(records: readonly LoadRecord[], elapsedMicros: Micros, slo: Slo): Figures {
  const count = (outcome: string): number => records.filter((record) => record.outcome === outcome).length;
  const failed = records.filter(({ outcome }) => outcome !== 'done' && outcome !== 'cancelled');
  const seconds = elapsedMicros / 1e6;
  const good = records.filter((record) => isGood(record, slo)).length;
  const cancelled = count('cancelled');
  // Only what was answered, in part at least, was served.
  const served = records.filter(({ piecesAt, outcome }) => piecesAt.length > 0 || outcome === 'done');
  const sum = (key: 'promptTokens' | 'cachedTokens' | 'outputTokens'): number =>
    served.reduce((total, record) => total + record[key], 0);
  return {
    requests: records.length,
    done: count('done'),
    cancelled,
    errors: Object.fromEntries(
      [...Map.groupBy(failed, ({ outcome }) => outcome)]
        .map(([code, own]) => [code, own.length] as const)
        .toSorted(([, a], [, b]) => b - a),
    ),
    ttft: percentiles(records.flatMap(ttftOf)),
    interToken: percentiles(records.flatMap(gapsOf)),
    endToEnd: percentiles(
      records.flatMap(({ outcome, intendedAt, endedAt }) =>
        outcome === 'done' || WAITED.has(outcome) ? [endedAt - intendedAt] : [],
      ),
    ),
    promptTokens: sum('promptTokens'),
    cachedTokens: sum('cachedTokens'),
    outputTokens: sum('outputTokens'),
    outputTokensPerSecond: seconds === 0 ? 0 : sum('outputTokens') / seconds,
    goodShare: good / Math.max(1, records.length - cancelled),
    goodPerSecond: seconds === 0 ? 0 : good / seconds,
  };
}

/** None of a request that was refused; of one that waited in vain, as long as it waited. An empty answer came when it ended. */
export function ttftOf({ piecesAt: [first], intendedAt, endedAt, outcome }: LoadRecord): Micros[] {
  if (first !== undefined) return [first - intendedAt];
  return outcome === 'done' || WAITED.has(outcome) ? [endedAt - intendedAt] : [];
}

/** Between two pieces; of one that was cut off in mid-answer also the wait for the piece that did not come. */
function gapsOf({ piecesAt, endedAt, outcome }: LoadRecord): Micros[] {
  const gaps = piecesAt.slice(1).map((at, index) => at - (piecesAt[index] as Micros));
  const last = piecesAt.at(-1);
  if (last !== undefined && WAITED.has(outcome)) gaps.push(endedAt - last);
  return gaps;
}

export function isGood(record: LoadRecord, { ttftMicros, tpotMicros, gapMicros }: Slo): boolean {
  if (record.outcome !== 'done') return false;
  const [first = record.endedAt] = record.piecesAt;
  const last = record.piecesAt.at(-1) ?? first;
  const tpot = record.outputTokens < 2 ? 0 : (last - first) / (record.outputTokens - 1);
  return (
    (ttftMicros === null || first - record.intendedAt <= ttftMicros) &&
    (tpotMicros === null || tpot <= tpotMicros) &&
    (gapMicros === null || gapsOf(record).every((gap) => gap <= gapMicros))
  );
}

/** The value that so many percent do not exceed (nearest rank); undefined of none. */
function ranked(values: readonly number[]): (percent: number) => number | undefined {
  const sorted = Float64Array.from(values).toSorted();
  return (percent) => sorted[Math.max(1, Math.ceil((percent / 100) * sorted.length)) - 1];
}

function percentiles(values: readonly number[]): Percentiles {
  const at = ranked(values);
  const [p50, p95, p99] = [50, 95, 99].map((percent) => at(percent) ?? Number.NaN) as [number, number, number];
  return { mean: values.reduce((sum, value) => sum + value, 0) / values.length, p50, p95, p99 };
}

/** TTFT at each percent from 0 to 100, for a picture; requests that were refused never had one. */
export function ttftByPercent(records: readonly LoadRecord[]): Micros[] {
  const at = ranked(records.map((record) => ttftOf(record)[0] ?? Infinity));
  return Array.from({ length: 101 }, (_, percent) => at(percent) ?? Infinity);
}
