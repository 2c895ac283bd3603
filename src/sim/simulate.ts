/**
 * Runs the core in virtual time: one arbiter per device, the very same `core/arbiter.ts` as in the node, on devices that are cost models.
 * The placement in front of them is the simulator's own, and not a node's (`docs/simulator.md`). Arrivals are streamed; of each request
 * a few numbers are kept.
 */
import type { Action, RefusalCode } from '../core/actions.ts';
import type { Arbiter } from '../core/arbiter.ts';
import { createArbiter } from '../core/arbiter.ts';
import type { CoreEvent, Limits, ModelSpec, ResidencySpec } from '../core/events.ts';
import type { Bytes, Micros, RequestId } from '../core/ids.ts';
import { modelId, requestId, tenantId } from '../core/ids.ts';
import { checkInvariants } from './invariants.ts';
import type { Arrival } from './arrivals.ts';
import type { ModelCosts } from './costs.ts';
import { fitLengths } from './costs.ts';
import type { DeviceSetting, Job } from './engine.ts';
import { createJob } from './engine.ts';
import { SimDevice } from './device.ts';
import { Digest } from './digest.ts';
import { Driver } from './driver.ts';
import type { Blow, FaultSpec } from './faults.ts';
import { DeviceFaults, Faults } from './faults.ts';
import type { Spill } from './placement.ts';
import { candidates, choose, spread } from './placement.ts';
import type { Slo } from './recorder.ts';
import { createTrack } from './recorder.ts';
import type { Outcomes, Report } from './report.ts';
import { Tally } from './report.ts';
import { unsettled } from './settled.ts';
import { specOf } from './spec.ts';
import { Timeline } from './timeline.ts';

export interface SimModel {
  readonly name: string;
  readonly costs: ModelCosts;
  /** Bytes that the device charges: weights and room for KV. */
  readonly loadedBytes: Bytes;
  readonly parallel: number;
  /** Tokens whose KV fits in them. */
  readonly kvTokens: number;
  /** What a real node was configured with, instead of what follows from the above. */
  readonly spec?: ModelSpec;
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
  /** So many clients, each of whom asks when another one has its answer, whatever the trace's times; null: as the trace says. */
  readonly inFlight: number | null;
  /** Held by the node itself. */
  readonly overheadBytes: Bytes;
  /** A client leaves that has no first token after so long; null: never. */
  readonly giveUpMicros: Micros | null;
  readonly keepsKv: boolean;
  /** null: each request goes to its model's home. */
  readonly spill: (Omit<Spill, 'loadMicros' | 'seats'> & { readonly devicesPerModel: number }) | null;
  /** All models there may be; a placement knows nothing else. */
  readonly models: readonly SimModel[];
  /** The tenant that the node is told instead of the true one: the same for all is first come, first served. */
  readonly tenantTold?: (tenant: string) => string;
  /** Another arbiter than the core's, for experiments. */
  readonly arbiter?: () => Arbiter;
  /** What goes wrong, until the last request has come. */
  readonly faults?: FaultSpec;
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
  readonly driver: Driver;
  readonly device: SimDevice;
  readonly jobs: Map<RequestId, Asked>;
}

interface Asked {
  readonly job: Job;
  readonly placed: Placed;
}

/** Refusals for which the device is to blame, not the load on it. */
const LOST: ReadonlySet<RefusalCode> = new Set(['model_load_failed', 'engine_died']);

export function simulate(arrivals: Iterable<Arrival>, setting: SimSetting): SimResult {
  return new Simulation(setting).run(arrivals);
}

class Simulation {
  readonly #setting: SimSetting;
  readonly #timeline = new Timeline();
  readonly #faults: Faults | null;
  readonly #tally: Tally;
  readonly #digest: Digest | null;
  readonly #nodes: Node[];
  readonly #models = new Map<string, Placed>();
  readonly #busy: Int32Array;
  readonly #tenants = new Map<string, number>();
  /** Nodes that have something to decide at this time. */
  readonly #told: Node[] = [];
  /** Requests without a first token, in the order in which their clients give up. */
  readonly #impatient: { readonly node: Node; readonly id: RequestId; readonly at: Micros }[] = [];
  #nextRequest = 1;
  #stream: Iterator<Arrival> = [][Symbol.iterator]();

  constructor(setting: SimSetting) {
    this.#setting = setting;
    this.#faults = setting.faults === undefined ? null : new Faults(setting.faults);
    this.#tally = new Tally(setting.slo, this.#faults?.costs);
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
    const { device: setting, slo, keepsKv, onDecision } = this.#setting;
    const driver: Driver = new Driver({
      timeline: this.#timeline,
      arbiter: this.#setting.arbiter?.() ?? createArbiter(),
      perform: (action) => {
        this.#digest?.add(`${index} ${JSON.stringify(action)}`);
        this.#perform(node, action);
      },
      onTold: () => this.#told.push(node),
      ...(onDecision === undefined ? {} : { onDecision: (...call) => onDecision(index, ...call) }),
      wakes: true,
    });
    const faults = this.#faults === null ? null : new DeviceFaults(this.#faults, index);
    const device = new SimDevice({
      timeline: this.#timeline,
      setting,
      slo,
      work: this.#tally.work,
      modelOf: (id) => ({ ...this.#model(id).model, keepsKv }),
      tell: (event) => driver.tell(event),
      onEnded: (job, isFinished) => this.#end(node, job.id, isFinished ? 'finished' : 'failed'),
      onGone: (id) => {
        this.#model(id).present[index] = 0;
      },
      faults,
    });
    const node: Node = { index, driver, device, jobs: new Map() };
    if (faults !== null) this.#await(node, faults.blows());
    return node;
  }

  /** Until it is calm. */
  #await(node: Node, blows: Iterator<Blow, never>): void {
    const blow = blows.next().value;
    this.#timeline.at(blow.at, () => {
      if (this.#faults === null || this.#faults.isCalm) return;
      if (blow.kind === 'jump') {
        this.#faults.costs.clockJumps++;
        node.driver.jump(blow.jumpMicros);
      } else node.device.strike(blow.kind, blow.victim);
      this.#await(node, blows);
    });
  }

  #model(name: string): Placed {
    const model = this.#models.get(name);
    if (model === undefined) throw new Error(`the simulated node has no model ${name}`);
    return model;
  }

  #configure(node: Node): void {
    const { lanes, memoryBytes, overheadBytes, limits, residency, models } = this.#setting;
    const here = models.filter(({ name }) => this.#model(name).devices.includes(node.index));
    node.driver.tell({
      type: 'configured',
      device: { memoryBytes, lanes, overheadBytes },
      limits,
      residency,
      models: here.map((model) => specOf(model, this.#setting)),
      tenants: [],
    });
  }

  run(arrivals: Iterable<Arrival>): SimResult {
    this.#stream = arrivals[Symbol.iterator]();
    const { inFlight } = this.#setting;
    if (inFlight === null) this.#planArrival();
    else for (let client = 0; client < inFlight; client++) this.#askNext();
    this.#pump();
    for (let at = this.#timeline.nextAt; at !== null; at = this.#timeline.nextAt) {
      this.#timeline.runUntil(at);
      this.#pump();
    }
    this.#mustBeSettled();
    return {
      ...this.#tally.report(),
      digest: this.#digest?.toString() ?? null,
      calls: this.#nodes.reduce((sum, { driver }) => sum + driver.calls, 0),
      events: this.#nodes.reduce((sum, { driver }) => sum + driver.events, 0),
    };
  }

  /** Liveness: nothing happens any more, so nothing may be left. */
  #mustBeSettled(): void {
    for (const { index, driver, jobs } of this.#nodes) {
      const { state } = driver.arbiter;
      const left = jobs.size > 0 ? `${jobs.size} requests never ended` : unsettled(state);
      if (left !== null) throw new Error(`never settled: on GPU ${index}, ${left}`);
      checkInvariants(state);
    }
  }

  // -------------------------------------------------------------- clients

  #next(): Arrival | null {
    const { done, value } = this.#stream.next();
    if (done !== true) return value;
    if (this.#faults !== null) this.#faults.isCalm = true;
    return null;
  }

  #planArrival(): void {
    const value = this.#next();
    if (value === null) return;
    this.#timeline.at(value.at, () => {
      this.#arrive(value);
      this.#planArrival();
    });
  }

  /** One of so many clients asks at once. */
  #askNext(): void {
    const value = this.#next();
    if (value !== null) this.#arrive(value);
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
    node.jobs.set(id, { job: createJob(id, track), placed });
    placed.own[node.index] = (placed.own[node.index] as number) + 1;
    node.driver.tell({
      type: 'requestArrived',
      requestId: id,
      tenantId: tenantId(this.#setting.tenantTold?.(arrival.tenant) ?? arrival.tenant),
      modelId: modelId(arrival.model),
      kind: 'generate',
      priority: 'interactive',
      promptTokens,
      maxTokens: arrival.maxTokens ?? costs.mostContextTokens - promptTokens,
      ttftGoalMicros: null,
      interTokenGoalMicros: null,
      keepAliveMicros: null,
    });
    const leavesAfter = this.#faults?.clientLeavesAfter() ?? null;
    if (leavesAfter !== null) this.#timeline.after(leavesAfter, () => this.#leave(node, id));
    if (giveUpMicros === null) return;
    this.#impatient.push({ node, id, at: this.#timeline.now + giveUpMicros });
    if (this.#impatient.length === 1) this.#timeline.after(giveUpMicros, () => this.#losePatience());
  }

  #choose({ devices, own, present, spill }: Placed): Node {
    const index = spill === null ? (devices[0] as number) : choose(devices, { own, present, busy: this.#busy }, spill);
    return this.#nodes[index] as Node;
  }

  /** All wait equally long, so they give up in the order in which they came: one planned moment is enough for all of them. */
  #losePatience(): void {
    const queue = this.#impatient;
    let at = 0;
    for (let first = queue[at]; first !== undefined; first = queue[++at]) {
      const isWaiting = first.node.jobs.get(first.id)?.job.tokens === 0;
      if (isWaiting && first.at > this.#timeline.now) break;
      if (isWaiting) this.#giveUp(first.node, first.id);
    }
    queue.splice(0, at);
    const [next] = queue;
    if (next !== undefined) this.#timeline.at(next.at, () => this.#losePatience());
  }

  #leave(node: Node, id: RequestId): void {
    if (this.#faults === null || !node.jobs.has(id)) return;
    this.#faults.costs.clientsLeft++;
    this.#giveUp(node, id);
  }

  #giveUp(node: Node, id: RequestId): void {
    this.#end(node, id, 'cancelled');
    node.driver.tell({ type: 'requestCancelled', requestId: id });
  }

  #end(node: Node, id: RequestId, outcome: keyof Outcomes): void {
    const asked = node.jobs.get(id);
    if (asked === undefined) return;
    node.jobs.delete(id);
    const { own } = asked.placed;
    own[node.index] = (own[node.index] as number) - 1;
    this.#tally.end(asked.job.track, outcome);
    if (outcome === 'failed' && this.#faults !== null) this.#faults.costs.requestsLost++;
    if (this.#setting.inFlight !== null) this.#timeline.after(0, () => this.#askNext());
  }

  // -------------------------------------------------------------- arbiters

  #pump(): void {
    for (let node = this.#told.pop(); node !== undefined; node = this.#told.pop()) {
      node.driver.drain();
      const { busy, wanted } = node.driver.arbiter.state;
      this.#busy[node.index] = busy.size + wanted.size;
    }
  }

  #perform(node: Node, action: Action): void {
    const { device, jobs } = node;
    switch (action.type) {
      case 'ensureLoaded':
        this.#model(action.modelId).present[node.index] = 1;
        return device.load(action.modelId, action.id);
      case 'ensureAsleep':
        this.#model(action.modelId).present[node.index] = 0;
        return device.park(action.modelId, action.id);
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
        if (LOST.has(action.code) && this.#faults !== null) this.#faults.costs.requestsLost++;
        return this.#end(node, action.requestId, 'refused');
      case 'grantSlice':
        return device.grant(action.modelId, action.id, action.lanes, action.micros, action.stepMicros);
      case 'endSlice':
        return device.endSlice(action.modelId, action.sliceId);
      default:
        return action satisfies never;
    }
  }
}
