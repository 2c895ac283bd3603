/**
 * Runs the product in virtual time: placement in front of one arbiter per device, the very same `core/arbiter.ts` as in the node, and
 * devices that are cost models. Arrivals are streamed; of each request a few numbers are kept.
 */
import type { Action } from '../core/actions.ts';
import type { Arbiter } from '../core/arbiter.ts';
import { createArbiter } from '../core/arbiter.ts';
import type { CoreEvent, Limits, ModelSpec, ResidencySpec } from '../core/events.ts';
import type { Bytes, Micros, RequestId } from '../core/ids.ts';
import { modelId, requestId, tenantId } from '../core/ids.ts';
import type { Arrival } from './arrivals.ts';
import type { ModelCosts } from './costs.ts';
import { fitLengths } from './costs.ts';
import type { DeviceSetting, Job } from './engine.ts';
import { SimDevice } from './device.ts';
import { Digest } from './digest.ts';
import type { Spill } from './placement.ts';
import { candidates, choose, spread } from './placement.ts';
import type { Slo } from './recorder.ts';
import { createTrack } from './recorder.ts';
import type { Report } from './report.ts';
import { Tally } from './report.ts';
import { Timeline } from './timeline.ts';

export interface SimModel {
  readonly name: string;
  readonly costs: ModelCosts;
  /** Bytes that the device charges: weights and room for KV. */
  readonly loadedBytes: Bytes;
  readonly parallel: number;
  /** Tokens whose KV fits in them. */
  readonly kvTokens: number;
}

export interface SimSetting {
  readonly devices: number;
  readonly lanes: number;
  readonly memoryBytes: Bytes;
  readonly device: DeviceSetting;
  readonly slo: Slo;
  /** What the node is told of the targets; they order work. */
  readonly goals: { readonly ttftMicros: Micros; readonly interTokenMicros: Micros };
  readonly residency: ResidencySpec;
  readonly limits: Limits;
  /** A client leaves that has no first token after so long; null: never. */
  readonly giveUpMicros: Micros | null;
  readonly keepsKv: boolean;
  /** null: each request goes to its model's home. */
  readonly spill: (Omit<Spill, 'loadMicros' | 'seats'> & { readonly devicesPerModel: number }) | null;
  /** All models there may be; a placement knows nothing else. */
  readonly models: readonly SimModel[];
  /** Another arbiter than the core's, for experiments. */
  readonly arbiter?: () => Arbiter;
  /** A digest of all decisions is wanted: for tests; it costs time. */
  readonly wantsDigest?: boolean;
  /** Hears what each device was told and decided. */
  readonly onDecision?: (device: number, now: Micros, events: readonly CoreEvent[], actions: readonly Action[]) => void;
}

export interface SimResult extends Report {
  readonly digest: string | null;
  /** Calls of the arbiters, and events in them. */
  readonly calls: number;
  readonly events: number;
}

/** The arbiter may be called so often at one time before it is said to spin. */
const MOST_CALLS_AT_ONCE = 10_000;

/** A model as the front sees it. */
interface Placed {
  readonly model: SimModel;
  /** Those that may serve it, its home first. */
  readonly devices: readonly number[];
  readonly spill: Spill | null;
  /** By device, as in `Views`. */
  readonly own: Int32Array;
  readonly present: Uint8Array;
}

interface Node {
  readonly index: number;
  readonly arbiter: Arbiter;
  readonly device: SimDevice;
  inbox: CoreEvent[];
  wakeAt: Micros | null;
  isDirty: boolean;
  readonly jobs: Map<RequestId, Asked>;
}

interface Asked {
  readonly job: Job;
  readonly placed: Placed;
}

export function simulate(arrivals: Iterable<Arrival>, setting: SimSetting): SimResult {
  return new Simulation(setting).run(arrivals);
}

class Simulation {
  readonly #setting: SimSetting;
  readonly #timeline = new Timeline();
  readonly #tally: Tally;
  readonly #digest: Digest | null;
  readonly #nodes: Node[];
  readonly #models = new Map<string, Placed>();
  readonly #busy: Int32Array;
  readonly #tenants = new Map<string, number>();
  readonly #dirty: Node[] = [];
  #nextRequest = 1;
  #calls = 0;
  #events = 0;

  constructor(setting: SimSetting) {
    this.#setting = setting;
    this.#tally = new Tally(setting.slo);
    this.#digest = setting.wantsDigest === true ? new Digest() : null;
    this.#busy = new Int32Array(setting.devices);
    this.#place();
    this.#nodes = Array.from({ length: setting.devices }, (_, index) => this.#createNode(index));
    for (const node of this.#nodes) this.#configure(node);
  }

  #place(): void {
    const { models, devices, spill, device } = this.#setting;
    const homes = spread(
      models.map(({ name, costs }) => ({ name, weightBytes: costs.weightBytes })),
      devices,
    );
    for (const [index, model] of models.entries()) {
      const loadMicros = (model.costs.weightBytes * 1e6) / device.linkBytesPerSecond;
      this.#models.set(model.name, {
        model,
        devices: candidates(homes.get(model.name) ?? 0, index, devices, spill?.devicesPerModel ?? 1),
        spill: spill === null ? null : { ...spill, loadMicros, seats: model.parallel },
        own: new Int32Array(devices),
        present: new Uint8Array(devices),
      });
    }
  }

  #createNode(index: number): Node {
    const { device: setting, slo, keepsKv } = this.#setting;
    const node: Node = {
      index,
      arbiter: this.#setting.arbiter?.() ?? createArbiter(),
      device: new SimDevice({
        timeline: this.#timeline,
        setting,
        slo,
        work: this.#tally.work,
        modelOf: (id) => ({ ...this.#model(id).model, keepsKv }),
        tell: (event) => this.#tell(node, event),
        onFinished: (job) => this.#end(node, job.id, true),
      }),
      inbox: [],
      wakeAt: null,
      isDirty: false,
      jobs: new Map(),
    };
    return node;
  }

  #model(name: string): Placed {
    const model = this.#models.get(name);
    if (model === undefined) throw new Error(`the simulated node has no model ${name}`);
    return model;
  }

  #configure(node: Node): void {
    const { lanes, memoryBytes, limits, residency, models } = this.#setting;
    const here = models.filter(({ name }) => this.#model(name).devices.includes(node.index));
    this.#tell(node, {
      type: 'configured',
      device: { memoryBytes, lanes, overheadBytes: 0 },
      limits,
      residency,
      models: here.map((model) => this.#spec(model)),
      tenants: [],
    });
  }

  #spec({ name, costs, loadedBytes, parallel }: SimModel): ModelSpec {
    const { goals, keepsKv, device } = this.#setting;
    return {
      modelId: modelId(name),
      parallel,
      embedParallel: 1,
      embedWindowMicros: 0,
      pinned: false,
      canSleep: false,
      keepsKv,
      loadedBytes,
      asleepBytes: loadedBytes,
      loadMicros: Math.ceil((costs.weightBytes * 1e6) / device.linkBytesPerSecond),
      ttftGoalMicros: goals.ttftMicros,
      interTokenGoalMicros: goals.interTokenMicros,
      keepAliveMicros: null,
      revision: '1',
    };
  }

  run(arrivals: Iterable<Arrival>): SimResult {
    const stream = arrivals[Symbol.iterator]();
    this.#planArrival(stream);
    this.#pump();
    for (let at = this.#timeline.nextAt; at !== null; at = this.#timeline.nextAt) {
      this.#timeline.runUntil(at);
      this.#pump();
    }
    const stuck = this.#nodes.reduce((sum, { jobs }) => sum + jobs.size, 0);
    if (stuck > 0) throw new Error(`${stuck} requests never ended`);
    return {
      ...this.#tally.report(),
      digest: this.#digest?.toString() ?? null,
      calls: this.#calls,
      events: this.#events,
    };
  }

  // -------------------------------------------------------------- clients

  #planArrival(stream: Iterator<Arrival>): void {
    const { done, value } = stream.next();
    if (done === true) return;
    this.#timeline.at(value.at, () => {
      this.#arrive(value);
      this.#planArrival(stream);
    });
  }

  #arrive(arrival: Arrival): void {
    const { slo, giveUpMicros } = this.#setting;
    const placed = this.#model(arrival.model);
    const { costs } = placed.model;
    const { promptTokens, outputTokens } = fitLengths(costs, arrival.promptTokens, arrival.outputTokens);
    const tenant = this.#tenants.get(arrival.tenant) ?? this.#tenants.size;
    this.#tenants.set(arrival.tenant, tenant);
    const track = createTrack(slo, this.#timeline.now, tenant, promptTokens, outputTokens);
    const id = requestId(`r${this.#nextRequest++}`);
    const node = this.#choose(placed);
    const job: Job = {
      id,
      track,
      promptLeft: promptTokens,
      context: 0,
      isAway: false,
      tokens: 0,
      prefillMicros: 0,
      decodeMicros: 0,
      isGone: false,
      tokensInSlice: 0,
    };
    node.jobs.set(id, { job, placed });
    placed.own[node.index] = (placed.own[node.index] as number) + 1;
    this.#tell(node, {
      type: 'requestArrived',
      requestId: id,
      tenantId: tenantId(arrival.tenant),
      modelId: modelId(arrival.model),
      kind: 'generate',
      priority: 'interactive',
      promptTokens,
      // What a client says that asks for no limit: the context decides.
      maxTokens: costs.mostContextTokens - promptTokens,
      ttftGoalMicros: null,
      interTokenGoalMicros: null,
      keepAliveMicros: null,
    });
    if (giveUpMicros !== null) this.#timeline.after(giveUpMicros, () => this.#giveUp(node, id));
  }

  #choose({ devices, own, present, spill }: Placed): Node {
    const index = spill === null ? (devices[0] as number) : choose(devices, { own, present, busy: this.#busy }, spill);
    return this.#nodes[index] as Node;
  }

  #giveUp(node: Node, id: RequestId): void {
    const asked = node.jobs.get(id);
    if (asked === undefined || asked.job.tokens > 0) return;
    this.#end(node, id, false);
    this.#tell(node, { type: 'requestCancelled', requestId: id });
  }

  #end(node: Node, id: RequestId, isFinished: boolean): void {
    const asked = node.jobs.get(id);
    if (asked === undefined) return;
    node.jobs.delete(id);
    const { own } = asked.placed;
    own[node.index] = (own[node.index] as number) - 1;
    this.#tally.end(asked.job.track, isFinished);
  }

  // -------------------------------------------------------------- arbiters

  #tell(node: Node, event: CoreEvent): void {
    node.inbox.push(event);
    if (node.isDirty) return;
    node.isDirty = true;
    this.#dirty.push(node);
  }

  #pump(): void {
    for (let node = this.#dirty.pop(); node !== undefined; node = this.#dirty.pop()) {
      let calls = 0;
      while (node.inbox.length > 0) {
        if (calls++ > MOST_CALLS_AT_ONCE) throw new Error(`the arbiter spins at ${this.#timeline.now}`);
        this.#decide(node);
      }
      node.isDirty = false;
    }
  }

  #decide(node: Node): void {
    const { now } = this.#timeline;
    const events = node.inbox;
    node.inbox = [];
    this.#calls++;
    this.#events += events.length;
    const { actions, wakeAt } = node.arbiter.handle({ now, events });
    this.#setting.onDecision?.(node.index, now, events, actions);
    for (const action of actions) {
      this.#digest?.add(`${node.index} ${JSON.stringify(action)}`);
      this.#perform(node, action);
    }
    const { busy, wanted } = node.arbiter.state;
    this.#busy[node.index] = busy.size + wanted.size;
    if (wakeAt === null || (node.wakeAt !== null && node.wakeAt <= wakeAt && node.wakeAt > now)) return;
    node.wakeAt = wakeAt;
    this.#timeline.at(wakeAt, () => {
      if (node.wakeAt !== wakeAt) return;
      node.wakeAt = null;
      if (node.inbox.length === 0) this.#tell(node, { type: 'ticked' });
    });
  }

  #perform(node: Node, action: Action): void {
    const { device, jobs } = node;
    switch (action.type) {
      case 'ensureLoaded':
        this.#model(action.modelId).present[node.index] = 1;
        return device.load(action.modelId, action.id);
      case 'ensureAsleep':
      case 'ensureUnloaded':
        this.#model(action.modelId).present[node.index] = 0;
        return device.unload(action.modelId, action.id);
      case 'startRequest': {
        const asked = jobs.get(action.requestId);
        if (asked !== undefined) device.submit(action.modelId, asked.job);
        return;
      }
      case 'preemptRequest':
        return device.preempt(action.modelId, action.requestId, action.id);
      case 'cancelRequest':
        return device.cancel(action.modelId, action.requestId);
      case 'refuseRequest':
        return this.#end(node, action.requestId, false);
      case 'grantSlice':
        return device.grant(action.modelId, action.id, action.lanes, action.micros, action.stepMicros);
      case 'endSlice':
        return device.endSlice(action.modelId, action.sliceId);
      default:
        return action satisfies never;
    }
  }
}
