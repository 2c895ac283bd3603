/**
 * Watches the tokens of simulated requests go by, and keeps of each request a few numbers. The rules are in `docs/simulator.md`:
 * strict (token k is due at arrival + TTFT + k × TPOT) and Aegaeon's time-QoS (a late token starts a new window).
 */
import type { Micros } from '../core/ids.ts';

export interface Slo {
  readonly ttftMicros: Micros;
  readonly tpotMicros: Micros;
}

/** One request as seen from its client. */
export interface Track {
  readonly arrivedAt: Micros;
  readonly tenant: number;
  readonly promptTokens: number;
  readonly outputTokens: number;
  tokens: number;
  firstAt: Micros;
  lastAt: Micros;
  lateTokens: number;
  longestGap: Micros;
  /** Time-QoS: start of the window, what it earned, its budget, and what earlier windows scored. */
  windowAt: Micros;
  earned: Micros;
  budget: Micros;
  score: Micros;
}

export function createTrack(
  slo: Slo,
  arrivedAt: Micros,
  tenant: number,
  promptTokens: number,
  outputTokens: number,
): Track {
  return {
    arrivedAt,
    tenant,
    promptTokens,
    outputTokens,
    tokens: 0,
    firstAt: -1,
    lastAt: arrivedAt,
    lateTokens: 0,
    longestGap: 0,
    windowAt: arrivedAt,
    earned: 0,
    budget: slo.ttftMicros,
    score: 0,
  };
}

export function seeToken(slo: Slo, track: Track, at: Micros): void {
  if (at > track.arrivedAt + slo.ttftMicros + track.tokens * slo.tpotMicros) track.lateTokens++;
  if (track.tokens === 0) track.firstAt = at;
  else if (at - track.lastAt > track.longestGap) track.longestGap = at - track.lastAt;
  if (at - track.windowAt <= track.budget) track.earned = track.budget;
  else {
    track.score += track.earned;
    track.windowAt = at;
    track.earned = 0;
  }
  track.budget += slo.tpotMicros;
  track.tokens++;
  track.lastAt = at;
}

/**
 * `count` tokens, the i-th at `startAt + ends[i]`, no gap between them longer than `longestStep`. When the first is in time and no
 * step is longer than the target, all are: most tokens cost nothing to watch.
 */
export function seeTokens(
  slo: Slo,
  track: Track,
  startAt: Micros,
  ends: Float64Array,
  count: number,
  longestStep: Micros,
): void {
  if (count === 0) return;
  seeToken(slo, track, startAt + (ends[0] as number));
  if (longestStep <= slo.tpotMicros && isInTime(slo, track)) {
    const more = count - 1;
    if (more === 0) return;
    track.tokens += more;
    track.budget += more * slo.tpotMicros;
    track.earned = track.budget - slo.tpotMicros;
    track.lastAt = startAt + (ends[count - 1] as number);
    if (longestStep > track.longestGap) track.longestGap = longestStep;
    return;
  }
  for (let i = 1; i < count; i++) seeToken(slo, track, startAt + (ends[i] as number));
}

/** The token seen last was not late, by either rule. */
const isInTime = (slo: Slo, track: Track): boolean =>
  track.lastAt <= track.arrivedAt + slo.ttftMicros + (track.tokens - 1) * slo.tpotMicros &&
  track.lastAt - track.windowAt <= track.budget - slo.tpotMicros;

/** Share of its time in which the finished request was served as wanted: Aegaeon's “SLO attainment”. */
export function timeQos(track: Track): number {
  const total = track.lastAt - track.arrivedAt;
  const score = track.score + Math.min(track.budget, track.lastAt - track.windowAt);
  return total === 0 ? 1 : score / total;
}
