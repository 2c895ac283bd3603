/**
 * Three simple policies to compare with. Each model has a home; on a GPU the models that are there share its time step by step.
 * `lru-by-count`: so many models at most, the one idle longest makes room (llama-server's router). `static`: what fits is there from the
 * start and stays, the rest is never served. `fcfs`: one model at a time, in the order of arrival.
 */
import type { Micros } from '../../core/ids.ts';
import type { Blow } from '../faults.ts';
import { spread } from '../placement.ts';
import { Tally } from '../report.ts';
import type { Gpus, Peer, PeerSetting } from './gpus.ts';
import { createGpus } from './gpus.ts';
import type { Process } from './kernel.ts';
import { Kernel, Signal } from './kernel.ts';
import type { PeerModel, PeerRequest } from './request.ts';
import { contextOf, createRequests, endAll, isOver, step } from './request.ts';
import type { Fragile } from './trouble.ts';
import { Trouble } from './trouble.ts';

export type Simple = 'lru-by-count' | 'static' | 'fcfs';

const GIVE_UP_MICROS = 15_000_000;
const GB = 1e9;

interface Place {
  readonly model: PeerModel;
  readonly requests: PeerRequest[];
  lastUsedAt: Micros;
}

interface Gpu extends Fragile {
  readonly places: Map<PeerModel, Place>;
  /** Requests whose model is not there, in the order of arrival. */
  queue: PeerRequest[];
}

export function simple(policy: Simple, models: readonly string[]): Peer {
  return { name: policy, run: (arrivals, setting) => new Run(policy, models, setting).all(arrivals) };
}

class Run {
  readonly #policy: Simple;
  readonly #kernel = new Kernel();
  readonly #trouble: Trouble;
  readonly #tally: Tally;
  readonly #device: Gpus;
  readonly #gpus: Gpu[];
  readonly #homes = new Map<PeerModel, number>();
  /** Models that a GPU holds at most. */
  readonly #slots: number;

  constructor(policy: Simple, models: readonly string[], setting: PeerSetting) {
    this.#policy = policy;
    this.#trouble = new Trouble(setting.faults);
    this.#tally = new Tally(setting.slo, this.#trouble.costs);
    this.#slots = policy === 'fcfs' ? 1 : setting.slots;
    this.#device = createGpus(setting, this.#slots);
    this.#gpus = Array.from({ length: setting.gpus }, () => ({
      places: new Map(),
      queue: [],
      wake: new Signal(),
      ...this.#trouble.fragile(),
    }));
    const placed = models.map((name) => ({ name, weightBytes: this.#device.modelOf(name).costs.weightBytes }));
    const homes = spread(placed, setting.gpus);
    for (const name of models) this.#homes.set(this.#device.modelOf(name), homes.get(name) ?? 0);
    if (policy === 'static') this.#fill(setting);
  }

  /** In the order of the list of models, as long as weights and the usual room for KV fit. */
  #fill({ cluster, slots, isResident }: PeerSetting): void {
    const memoryBytes = cluster.cluster.gpu_memory_gb * GB;
    for (const [model, home] of this.#homes) {
      const { places } = this.#gpus[home] as Gpu;
      const held = [...places.keys()].reduce((sum, other) => sum + other.neededBytes, 0);
      const fits = isResident ? held + model.neededBytes <= memoryBytes : places.size < slots;
      if (fits) places.set(model, { model, requests: [], lastUsedAt: 0 });
    }
  }

  all(arrivals: Parameters<Peer['run']>[0]): ReturnType<Peer['run']> {
    const requests = createRequests(arrivals, this.#device.modelOf, this.#tally);
    for (const gpu of this.#gpus) {
      this.#kernel.plan(0, this.#computing(gpu));
      if (this.#policy !== 'static') this.#kernel.plan(0, this.#loading(gpu));
    }
    for (const request of requests) this.#kernel.plan(request.arrivedAt, this.#living(request));
    this.#trouble.begin(this.#kernel, requests, this.#gpus, (request) => this.#drop(request));
    this.#kernel.run();
    endAll(this.#tally, requests);
    return this.#tally.report();
  }

  *#living(request: PeerRequest): Process {
    const gpu = this.#gpus[this.#homes.get(request.model) ?? 0] as Gpu;
    const place = gpu.places.get(request.model);
    // First come, first served: nobody passes one who waits for another model.
    if (place === undefined || (this.#policy === 'fcfs' && gpu.queue.length > 0)) gpu.queue.push(request);
    else place.requests.push(request);
    gpu.wake.fire(this.#kernel);
    yield GIVE_UP_MICROS;
    if (request.tokens > 0) return;
    request.state = 'failed';
    this.#drop(request);
  }

  #drop(request: PeerRequest): void {
    const gpu = this.#gpus[this.#homes.get(request.model) ?? 0] as Gpu;
    gpu.queue = gpu.queue.filter((other) => other !== request);
    const there = gpu.places.get(request.model)?.requests ?? [];
    const at = there.indexOf(request);
    if (at >= 0) there.splice(at, 1);
    gpu.wake.fire(this.#kernel);
  }

  *#loading(gpu: Gpu): Process {
    for (;;) {
      const [first] = gpu.queue;
      if (first === undefined || !this.#makeRoom(gpu, first.model)) {
        yield gpu.wake;
        continue;
      }
      const { model } = first;
      if (!gpu.places.has(model)) {
        this.#tally.work.switches++;
        this.#tally.work.switchMicros += model.loadMicros;
        this.#tally.work.linkBytes += model.costs.weightBytes;
        yield* this.#trouble.load(gpu, model.loadMicros);
        gpu.places.set(model, { model, requests: [], lastUsedAt: this.#kernel.now });
      }
      this.#letIn(gpu, model);
      gpu.wake.fire(this.#kernel);
    }
  }

  #letIn(gpu: Gpu, model: PeerModel): void {
    const place = gpu.places.get(model) as Place;
    const isInOrder = this.#policy === 'fcfs';
    const other = gpu.queue.findIndex((request) => request.model !== model);
    const reach = isInOrder && other >= 0 ? gpu.queue.slice(0, other) : gpu.queue;
    const own = reach.filter((request) => request.model === model);
    place.requests.push(...own);
    gpu.queue = gpu.queue.filter((request) => !own.includes(request));
  }

  /** A free slot for the model, for which the one idle longest may have to go; false: all of them compute. */
  #makeRoom(gpu: Gpu, model: PeerModel): boolean {
    if (gpu.places.has(model) || gpu.places.size < this.#slots) return true;
    const idle = [...gpu.places.values()].filter(({ requests }) => requests.length === 0);
    const [oldest] = idle.toSorted((a, b) => a.lastUsedAt - b.lastUsedAt);
    if (oldest !== undefined) gpu.places.delete(oldest.model);
    return oldest !== undefined;
  }

  *#computing(gpu: Gpu): Process {
    let turn = 0;
    for (;;) {
      if (gpu.blow !== null) yield* this.#fall(gpu, gpu.blow);
      const busy = [...gpu.places.values()].filter(({ requests }) => requests.length > 0);
      const place = busy[turn++ % Math.max(1, busy.length)];
      if (place === undefined) {
        yield gpu.wake;
        continue;
      }
      const batch = this.#batch(place);
      const micros = batch.some(({ hasKv }) => !hasKv) ? this.#device.prefill(batch) : this.#device.decode(batch);
      this.#tally.work.busyMicros += micros;
      yield micros;
      if (gpu.blow !== null) continue;
      for (const request of batch) step(this.#tally, request, this.#kernel.now);
      place.lastUsedAt = this.#kernel.now;
      const left = place.requests.filter(({ state }) => state !== 'finished' && state !== 'failed');
      if (left.length === place.requests.length) continue;
      place.requests.splice(0, place.requests.length, ...left);
      if (left.length === 0) gpu.wake.fire(this.#kernel);
    }
  }

  /** One of the models there goes down; those that it served wait for it again, before all others. */
  *#fall(gpu: Gpu, { victim }: Blow): Process {
    const place = [...gpu.places.values()][Math.floor(victim * gpu.places.size)];
    yield* this.#trouble.feel(gpu, place !== undefined);
    if (place === undefined) return;
    for (const request of place.requests) this.#trouble.lose(request);
    // What stays for good has nobody who would load it again: the GPU waits for it.
    if (this.#policy === 'static') {
      yield* this.#trouble.load(gpu, place.model.loadMicros);
      return;
    }
    gpu.places.delete(place.model);
    gpu.queue.unshift(...place.requests.filter((request) => !isOver(request)));
    gpu.wake.fire(this.#kernel);
  }

  /** As many in the order of arrival as have room for their KV: the prompts among them, else all. */
  #batch({ model, requests }: Place): PeerRequest[] {
    const fitting: PeerRequest[] = [];
    let tokens = 0;
    for (const request of requests) {
      tokens += contextOf(request);
      if (fitting.length > 0 && tokens > model.kvTokens) break;
      fitting.push(request);
    }
    const prompts = fitting.filter(({ hasKv }) => !hasKv);
    return prompts.length > 0 ? prompts : fitting;
  }
}
