/**
 * The counters of one scope (a tenant, a key, a tenant's use of a model). What enforces a limit is what reports it. Time is an
 * input: Unix micros.
 */
import type { Micros } from '../core/ids.ts';
import { Bucket } from './bucket.ts';
import type { BudgetWindow, LimitSpec } from './spec.ts';
import { USUAL_QUEUE } from './spec.ts';
import { windowAt } from './window.ts';

/** What a request will probably use. */
export interface Cost {
  readonly promptTokens: number;
  readonly outputTokens: number;
}

export type LimitName = 'requests' | 'tokens' | 'budget' | 'queue';

/** Why not, and when to come back. */
export interface LimitRefusal {
  readonly limit: LimitName;
  /** Whose limit: `tenant`, `key`, `model`. */
  readonly scope: string;
  /** The limit as it was set. */
  readonly most: number;
  /** null: not known (a queue), or never. */
  readonly retryAfterMicros: Micros | null;
}

export interface RateView {
  readonly limit: number;
  readonly remaining: number;
  /** Until all of it is there again. */
  readonly resetMicros: Micros;
}

export interface BudgetView {
  readonly window: BudgetWindow;
  readonly limit: number;
  readonly spent: number;
  /** Promised to requests that are not done. */
  readonly held: number;
  /** Unix micros; null: never. */
  readonly endsAt: Micros | null;
}

export interface MeterView {
  readonly requests: RateView | null;
  readonly tokens: RateView | null;
  readonly budget: BudgetView | null;
  readonly concurrency: { readonly limit: number | null; readonly running: number; readonly waiting: number };
}

/** Tokens that were spent since the beginning of a Unix day, from the ledger. */
export type SpentSince = (sinceDay: number) => number;

const bucketOf = (limit: number | null, now: Micros): Bucket | null => (limit === null ? null : new Bucket(limit, now));

export class Meter {
  readonly scope: string;
  #spec: LimitSpec;
  #requests: Bucket | null;
  #tokens: Bucket | null;
  #windowEndsAt: Micros | null = null;
  #spent = 0;
  /** Of requests that are not done: what they are expected to use, and what they have used. */
  #held = 0;
  #live = 0;
  #running = 0;
  #waiting = 0;

  constructor(scope: string, spec: LimitSpec, now: Micros, spentSince: SpentSince) {
    this.scope = scope;
    this.#spec = spec;
    this.#requests = bucketOf(spec.requestsPerMinute, now);
    this.#tokens = bucketOf(spec.tokensPerMinute, now);
    this.#openWindow(now, spentSince);
  }

  get spec(): LimitSpec {
    return this.#spec;
  }

  /** Other limits from now on. What runs goes on counting; rates begin with a full minute. */
  reconfigure(spec: LimitSpec, now: Micros, spentSince: SpentSince): void {
    const { requestsPerMinute, tokensPerMinute } = this.#spec;
    this.#spec = spec;
    if (spec.requestsPerMinute !== requestsPerMinute) this.#requests = bucketOf(spec.requestsPerMinute, now);
    if (spec.tokensPerMinute !== tokensPerMinute) this.#tokens = bucketOf(spec.tokensPerMinute, now);
    this.#openWindow(now, spentSince);
  }

  #openWindow(now: Micros, spentSince: SpentSince): void {
    if (this.#spec.budget === null) return;
    const { sinceDay, endsAt } = windowAt(this.#spec.budget.window, now);
    this.#windowEndsAt = endsAt;
    this.#spent = spentSince(sinceDay);
  }

  // ------------------------------------------------------------ may it come in?

  /** null: it may. Nothing is changed. */
  refuses({ promptTokens, outputTokens }: Cost, now: Micros): LimitRefusal | null {
    const { budget } = this.#spec;
    const left = this.budgetLeft(now);
    // The last tokens of a budget are worth an answer that is cut off; a prompt that alone goes beyond them is not.
    if (budget !== null && left !== null && left < promptTokens + 1) {
      return this.#refusal('budget', budget.tokens, this.#windowEndsAt === null ? null : this.#windowEndsAt - now);
    }
    if (this.mustWait() && this.#waiting >= (this.#spec.queue ?? USUAL_QUEUE)) {
      return this.#refusal('queue', this.#spec.queue ?? USUAL_QUEUE, null);
    }
    const requests = this.#requests?.wait(1, now) ?? 0;
    const tokens = this.#tokens?.wait(promptTokens + outputTokens, now) ?? 0;
    if (requests === 0 && tokens === 0) return null;
    return requests >= tokens
      ? this.#refusal('requests', this.#requests?.limit ?? 0, requests)
      : this.#refusal('tokens', this.#tokens?.limit ?? 0, tokens);
  }

  mustWait(): boolean {
    return this.#spec.concurrency !== null && this.#running >= this.#spec.concurrency;
  }

  /** Tokens that are neither spent nor promised; null: no budget. */
  budgetLeft(now: Micros): number | null {
    if (this.#spec.budget === null) return null;
    this.#turnWindow(now);
    return Math.max(0, this.#spec.budget.tokens - this.#spent - this.#held);
  }

  /** What requests that are not done have used counts too. */
  isSpent(now: Micros): boolean {
    if (this.#spec.budget === null) return false;
    this.#turnWindow(now);
    return this.#spent + this.#live >= this.#spec.budget.tokens;
  }

  // ------------------------------------------------------------ the life of a reservation

  take(tokens: number, held: number, now: Micros): void {
    this.#requests?.take(1, now);
    this.#tokens?.take(tokens, now);
    this.#held += held;
    this.#waiting += 1;
  }

  start(): void {
    this.#waiting -= 1;
    this.#running += 1;
  }

  /** `heldBy`: by how much it holds more of the budget than was promised to it. */
  progress(tokens: number, heldBy: number): void {
    this.#live += tokens;
    this.#held += heldBy;
  }

  /** `unused` may be negative: it used more than it had reserved. */
  settle(end: {
    readonly unused: number;
    readonly held: number;
    readonly live: number;
    readonly used: number;
    readonly wasRunning: boolean;
    readonly now: Micros;
  }): void {
    const { unused, held, live, used, wasRunning, now } = end;
    if (unused > 0) this.#tokens?.give(unused, now);
    else if (unused < 0) this.#tokens?.take(-unused, now);
    this.#turnWindow(now);
    this.#held -= held;
    this.#live -= live;
    this.#spent += used;
    if (wasRunning) this.#running -= 1;
    else this.#waiting -= 1;
  }

  /** It never came to the node: its request doesn't count either. */
  giveBackRequest(now: Micros): void {
    this.#requests?.give(1, now);
  }

  view(now: Micros): MeterView {
    this.#turnWindow(now);
    const rate = (bucket: Bucket | null): RateView | null =>
      bucket === null
        ? null
        : { limit: bucket.limit, remaining: bucket.remaining(now), resetMicros: bucket.reset(now) };
    const { budget, concurrency } = this.#spec;
    return {
      requests: rate(this.#requests),
      tokens: rate(this.#tokens),
      budget:
        budget === null
          ? null
          : {
              window: budget.window,
              limit: budget.tokens,
              spent: this.#spent,
              held: this.#held,
              endsAt: this.#windowEndsAt,
            },
      concurrency: { limit: concurrency, running: this.#running, waiting: this.#waiting },
    };
  }

  /** What is spent is the window's; what is promised goes over into the next one. */
  #turnWindow(now: Micros): void {
    if (this.#spec.budget === null || this.#windowEndsAt === null || now < this.#windowEndsAt) return;
    this.#windowEndsAt = windowAt(this.#spec.budget.window, now).endsAt;
    this.#spent = 0;
  }

  #refusal(limit: LimitName, most: number, retryAfterMicros: Micros | null): LimitRefusal {
    return { limit, scope: this.scope, most, retryAfterMicros };
  }
}
