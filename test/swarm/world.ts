/**
 * A node without a shell: the real arbiter, a virtual device, and clients. Merges what is planned, what comes back and the times at
 * which the arbiter wants to be woken; checks after each `handle` that the books balance and that nobody was wronged.
 */
import type { Action } from '../../src/core/actions.ts';
import type { Arbiter } from '../../src/core/arbiter.ts';
import { createArbiter } from '../../src/core/arbiter.ts';
import type { CoreEvent, DeviceSpec, Limits, ModelSpec, ResidencySpec, TenantSpec } from '../../src/core/events.ts';
import type { Micros, ModelId, RequestId, TenantId } from '../../src/core/ids.ts';
import { requestId } from '../../src/core/ids.ts';
import { checkInvariants } from '../../src/sim/invariants.ts';
import type { DeviceFaults, Physics } from './device.ts';
import { VirtualDevice } from './device.ts';
import { Digest } from '../../src/sim/digest.ts';
import { createPrng } from './prng.ts';
import { Referee } from './referee.ts';
import { Timeline } from '../../src/sim/timeline.ts';

export type Outcome = 'finished' | 'failed' | 'refused' | 'cancelled';

export interface Client {
  readonly requestId: RequestId;
  readonly modelId: ModelId;
  readonly tenantId: TenantId;
  readonly promptTokens: number;
  readonly outputTokens: number;
  readonly arrivedAt: Micros;
  firstStartAt: Micros | null;
  starts: number;
  generated: number;
  /** Tokens whose KV was saved when it was preempted. */
  saved: number;
  outcome: Outcome | null;
  /** Code of a refusal. */
  code: string | null;
  endedAt: Micros | null;
}

export interface Ask {
  readonly modelId: ModelId;
  readonly tenantId: TenantId;
  readonly promptTokens: number;
  readonly outputTokens: number;
  readonly kind?: 'generate' | 'embed';
  readonly priority?: 'interactive' | 'batch';
  readonly keepAliveMicros?: Micros | null;
  readonly onEnd?: (client: Client) => void;
}

/** The configuration as it stands; `configure` tells it. */
export interface WorldConfig {
  device: DeviceSpec;
  limits: Limits;
  residency: ResidencySpec;
  readonly models: Map<ModelId, ModelSpec>;
  tenants: TenantSpec[];
}

export interface WorldOptions {
  readonly seed: number;
  readonly config: WorldConfig;
  readonly physics: (spec: ModelSpec) => Physics;
  readonly faults?: DeviceFaults;
  readonly hopMicros?: Micros;
  /** Check invariants and conduct after each handle; off for benchmarks. */
  readonly isChecked?: boolean;
  /** Physical bytes never exceed the budget: where nothing is larger than said and the budget stays. */
  readonly isExact?: boolean;
  readonly arbiter?: Arbiter;
}

const NO_FAULTS: DeviceFaults = { loadFails: 0, parkFails: 0, late: 0 };
/** So often the arbiter may be called at one point in time before we say that it spins. */
const MOST_CALLS_AT_ONCE = 1_000;

export class World {
  readonly timeline = new Timeline();
  readonly config: WorldConfig;
  readonly faults: DeviceFaults;
  readonly device: VirtualDevice;
  readonly arbiter: Arbiter;
  readonly clients = new Map<RequestId, Client>();
  readonly digest = new Digest();
  readonly #options: WorldOptions;
  readonly #referee: Referee | null;
  readonly #onEnd = new Map<RequestId, (client: Client) => void>();
  readonly #inbox: CoreEvent[] = [];
  #wakeAt: Micros | null = null;
  #nextRequest = 1;
  /** Hears every input and its actions: for replay. */
  onDecision: ((input: { now: Micros; events: readonly CoreEvent[] }, actions: readonly Action[]) => void) | null =
    null;

  constructor(options: WorldOptions) {
    this.#options = options;
    this.config = options.config;
    this.faults = options.faults ?? { ...NO_FAULTS };
    this.arbiter = options.arbiter ?? createArbiter();
    this.device = new VirtualDevice({
      timeline: this.timeline,
      prng: createPrng(options.seed ^ 0x5eed),
      faults: this.faults,
      lanes: () => Math.max(this.config.device.lanes, this.arbiter.state.laneCeiling),
      hopMicros: options.hopMicros ?? 50,
      tell: (event) => this.tell(event),
    });
    this.#referee = options.isChecked === false ? null : new Referee(this, options.isExact ?? false);
  }

  get state(): Arbiter['state'] {
    return this.arbiter.state;
  }

  tell(event: CoreEvent): void {
    if (event.type === 'requestFinished') this.#end(event.requestId, event.failed ? 'failed' : 'finished', null);
    this.#inbox.push(event);
  }

  configure(): void {
    const { device, limits, residency, models, tenants } = this.config;
    for (const spec of models.values()) this.device.describe(spec.modelId, this.#options.physics(spec));
    this.tell({ type: 'configured', device, limits, residency, models: [...models.values()], tenants: [...tenants] });
  }

  ask({ modelId, tenantId, promptTokens, outputTokens, kind, priority, keepAliveMicros, onEnd }: Ask): Client {
    const id = requestId(`r${this.#nextRequest++}`);
    const client: Client = {
      requestId: id,
      modelId,
      tenantId,
      promptTokens,
      outputTokens,
      arrivedAt: this.timeline.now,
      firstStartAt: null,
      starts: 0,
      generated: 0,
      saved: 0,
      outcome: null,
      code: null,
      endedAt: null,
    };
    this.clients.set(id, client);
    if (onEnd !== undefined) this.#onEnd.set(id, onEnd);
    this.tell({
      type: 'requestArrived',
      requestId: id,
      tenantId,
      modelId,
      promptTokens,
      maxTokens: outputTokens,
      kind: kind ?? 'generate',
      priority: priority ?? 'interactive',
      ttftGoalMicros: null,
      interTokenGoalMicros: null,
      keepAliveMicros: keepAliveMicros ?? null,
    });
    return client;
  }

  /** The client leaves, if it is still there. */
  leave(id: RequestId): void {
    if (this.clients.get(id)?.outcome !== null) return;
    this.#end(id, 'cancelled', null);
    this.tell({ type: 'requestCancelled', requestId: id });
  }

  /** Runs until that time, or until nothing is planned and nothing need be woken. True: nothing is left to happen. */
  runUntil(deadline: Micros, isDone: () => boolean = () => false): boolean {
    this.#pump();
    while (!isDone()) {
      const planned = this.timeline.nextAt;
      const next = Math.min(planned ?? Infinity, this.#wakeAt ?? Infinity);
      if (next === Infinity) return true;
      if (next > deadline) return false;
      this.timeline.runUntil(next);
      if (this.#inbox.length === 0 && this.#wakeAt !== null && this.#wakeAt <= this.timeline.now)
        this.tell({ type: 'ticked' });
      this.#pump();
    }
    return false;
  }

  #pump(): void {
    for (
      let calls = 0;
      this.#inbox.length > 0 || (this.#wakeAt !== null && this.#wakeAt <= this.timeline.now);
      calls++
    ) {
      if (calls > MOST_CALLS_AT_ONCE) throw new Error(`the arbiter spins at ${this.timeline.now}`);
      if (this.#inbox.length === 0) this.#inbox.push({ type: 'ticked' });
      const input = { now: this.timeline.now, events: this.#inbox.splice(0) };
      const { actions, wakeAt } = this.arbiter.handle(input);
      this.#wakeAt = wakeAt;
      this.onDecision?.(input, actions);
      if (this.#referee !== null) {
        for (const action of actions) this.digest.add(JSON.stringify(action));
        checkInvariants(this.state);
        this.#referee.watch(actions);
      }
      for (const action of actions) this.#perform(action);
      this.#referee?.weigh();
    }
  }

  #perform(action: Action): void {
    switch (action.type) {
      case 'ensureLoaded':
        return this.device.load(action.modelId, action.id);
      case 'ensureAsleep':
        return this.device.park(action.modelId, action.id);
      case 'ensureUnloaded':
        return this.device.unload(action.modelId, action.id, action.because.rule === 'stopped');
      case 'startRequest':
        return this.#start(action.modelId, action.requestId);
      case 'preemptRequest':
        return this.#preempt(action.modelId, action.requestId, action.id);
      case 'cancelRequest':
        return void this.device.cancel(action.modelId, action.requestId);
      case 'refuseRequest':
        return this.#end(action.requestId, 'refused', action.code);
      case 'grantSlice':
        return this.device.grant(action.modelId, action.id, action.lanes, action.micros);
      case 'endSlice':
        return this.device.endSlice(action.modelId, action.sliceId);
      default:
        return action satisfies never;
    }
  }

  #start(modelId: ModelId, id: RequestId): void {
    const client = this.clients.get(id);
    if (client === undefined) throw new Error(`an unknown request is started: ${id}`);
    client.starts++;
    client.firstStartAt ??= this.timeline.now;
    // What was generated before a preemption is read back or prefilled, and not generated again.
    const { promptTokens, outputTokens, saved } = client;
    client.saved = 0;
    const work = {
      requestId: id,
      promptTokens,
      promptLeft: Math.max(0, promptTokens + client.generated - saved),
      computed: saved,
      outputLeft: outputTokens - client.generated,
      prefillMicros: 0,
      decodeMicros: 0,
      get generated(): number {
        return client.generated;
      },
      set generated(tokens: number) {
        client.generated = tokens;
      },
    };
    this.device.submit(modelId, work);
  }

  #preempt(modelId: ModelId, id: RequestId, actionId: number): void {
    const saved = this.device.cancel(modelId, id, this.config.models.get(modelId)?.keepsKv === true);
    const client = this.clients.get(id);
    if (client !== undefined) client.saved = saved;
    // Its last token may have been on its way: it has not arrived, so it is generated again.
    if (client !== undefined) client.generated = Math.min(client.generated, client.outputTokens - 1);
    this.tell({ type: 'requestPreempted', actionId, requestId: id });
  }

  #end(id: RequestId, outcome: Outcome, code: string | null): void {
    const client = this.clients.get(id);
    if (client === undefined) throw new Error(`an unknown request ends: ${id}`);
    if (client.outcome !== null) {
      // What was under way when the client left, or when its process died, may still be heard; a second refusal may not.
      if (outcome === 'refused' || client.outcome === 'refused') {
        throw new Error(`request ${id} was ${client.outcome}, then ${outcome}`);
      }
      return;
    }
    client.outcome = outcome;
    client.code = code;
    client.endedAt = this.timeline.now;
    if (outcome === 'finished' && client.generated !== client.outputTokens) {
      throw new Error(`request ${id} finished with ${client.generated} of ${client.outputTokens} tokens`);
    }
    this.#onEnd.get(id)?.(client);
    this.#onEnd.delete(id);
  }
}
