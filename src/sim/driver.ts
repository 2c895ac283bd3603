/**
 * Drives one arbiter in virtual time, as the node's inbox does in real time: what happened at one time is told in one call, what it
 * decides is performed, and it is called again when it asked to be.
 */
import type { Action } from '../core/actions.ts';
import type { Arbiter } from '../core/arbiter.ts';
import type { CoreEvent } from '../core/events.ts';
import type { Micros } from '../core/ids.ts';
import type { Timeline } from './timeline.ts';

/** The arbiter may be called so often at one time before it is said to spin. */
const MOST_CALLS_AT_ONCE = 10_000;

export interface DriverWiring {
  readonly timeline: Timeline;
  readonly arbiter: Arbiter;
  readonly perform: (action: Action) => void;
  /** Something was told: `drain` is to be called before time goes on. */
  readonly onTold?: () => void;
  readonly onDecision?: (now: Micros, events: readonly CoreEvent[], actions: readonly Action[]) => void;
  /** It is called again at the times that it asks for; not in a replay, in which those calls are recorded too. */
  readonly wakes: boolean;
}

export class Driver {
  readonly #wiring: DriverWiring;
  #inbox: CoreEvent[] = [];
  #wakeAt: Micros | null = null;
  /** By how much the node's clock is ahead of the time that passes. */
  #skew: Micros = 0;
  calls = 0;
  events = 0;

  constructor(wiring: DriverWiring) {
    this.#wiring = wiring;
  }

  get arbiter(): Arbiter {
    return this.#wiring.arbiter;
  }

  tell(event: CoreEvent): void {
    if (this.#inbox.push(event) === 1) this.#wiring.onTold?.();
  }

  /** The node's clock is put forward, or (negative) back. */
  jump(byMicros: Micros): void {
    this.#skew += byMicros;
  }

  get #now(): Micros {
    return Math.max(0, this.#wiring.timeline.now + this.#skew);
  }

  /** Until nothing is left to tell at this time. */
  drain(): void {
    for (let calls = 0; this.#inbox.length > 0; calls++) {
      if (calls > MOST_CALLS_AT_ONCE) throw new Error(`the arbiter spins at ${this.#wiring.timeline.now}`);
      this.#decide();
    }
  }

  #decide(): void {
    const { arbiter, perform, onDecision, wakes } = this.#wiring;
    const now = this.#now;
    const events = this.#inbox;
    this.#inbox = [];
    this.calls++;
    this.events += events.length;
    const { actions, wakeAt } = arbiter.handle({ now, events });
    onDecision?.(now, events, actions);
    for (const action of actions) perform(action);
    if (wakes && wakeAt !== null) this.#wake(wakeAt);
  }

  #wake(wakeAt: Micros): void {
    if (this.#wakeAt !== null && this.#wakeAt <= wakeAt && this.#wakeAt > this.#now) return;
    this.#wakeAt = wakeAt;
    this.#wiring.timeline.at(wakeAt - this.#skew, () => {
      if (this.#wakeAt !== wakeAt) return;
      this.#wakeAt = null;
      if (this.#inbox.length === 0) this.tell({ type: 'ticked' });
    });
  }
}
