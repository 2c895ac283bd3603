/**
 * Troubles drawn from a seed: engines that crash or hang, loads that fail or are slow, clients that leave, clocks that jump, messages that
 * come late. What strikes, and when, does not depend on who schedules, so that policies are compared under the same troubles. Trouble is over
 * with the last arrival; after that everything must settle.
 */
import type { Micros } from '../core/ids.ts';
import { MILLI, MINUTE, SECOND } from '../core/ids.ts';
import type { Random } from './random.ts';
import { createRandom } from './random.ts';

export interface FaultSpec {
  /** The same seed strikes at the same times. */
  readonly seed: number;
  /** Times the usual, above 0. */
  readonly rate: number;
}

/** The usual: of each device in an hour. */
const PER_HOUR = { crash: 6, hang: 1, jump: 6 } as const;
const HOUR_MICROS = 60 * MINUTE;
/** The usual: shares of all loads, clients and messages; together they are never more than half. */
const LOAD_FAILS = 0.02;
const LOAD_IS_SLOW = 0.05;
const CLIENT_LEAVES = 0.01;
const MESSAGE_IS_LATE = 0.01;
const MOST_CHANCE = 0.25;

/** A slow load takes so many times as long. */
const SLOW = { least: 2, most: 8 } as const;
const LONGEST_STAY_OF_A_CLIENT_MICROS = 30 * SECOND;
const LONGEST_JUMP_MICROS = 5 * SECOND;
/** A message is at most so late. */
export const LATEST_MICROS = 300 * MILLI;
/** A node kills an engine whose slice does not end after so long: its default, as in the runner's adapter. */
export const HANG_MICROS = MINUTE;

export interface Blow {
  readonly at: Micros;
  /** `hang`: nothing more is heard of the engine, until the node kills it. `jump`: of the node's clock. */
  readonly kind: 'crash' | 'hang' | 'jump';
  /** 0 ≤ victim < 1: which of the engines on the device. */
  readonly victim: number;
  readonly jumpMicros: Micros;
}

export interface LoadFault {
  /** So many times as long as usual. */
  readonly slowness: number;
  /** At its end there is no memory for it. */
  readonly fails: boolean;
}

const FINE: LoadFault = { slowness: 1, fails: false };

/** What struck, and what it cost. */
export interface FaultCosts {
  crashes: number;
  hangs: number;
  failedLoads: number;
  slowLoads: number;
  clockJumps: number;
  lateMessages: number;
  /** Clients that left before they had their answer. */
  clientsLeft: number;
  /** Requests that were refused or failed because a load failed or an engine died. */
  requestsLost: number;
  /** Tokens whose KV went with an engine, of requests that went on: it was computed again. */
  recomputedTokens: number;
}

export class Faults {
  readonly #spec: FaultSpec;
  readonly #clients: Random;
  readonly costs: FaultCosts = {
    crashes: 0,
    hangs: 0,
    failedLoads: 0,
    slowLoads: 0,
    clockJumps: 0,
    lateMessages: 0,
    clientsLeft: 0,
    requestsLost: 0,
    recomputedTokens: 0,
  };
  /** From now on nothing strikes any more. */
  isCalm = false;

  constructor(spec: FaultSpec) {
    this.#spec = spec;
    this.#clients = this.random(0);
  }

  get rate(): number {
    return this.#spec.rate;
  }

  /** A stream of its own, so that what one part draws changes nothing for the others. */
  random(stream: number): Random {
    return createRandom(Math.imul(this.#spec.seed + 1, 0x9e3779b1) + stream);
  }

  chance(usual: number): number {
    return Math.min(MOST_CHANCE, usual * this.rate);
  }

  /** To be asked once for each arrival, in order. null: the client stays. */
  clientLeavesAfter(): Micros | null {
    const leaves = this.#clients.uniform() < this.chance(CLIENT_LEAVES);
    const after = this.#clients.below(LONGEST_STAY_OF_A_CLIENT_MICROS);
    return leaves ? after : null;
  }
}

/** What strikes one device. */
export class DeviceFaults {
  readonly #faults: Faults;
  readonly #blows: Random;
  readonly #loads: Random;
  readonly #messages: Random;

  constructor(faults: Faults, index: number) {
    this.#faults = faults;
    [this.#blows, this.#loads, this.#messages] = [1, 2, 3].map((part) => faults.random(3 * index + part)) as [
      Random,
      Random,
      Random,
    ];
  }

  get all(): Faults {
    return this.#faults;
  }

  /** Without end, and without regard to whether it is calm. */
  *blows(): Generator<Blow, never, void> {
    const { crash, hang, jump } = PER_HOUR;
    const perHour = (crash + hang + jump) * this.#faults.rate;
    for (let at = 0; ; ) {
      at += Math.ceil(this.#blows.exponential(HOUR_MICROS / perHour));
      const drawn = this.#blows.uniform() * (crash + hang + jump);
      yield {
        at,
        kind: drawn < crash ? 'crash' : drawn < crash + hang ? 'hang' : 'jump',
        victim: this.#blows.uniform(),
        jumpMicros: this.#blows.below(2 * LONGEST_JUMP_MICROS) - LONGEST_JUMP_MICROS,
      };
    }
  }

  nextLoad(): LoadFault {
    if (this.#faults.isCalm) return FINE;
    const drawn = this.#loads.uniform();
    const slowness = SLOW.least + this.#loads.uniform() * (SLOW.most - SLOW.least);
    const fails = this.#faults.chance(LOAD_FAILS);
    const { costs } = this.#faults;
    if (drawn < fails) {
      costs.failedLoads++;
      return { slowness: 1, fails: true };
    }
    if (drawn >= fails + this.#faults.chance(LOAD_IS_SLOW)) return FINE;
    costs.slowLoads++;
    return { slowness, fails: false };
  }

  /** By how much the next message is late; mostly by nothing. */
  nextDelay(): Micros {
    if (this.#faults.isCalm || this.#messages.uniform() >= this.#faults.chance(MESSAGE_IS_LATE)) return 0;
    this.#faults.costs.lateMessages++;
    return this.#messages.below(LATEST_MICROS);
  }
}
