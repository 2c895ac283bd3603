/**
 * A token bucket: it holds a minute's worth, is full at first, and fills evenly. A cost beyond a minute's worth is let through when it
 * is full, and leaves a debt. Exact: one unit of the limit is MINUTE parts, of which `limit` flow in each microsecond.
 */
import type { Micros } from '../core/ids.ts';
import { MINUTE } from '../core/ids.ts';

export class Bucket {
  readonly limit: number;
  readonly #capacity: number;
  #level: number;
  #at: Micros;

  /** @param limit units a minute: a whole number from 1 to MOST_PER_MINUTE. */
  constructor(limit: number, now: Micros) {
    this.limit = limit;
    this.#capacity = limit * MINUTE;
    this.#level = this.#capacity;
    this.#at = now;
  }

  /** How long until `cost` is let through; 0: now. */
  wait(cost: number, now: Micros): Micros {
    this.#fill(now);
    const needed = Math.min(cost * MINUTE, this.#capacity);
    return this.#level >= needed ? 0 : Math.ceil((needed - this.#level) / this.limit);
  }

  take(cost: number, now: Micros): void {
    this.#fill(now);
    this.#level -= cost * MINUTE;
  }

  /** Puts back what was taken and not used. */
  give(cost: number, now: Micros): void {
    this.#fill(now);
    this.#level = Math.min(this.#capacity, this.#level + cost * MINUTE);
  }

  remaining(now: Micros): number {
    this.#fill(now);
    return Math.max(0, Math.floor(this.#level / MINUTE));
  }

  /** How long until it is full. */
  reset(now: Micros): Micros {
    this.#fill(now);
    return Math.ceil((this.#capacity - this.#level) / this.limit);
  }

  /** A clock that was set back fills nothing. */
  #fill(now: Micros): void {
    const elapsed = now - this.#at;
    this.#at = now;
    if (elapsed <= 0) return;
    const missing = this.#capacity - this.#level;
    this.#level = elapsed >= missing / this.limit ? this.#capacity : this.#level + elapsed * this.limit;
  }
}
