/** Watches the conduct of the arbiter from outside: what it may not do although its books balance. */
import type { Action } from '../../src/core/actions.ts';
import { isAhead, leastCounter } from '../../src/core/fairness.ts';
import type { Micros, ModelId } from '../../src/core/ids.ts';
import { freeBytes } from '../../src/core/memory.ts';
import { computeLanes, grantedLanes } from '../../src/core/slices.ts';
import { leastInteractive, waitingOf } from '../../src/core/queues.ts';
import type { Model } from '../../src/core/state.ts';
import type { World } from './world.ts';

/** Rules for which a model may be taken off the device whoever waits for it: somebody said so. */
const BY_ORDER = new Set(['stopped', 'removed', 'relaunched']);

/** So many times the patience, nobody has to wait for the sake of those who got less. */
const PUT_OFF_PATIENCES = 5;
/** When that need is over, it is seen so soon. */
const PUT_OFF_LOOK_MICROS = 50_000;

export class Referee {
  readonly #world: World;
  readonly #isExact: boolean;
  /** Loaded for waiting requests, and none of them started yet. */
  readonly #unused = new Set<ModelId>();
  /** When it was last seen that a model may be put off. */
  readonly #putOffAt = new Map<ModelId, Micros>();

  constructor(world: World, isExact: boolean) {
    this.#world = world;
    this.#isExact = isExact;
  }

  /** After `handle`, before its actions are performed. */
  watch(actions: readonly Action[]): void {
    for (const action of actions) {
      switch (action.type) {
        case 'ensureLoaded':
          this.#load(action.modelId);
          break;
        case 'ensureAsleep':
        case 'ensureUnloaded':
          this.#evict(action.modelId, action.because.rule);
          break;
        case 'startRequest':
          this.#unused.delete(action.modelId);
          break;
        default:
      }
    }
    // Loaded for requests that have left meanwhile: it is as free to go as any other.
    for (const id of this.#unused) if ((this.#world.state.models.get(id)?.waiting ?? 0) === 0) this.#unused.delete(id);
    this.#conserveWork();
  }

  /** After the actions were performed. */
  weigh(): void {
    const { device, config } = this.#world;
    const lendable = config.device.memoryBytes - config.device.overheadBytes;
    if (this.#isExact && device.bytes > lendable)
      this.#cry('the device is over its budget', { bytes: device.bytes, lendable });
  }

  #load(id: ModelId): void {
    const { state } = this.#world;
    const free = freeBytes(state);
    if (free < 0) this.#cry('a load is begun without room', { model: id, free });
    if (this.#model(id).waiting > 0) this.#unused.add(id);
  }

  #evict(id: ModelId, rule: string): void {
    const model = this.#model(id);
    if (BY_ORDER.has(rule)) {
      this.#unused.delete(id);
      return;
    }
    if (model.spec.pinned) this.#cry('a pinned model is evicted', { model: id, rule });
    if (this.#unused.delete(id) && model.waiting > 0) {
      this.#cry('a model is evicted before its first use', { model: id, rule, waiting: model.waiting });
    }
  }

  #conserveWork(): void {
    const { state } = this.#world;
    const free = computeLanes(state) - grantedLanes(state);
    let isEnding = false;
    for (const { slice } of state.sliced) isEnding ||= slice?.ending === true;
    for (const model of state.busy) {
      const { id } = model;
      const isIdle = model.slice === null && model.quietUntil <= state.now;
      if (isIdle && free > 0 && !isEnding) this.#cry('a lane is idle and a model has work', { model: id, free });
      if (isIdle && state.sliced.size === 0) this.#cry('a model has work and none computes', { model: id, free });
    }
    for (const model of state.startable) {
      const { id } = model;
      const isLeaving = model.drainingSince !== null || model.stopAsked || model.loadedRevision !== model.spec.revision;
      const generating = waitingOf(state, model).filter(({ kind }) => kind === 'generate').length;
      const isFree = generating > 0 && model.active.size - model.embedding < model.spec.parallel;
      if (!isLeaving && isFree) {
        this.#cry('a request waits beside a free place', {
          model: id,
          active: model.active.size,
          waiting: model.waiting,
        });
      }
    }
    this.#conserveRoom();
  }

  /** With nothing on its way and nobody ahead, a model that fits is being loaded, unless it may be put off. */
  #conserveRoom(): void {
    const { state } = this.#world;
    if (state.loading.size > 0 || state.wanted.size !== 1) return;
    for (const model of state.wanted) {
      const { id } = model;
      const isBackingOff = model.failure !== null && state.now < model.failure.retryAt;
      const need = model.costs.loadedBytes - (state.held.get(id) ?? 0);
      const isOff = model.phase === 'cold' || model.phase === 'asleep';
      if (isOff && !isBackingOff && need <= freeBytes(state) && !this.#mayBePutOff(model)) {
        this.#cry('there is room for a model that somebody waits for', { model: id, need, free: freeBytes(state) });
      }
    }
  }

  /** A load takes a lane: those who got far more may wait until others need none for it, but not for ever. */
  #mayBePutOff({ id, queues, waitingSince, leftAt }: Model): boolean {
    const { state } = this.#world;
    const { now, busy, device, residency } = state;
    const isShort = busy.size > Math.max(1, device.lanes - 1);
    const least = isShort ? Math.min(...[...busy].map(({ active }) => leastInteractive(state, active))) : Infinity;
    const until = Math.max(waitingSince ?? now, leftAt) + PUT_OFF_PATIENCES * residency.patienceMicros;
    if (now < until && isAhead(leastCounter(state, queues.keys()), least)) this.#putOffAt.set(id, now);
    return now < Math.min(until, (this.#putOffAt.get(id) ?? -Infinity) + PUT_OFF_LOOK_MICROS);
  }

  #model(id: ModelId): Model {
    const model = this.#world.state.models.get(id);
    if (model === undefined) throw new Error(`referee: an unknown model ${id}`);
    return model;
  }

  #cry(what: string, terms: Readonly<Record<string, string | number>>): never {
    const printed = Object.entries(terms).map(([name, value]) => `${name} ${value}`);
    throw new Error(`foul: ${what} (${printed.join(', ')}, at ${this.#world.timeline.now})`);
  }
}
