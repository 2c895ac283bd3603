/**
 * One request on all of its meters at once: reserve what it will probably cost, start it when there is room, count as it goes, settle
 * with what it used. All meters or none.
 */
import type { Micros } from '../core/ids.ts';
import type { Cost, LimitRefusal, Meter } from './meter.ts';

/** @returns the reservation, which waits until it is started; or why there is none. */
export function reserve(meters: readonly Meter[], cost: Cost, now: Micros): Reservation | LimitRefusal {
  let worst: LimitRefusal | null = null;
  for (const meter of meters) {
    const refusal = meter.refuses(cost, now);
    if (refusal !== null && (worst === null || weight(refusal) > weight(worst))) worst = refusal;
  }
  return worst ?? new Reservation(meters, cost, now);
}

/** A spent budget is told before a full queue, and that before a rate; of two rates the one that lasts longer. */
const weight = ({ limit, retryAfterMicros }: LimitRefusal): number =>
  limit === 'budget' ? Infinity : limit === 'queue' ? Number.MAX_SAFE_INTEGER : (retryAfterMicros ?? 0);

export class Reservation {
  readonly #meters: readonly Meter[];
  readonly #expected: number;
  /** What is held of each meter's budget: no more than was left of it. */
  readonly #held: number[];
  #live = 0;
  #state: 'waiting' | 'running' | 'over' = 'waiting';

  constructor(meters: readonly Meter[], { promptTokens, outputTokens }: Cost, now: Micros) {
    this.#meters = meters;
    this.#expected = promptTokens + outputTokens;
    this.#held = meters.map((meter) => Math.min(this.#expected, meter.budgetLeft(now) ?? this.#expected));
    for (const [index, meter] of meters.entries()) meter.take(this.#expected, this.#held[index] ?? 0, now);
  }

  canStart(): boolean {
    return this.#state === 'waiting' && !this.#meters.some((meter) => meter.mustWait());
  }

  start(): void {
    if (this.#state !== 'waiting') return;
    this.#state = 'running';
    for (const meter of this.#meters) meter.start();
  }

  /** It has used `tokens` more. @returns true: a budget is spent, cut it off. */
  progress(tokens: number, now: Micros): boolean {
    if (this.#state !== 'running') return false;
    this.#live += tokens;
    let spent = false;
    for (const [index, meter] of this.#meters.entries()) {
      const held = this.#held[index] ?? 0;
      const more = Math.max(0, this.#live - held);
      this.#held[index] = held + more;
      meter.progress(tokens, more);
      spent = meter.isSpent(now) || spent;
    }
    return spent;
  }

  /** It is over, and has used so many tokens in all. Idempotent. */
  settle(usedTokens: number, now: Micros): void {
    if (this.#state === 'over') return;
    const wasRunning = this.#state === 'running';
    this.#state = 'over';
    for (const [index, meter] of this.#meters.entries()) {
      meter.settle({
        unused: this.#expected - usedTokens,
        held: this.#held[index] ?? 0,
        live: this.#live,
        used: usedTokens,
        wasRunning,
        now,
      });
    }
  }

  /** The node did not take it: nothing of it counts, its request neither. */
  undo(now: Micros): void {
    if (this.#state === 'over') return;
    this.settle(0, now);
    for (const meter of this.#meters) meter.giveBackRequest(now);
  }
}
