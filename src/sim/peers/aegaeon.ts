/**
 * Aegaeon (SOSP'25) as its artifact's simulator schedules (not as the real system does): some GPUs prefill, the others decode in
 * rounds of turns. Written from the description in the paper and from what the simulator computes; `docs/simulator.md` says how close
 * it comes. It is here to be compared with, and nothing of the product uses it.
 */
import type { Micros } from '../../core/ids.ts';
import { Tally } from '../report.ts';
import type { Gpus, Peer, PeerSetting } from './gpus.ts';
import { createGpus } from './gpus.ts';
import type { Process } from './kernel.ts';
import { Kernel, Signal } from './kernel.ts';
import type { PeerModel, PeerRequest } from './request.ts';
import { contextOf, createRequests, endAll, isOver, step } from './request.ts';
import type { Fragile } from './trouble.ts';
import { Trouble } from './trouble.ts';

const ALPHA_FLOOR = 0.5;
/** Requests without a first token after so long are given up, checked whenever the scheduler runs. */
const GIVE_UP_MICROS = 15_000_000;
const SHORTEST_SWITCH_MICROS = 10_000;

export interface AegaeonOptions {
  /** Of the GPUs, so many only prefill. */
  readonly prefillGpus: number;
  /** Longest decode slice. */
  readonly sliceMicros: Micros;
}

export function aegaeon({ prefillGpus, sliceMicros }: AegaeonOptions): Peer {
  return {
    name: `aegaeon ${sliceMicros / 1e6} s`,
    run(arrivals, setting) {
      const run = new Run(setting, prefillGpus, sliceMicros);
      return run.all(arrivals);
    },
  };
}

interface Gpu extends Fragile {
  model: PeerModel | null;
  /** Compute since the last load: a load is hidden behind it. */
  hidden: Micros;
}

interface PrefillGpu extends Gpu {
  /** Groups of one model each. */
  groups: PeerRequest[][];
}

interface Batch {
  micros: Micros;
  readonly requests: PeerRequest[];
}

interface DecodeGpu extends Gpu {
  queue: PeerRequest[];
  readonly requests: Set<PeerRequest>;
  /** In the order of their turns; the one in turn first. */
  batches: Batch[];
}

class Run {
  readonly #kernel = new Kernel();
  readonly #trouble: Trouble;
  readonly #tally: Tally;
  readonly #gpus: Gpus;
  readonly #sliceMicros: Micros;
  readonly #prefill: PrefillGpu[];
  readonly #decode: DecodeGpu[];
  #pending: PeerRequest[] = [];

  constructor(setting: PeerSetting, prefillGpus: number, sliceMicros: Micros) {
    this.#trouble = new Trouble(setting.faults);
    this.#tally = new Tally(setting.slo, this.#trouble.costs);
    this.#gpus = createGpus(setting, setting.prefetch === 'charged' ? 2 : 1);
    this.#sliceMicros = sliceMicros;
    const gpu = (): Gpu => ({ model: null, hidden: 0, wake: new Signal(), ...this.#trouble.fragile() });
    this.#prefill = Array.from({ length: prefillGpus }, () => ({ ...gpu(), groups: [] }));
    this.#decode = Array.from({ length: setting.gpus - prefillGpus }, () => ({
      ...gpu(),
      queue: [],
      requests: new Set(),
      batches: [],
    }));
  }

  all(arrivals: Parameters<Peer['run']>[0]): ReturnType<Peer['run']> {
    const requests = createRequests(arrivals, this.#gpus.modelOf, this.#tally);
    for (const gpu of this.#prefill) this.#kernel.plan(0, this.#prefilling(gpu));
    for (const gpu of this.#decode) this.#kernel.plan(0, this.#decoding(gpu));
    for (const request of requests) this.#kernel.plan(request.arrivedAt, this.#arriving(request));
    this.#trouble.begin(this.#kernel, requests, [...this.#prefill, ...this.#decode], () => undefined);
    this.#kernel.run();
    endAll(this.#tally, requests);
    return this.#tally.report();
  }

  // oxlint-disable-next-line require-yield
  *#arriving(request: PeerRequest): Process {
    this.#pending.push(request);
    this.#group(request);
    this.#schedule();
  }

  /** Joins the first group of its model that has room, else begins one where there are fewest. */
  #group(request: PeerRequest): void {
    let least = this.#prefill[0] as PrefillGpu;
    for (const gpu of this.#prefill) {
      const group = gpu.groups.find((one) => this.#fits(one, request));
      if (group !== undefined) return void group.push(request);
      if (gpu.groups.length < least.groups.length) least = gpu;
    }
    least.groups.push([request]);
  }

  /** Of the same model, and the KV of all fits a GPU. */
  #fits(batch: readonly PeerRequest[], request: PeerRequest): boolean {
    if (batch[0]?.model !== request.model) return false;
    let tokens = contextOf(request);
    for (const other of batch) if (other.state !== 'finished') tokens += contextOf(other);
    return tokens <= request.model.kvTokens;
  }

  /** Gives up the late, and deals out anew all prefilled requests that no decode GPU has taken in yet. */
  #schedule(): void {
    for (const request of this.#pending) {
      if (request.tokens === 0 && this.#kernel.now - request.arrivedAt > GIVE_UP_MICROS) request.state = 'failed';
    }
    this.#pending = this.#pending.filter((request) => !isOver(request));
    const plans = this.#decode.map((gpu) => ({
      gpu,
      queue: [] as PeerRequest[],
      batches: gpu.batches.map(({ requests }) => [...requests]),
    }));
    for (const request of this.#pending) {
      if (!request.hasKv || this.#decode.some(({ requests }) => requests.has(request))) continue;
      let least = plans[0] as (typeof plans)[number];
      let joined = false;
      for (const plan of plans) {
        const batch = plan.batches.find((one) => this.#fits(one, request));
        if (batch !== undefined) {
          batch.push(request);
          plan.queue.push(request);
          joined = true;
          break;
        }
        if (plan.batches.length < least.batches.length) least = plan;
      }
      if (joined) continue;
      least.batches.push([request]);
      least.queue.push(request);
    }
    for (const { gpu, queue } of plans) gpu.queue = queue;
    for (const { wake } of [...this.#prefill, ...this.#decode]) wake.fire(this.#kernel);
  }

  *#switch(gpu: Gpu, model: PeerModel): Process {
    const isHidden = this.#gpus.setting.prefetch !== 'none';
    const micros = isHidden ? Math.max(SHORTEST_SWITCH_MICROS, model.loadMicros - gpu.hidden) : model.loadMicros;
    this.#tally.work.switches++;
    this.#tally.work.switchMicros += micros;
    this.#tally.work.linkBytes += model.costs.weightBytes;
    yield* this.#trouble.load(gpu, micros);
    gpu.hidden = 0;
    gpu.model = model;
  }

  *#compute(gpu: Gpu, micros: Micros): Process {
    yield micros;
    gpu.hidden += micros;
    this.#tally.work.busyMicros += micros;
  }

  *#fall(gpu: Gpu): Process {
    yield* this.#trouble.feel(gpu, gpu.model !== null);
    gpu.hidden = 0;
    gpu.model = null;
  }

  *#prefilling(gpu: PrefillGpu): Process {
    for (;;) {
      if (gpu.blow !== null) yield* this.#fall(gpu);
      const [group] = gpu.groups;
      const request = group?.shift();
      if (group === undefined || request === undefined) {
        yield gpu.wake;
        continue;
      }
      if (group.length === 0) gpu.groups.shift();
      if (gpu.model !== request.model) yield* this.#switch(gpu, request.model);
      // One that was given up while it stood in line is computed all the same, and then lost.
      const isLost = request.state === 'failed';
      request.state = isLost ? 'failed' : 'executing';
      yield* this.#compute(gpu, this.#gpus.prefill([request]));
      if (gpu.blow !== null) {
        gpu.groups.unshift([request]);
        continue;
      }
      step(this.#tally, request, this.#kernel.now);
      this.#schedule();
    }
  }

  *#decoding(gpu: DecodeGpu): Process {
    for (;;) {
      if (gpu.blow !== null) yield* this.#fall(gpu);
      this.#enterRound(gpu);
      const turns = gpu.batches.length;
      if (turns === 0) {
        yield gpu.wake;
        continue;
      }
      for (let turn = 0; turn < turns; turn++) {
        const batch = gpu.batches[0] as Batch;
        const { model } = batch.requests[0] as PeerRequest;
        if (gpu.model !== model) {
          yield* this.#switch(gpu, model);
          this.#accept(gpu);
        }
        yield* this.#takeTurn(gpu, batch, model);
        if (gpu.blow !== null) {
          yield* this.#fall(gpu);
          this.#prefillAgain(gpu, batch);
        }
        gpu.batches.push(gpu.batches.shift() as Batch);
        this.#accept(gpu);
      }
    }
  }

  *#takeTurn(gpu: DecodeGpu, batch: Batch, model: PeerModel): Process {
    const context = batch.requests.reduce((sum, request) => sum + contextOf(request), 0);
    const kvMicros = this.#gpus.kvIn(model, context);
    this.#tally.work.busyMicros += kvMicros;
    yield kvMicros;
    for (let used = 0; used < batch.micros; ) {
      if (batch.requests.every(isOver)) return;
      const micros = this.#gpus.decode(batch.requests);
      yield* this.#compute(gpu, micros);
      if (gpu.blow !== null) return;
      for (const request of batch.requests) {
        if (isOver(request)) continue;
        step(this.#tally, request, this.#kernel.now);
        if (isOver(request)) gpu.requests.delete(request);
      }
      used += micros;
      this.#accept(gpu);
    }
  }

  /** The KV of the batch in turn went with its engine. That of the others is in the host. */
  #prefillAgain(gpu: DecodeGpu, batch: Batch): void {
    for (const request of batch.requests.splice(0)) {
      gpu.requests.delete(request);
      this.#trouble.lose(request);
      if (!isOver(request)) this.#group(request);
    }
    for (const { wake } of this.#prefill) wake.fire(this.#kernel);
  }

  /** Those dealt out to this GPU join a batch of this round, or one that the next round will have. */
  #accept(gpu: DecodeGpu): void {
    for (const request of gpu.queue.splice(0)) {
      gpu.requests.add(request);
      const batch = gpu.batches.find(({ requests }) => this.#fits(requests, request));
      if (batch === undefined) gpu.batches.push({ micros: 0, requests: [request] });
      else batch.requests.push(request);
    }
  }

  #enterRound(gpu: DecodeGpu): void {
    for (const request of gpu.queue.splice(0)) gpu.requests.add(request);
    for (const request of gpu.requests) if (isOver(request)) gpu.requests.delete(request);
    const batches: PeerRequest[][] = [];
    for (const request of [...gpu.requests].toSorted((a, b) => a.arrivedAt - b.arrivedAt)) {
      const batch = batches.find((one) => this.#fits(one, request));
      if (batch === undefined) batches.push([request]);
      else batch.push(request);
    }
    const modelOf = (batch: readonly PeerRequest[]): PeerModel => (batch[0] as PeerRequest).model;
    const sorted = batches.toSorted((a, b) => modelOf(a).number - modelOf(b).number);
    gpu.batches = this.#slices(sorted).map((micros, index) => ({ micros, requests: sorted[index] as PeerRequest[] }));
  }

  /** So that the mean time per token holds over a round: slice_i = c / n_i / (alpha − Σ 1/n), n_i = TPOT / step_i. */
  #slices(batches: readonly (readonly PeerRequest[])[]): Micros[] {
    if (batches.length === 0) return [];
    const { tpotMicros } = this.#gpus.setting.slo;
    const inverse = batches.map((batch) => {
      const { model } = batch[0] as PeerRequest;
      const context = batch.reduce((sum, request) => sum + contextOf(request), 0);
      return this.#gpus.decodeExact(model, context) / tpotMicros;
    });
    const models = new Set(batches.map((batch) => (batch[0] as PeerRequest).model));
    const { weights_host_to_device_gb_per_s: bandwidth } = this.#gpus.setting.cluster.cluster;
    const loads = [...models].reduce((sum, { costs }) => sum + (costs.weightBytes / (bandwidth * 1e9)) * 1e6, 0);
    const total = inverse.reduce((sum, value) => sum + value, 0);
    const alpha = Math.max((loads * Math.max(...inverse)) / this.#sliceMicros + total, ALPHA_FLOOR);
    const { quantumMicros } = this.#gpus.setting;
    return inverse.map((value) => Math.floor((loads * value) / (alpha - total) / quantumMicros) * quantumMicros);
  }
}
