/**
 * One device of a node: an inbox, a clock and the arbiter. Whatever happens there goes into the inbox; the arbiter is asked at once, its
 * actions are performed, their completions come back through the inbox. Nothing else decides.
 */
import type { Action } from '../core/actions.ts';
import { whyNot, whyTooLarge } from '../core/admission.ts';
import { createArbiter } from '../core/arbiter.ts';
import type { CoreEvent, DeviceSpec, Limits, ResidencySpec, TenantSpec } from '../core/events.ts';
import type { Bytes, ModelId } from '../core/ids.ts';
import { freeBytes } from '../core/memory.ts';
import type { State } from '../core/state.ts';
import type { EngineEvent } from '../engines/engine.ts';
import { BerthError } from '../errors.ts';
import type { DeviceView, NodeStatus } from './api.ts';
import type { Clock } from './clock.ts';
import type { DecisionLog } from './decisions.ts';
import { createDeviceTime } from './device-time.ts';
import type { Hosted, HostedSpec } from './hosted.ts';
import { toModelSpec } from './hosted.ts';
import type { Journal } from './journal.ts';
import type { Log } from './log.ts';
import { logDecision } from './log.ts';
import { observe } from './observe.ts';
import type { Stage } from './perform.ts';
import { perform } from './perform.ts';
import type { Offer } from './placement.ts';
import { createRegistry } from './registry.ts';
import type { LiveRequest } from './requests.ts';
import { statusOf } from './views.ts';
import type { Waiters } from './waiters.ts';
import { createWaiters } from './waiters.ts';

export interface DeviceConfiguration {
  readonly id: string;
  /** What people call it: of what make it is. */
  readonly name: string;
  readonly device: DeviceSpec;
  /** Those that may be computed there, each with its engine there. */
  readonly models: readonly HostedSpec[];
}

/** What holds for all devices of the node. */
export interface SharedConfiguration {
  readonly limits: Limits;
  readonly residency: ResidencySpec;
  readonly tenants: readonly TenantSpec[];
}

/** What a device has of its node. */
export interface DeviceOptions extends Pick<Stage, 'kv' | 'metrics' | 'payerOf' | 'request' | 'drop'> {
  readonly id: string;
  /** How it is called in metrics, decisions and the journal; null: it is the node's only one. */
  readonly label: string | null;
  readonly clock: Clock;
  readonly log: Log;
  readonly journal: Journal | null;
  readonly decisions: DecisionLog;
  /** How long `load` and `stop` wait for the model. */
  readonly operatorDeadlineMicros: number;
  readonly keepsKv: boolean;
  readonly heard: (device: Device, live: LiveRequest, event: EngineEvent) => void;
}

export class Device {
  readonly registry = createRegistry((id) => observe(this.#stage, id));
  readonly deviceTime = createDeviceTime();
  readonly #options: DeviceOptions;
  readonly #arbiter = createArbiter();
  readonly #waiters: Waiters;
  readonly #inbox: CoreEvent[] = [];
  readonly #stage: Stage;
  #pumping = false;
  #cancelWake: (() => void) | null = null;
  #name = '';
  /** Models that may be brought here. One that is listed no more may be here still. */
  #allowed: ReadonlySet<ModelId> = new Set();

  constructor(options: DeviceOptions) {
    this.#options = options;
    const { clock, log, kv, metrics, label, payerOf, request, drop } = options;
    this.#waiters = createWaiters(clock, options.operatorDeadlineMicros);
    this.#stage = {
      clock,
      log,
      kv,
      metrics,
      label,
      payerOf,
      request,
      drop,
      deviceTime: this.deviceTime,
      hosted: (id) => this.registry.get(id),
      requestsOf: (id) => this.#requestsOf(id),
      reopen: (hosted) => this.registry.reopen(hosted),
      tell: (event) => this.tell(event),
      heard: (live, event) => options.heard(this, live, event),
    };
  }

  get id(): string {
    return this.#options.id;
  }

  /** For reading only. */
  get state(): State {
    return this.#arbiter.state;
  }

  // -------------------------------------------------------------- configuration

  /** `hosted`: all models of the node. One of them that is here, and now belongs to other devices, stays until it is through. */
  async prepare(models: readonly HostedSpec[], hosted: ReadonlySet<ModelId>): Promise<() => void> {
    const named = new Set(models.map(({ id }) => id));
    const staying = this.registry
      .listed()
      .filter(({ spec }) => !named.has(spec.id) && hosted.has(spec.id) && this.isAt(spec.id))
      .map(({ spec }): HostedSpec => ({ ...spec, aliases: [], pinned: false }));
    const commit = await this.registry.prepare([...models, ...staying]);
    return () => {
      this.#allowed = named;
      commit();
    };
  }

  /** After the commit of `prepare`. */
  configure({ name, device }: DeviceConfiguration, { limits, residency, tenants }: SharedConfiguration): void {
    this.#name = name;
    this.deviceTime.configured(this.#options.clock.now(), device.lanes);
    const models = this.registry.listed().map((hosted) => toModelSpec(hosted, this.#options.keepsKv));
    this.tell({ type: 'configured', device, limits, residency, tenants, models });
    for (const { modelId } of models)
      if (!this.#allowed.has(modelId)) this.tell({ type: 'stopRequested', modelId, force: false });
  }

  // -------------------------------------------------------------- the cycle

  tell(event: CoreEvent): void {
    this.#inbox.push(event);
    this.pump();
  }

  /** To be taken in with the next `pump`. */
  note(events: readonly CoreEvent[]): void {
    this.#inbox.push(...events);
  }

  pump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      while (this.#inbox.length > 0) {
        const events = this.#inbox.splice(0);
        const now = this.#options.clock.now();
        const { actions, wakeAt } = this.#arbiter.handle({ now, events });
        this.#write(now, events, actions);
        for (const action of actions) this.#perform(now, action);
        this.#scheduleWake(wakeAt, now);
      }
    } finally {
      this.#pumping = false;
    }
    this.#waiters.look(this.#arbiter.state);
  }

  #write(now: number, events: readonly CoreEvent[], actions: readonly Action[]): void {
    const { label, journal } = this.#options;
    journal?.write({ ...(label !== null && { device: label }), now, events, actions });
  }

  #perform(now: number, action: Action): void {
    this.#options.decisions.add(now, action, this.#options.label);
    logDecision(this.#options.log, action);
    perform(this.#stage, action);
  }

  #scheduleWake(wakeAt: number | null, now: number): void {
    this.#cancelWake?.();
    this.#cancelWake =
      wakeAt === null ? null : this.#options.clock.after(wakeAt - now, () => this.tell({ type: 'ticked' }));
  }

  *#requestsOf(id: ModelId): Generator<LiveRequest> {
    const model = this.#arbiter.state.models.get(id);
    if (model === undefined) return;
    for (const requests of [...model.queues.values(), model.active]) {
      for (const request of requests) {
        const live = this.#options.request(request);
        if (live !== undefined) yield live;
      }
    }
  }

  // -------------------------------------------------------------- where a model goes

  allows(id: ModelId): boolean {
    return this.#allowed.has(id);
  }

  /** It is on the device, on its way, or waited for here: it can't be anywhere else. */
  isAt(id: ModelId): boolean {
    const model = this.state.models.get(id);
    if (model === undefined) return false;
    return model.phase !== 'cold' || model.active.size > 0 || model.waiting > 0 || model.loadAsked;
  }

  offer(id: ModelId, wasHere: boolean): Offer {
    const { state } = this;
    const model = state.models.get(id);
    const free = freeBytes(state);
    let busy = state.requests.size;
    for (const { spec, active, waiting } of state.present) if (spec.isElsewhere === true) busy -= active.size + waiting;
    return {
      fits: model !== undefined && whyTooLarge(state, model) === null,
      isFailing: (model?.failure?.retryAt ?? 0) > this.#options.clock.now(),
      hasRoom: (model?.costs.loadedBytes ?? Infinity) <= free,
      busy: busy / state.device.lanes,
      freeBytes: free,
      wasHere,
    };
  }

  // -------------------------------------------------------------- what people see and ask

  /** What its models were measured to hold. */
  #chargedBytes(): Bytes {
    let sum = 0;
    for (const { chargedBytes } of this.registry.all()) sum += chargedBytes;
    return sum;
  }

  status(): Pick<NodeStatus, 'device' | 'requests'> {
    return statusOf(this.state, this.#name, this.#chargedBytes());
  }

  view(): DeviceView {
    const { device, requests } = this.status();
    return { id: this.id, ...device, running: requests.running, waiting: requests.waiting };
  }

  async load({ spec }: Hosted): Promise<void> {
    const model = this.state.models.get(spec.id);
    const refusal = model === undefined ? null : whyNot(this.state, model);
    if (refusal !== null && refusal.code !== 'queue_full') throw new BerthError(refusal.code, refusal.message);
    const loaded = this.#waiters.waitFor(this.state, spec.id, 'resident');
    this.tell({ type: 'loadRequested', modelId: spec.id, keepAliveMicros: null });
    await loaded;
  }

  async stop({ spec }: Hosted, force: boolean): Promise<void> {
    const stopped = this.#waiters.waitFor(this.state, spec.id, 'cold');
    this.tell({ type: 'stopRequested', modelId: spec.id, force });
    await stopped;
  }

  close(): void {
    this.#cancelWake?.();
  }
}
