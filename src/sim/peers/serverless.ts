/**
 * ServerlessLLM and ServerlessLLM+ as Aegaeon's artifact simulates them: a queue for each GPU, one model on it at a time, and what is
 * switched away is computed again. Written from what that simulator computes; only to be compared with.
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

const GIVE_UP_MICROS = 15_000_000;
/** Requests of one model that a GPU serves at once before another GPU is taken. */
const SLOTS = 4;

interface Gpu extends Fragile {
  model: PeerModel | null;
  queue: PeerRequest[];
  lastBatchAt: Micros;
}

/** Puts the new request into some GPU's queue, and may reorder all. */
type Dispatch = (gpus: readonly Gpu[], request: PeerRequest, device: Gpus) => void;

export interface ServerlessOptions {
  /** `fcfs`: to completion, in the order of arrival. `srtf`: least remaining time first, told the true lengths (ServerlessLLM+). */
  readonly order: 'fcfs' | 'srtf';
  /** KV that is switched away is kept, and read back (stronger than what the artifact gives ServerlessLLM+). */
  readonly keepsKv: boolean;
}

export function serverless({ order, keepsKv }: ServerlessOptions): Peer {
  const name = `${order === 'fcfs' ? 'serverless' : 'serverless+'}${keepsKv ? ' with KV swap' : ''}`;
  return {
    name,
    run: (arrivals, setting) => new Run(setting, order === 'fcfs' ? toLeastLoaded : toShortest, keepsKv).all(arrivals),
  };
}

class Run {
  readonly #kernel = new Kernel();
  readonly #trouble: Trouble;
  readonly #tally: Tally;
  readonly #device: Gpus;
  readonly #dispatch: Dispatch;
  readonly #keepsKv: boolean;
  readonly #gpus: Gpu[];
  #pending: PeerRequest[] = [];

  constructor(setting: PeerSetting, dispatch: Dispatch, keepsKv: boolean) {
    this.#trouble = new Trouble(setting.faults);
    this.#tally = new Tally(setting.slo, this.#trouble.costs);
    this.#device = createGpus(setting);
    this.#dispatch = dispatch;
    this.#keepsKv = keepsKv;
    this.#gpus = Array.from({ length: setting.gpus }, () => ({
      model: null,
      queue: [],
      lastBatchAt: 0,
      wake: new Signal(),
      ...this.#trouble.fragile(),
    }));
  }

  all(arrivals: Parameters<Peer['run']>[0]): ReturnType<Peer['run']> {
    const requests = createRequests(arrivals, this.#device.modelOf, this.#tally);
    for (const gpu of this.#gpus) this.#kernel.plan(0, this.#serving(gpu));
    for (const request of requests) this.#kernel.plan(request.arrivedAt, this.#arriving(request));
    this.#trouble.begin(this.#kernel, requests, this.#gpus, () => undefined);
    this.#kernel.run();
    endAll(this.#tally, requests);
    return this.#tally.report();
  }

  // oxlint-disable-next-line require-yield
  *#arriving(request: PeerRequest): Process {
    this.#pending.push(request);
    for (const one of this.#pending) {
      if (one.tokens === 0 && this.#kernel.now - one.arrivedAt > GIVE_UP_MICROS) one.state = 'failed';
    }
    this.#pending = this.#pending.filter((one) => !isOver(one));
    this.#dispatch(this.#gpus, request, this.#device);
    for (const { wake } of this.#gpus) wake.fire(this.#kernel);
  }

  *#serving(gpu: Gpu): Process {
    for (;;) {
      if (gpu.blow !== null) yield* this.#fall(gpu);
      gpu.queue = gpu.queue.filter((request) => !isOver(request));
      const [front] = gpu.queue;
      if (front === undefined) yield gpu.wake;
      else if (front.model === gpu.model) yield* this.#compute(gpu, front.model);
      else {
        for (const request of gpu.queue) this.#evict(request);
        gpu.model = front.model;
        this.#tally.work.switches++;
        this.#tally.work.switchMicros += front.model.loadMicros;
        this.#tally.work.linkBytes += front.model.costs.weightBytes;
        yield* this.#trouble.load(gpu, front.model.loadMicros);
      }
    }
  }

  *#fall(gpu: Gpu): Process {
    yield* this.#trouble.feel(gpu, gpu.model !== null);
    for (const request of gpu.queue) if (request.state === 'executing') this.#trouble.lose(request);
    gpu.model = null;
  }

  #evict(request: PeerRequest): void {
    if (!this.#keepsKv) request.hasKv = false;
    if (!isOver(request)) request.state = 'pending';
  }

  /** Those of the model at the queue's front whose KV fits: prompts first, else a decode step. */
  *#compute(gpu: Gpu, model: PeerModel): Process {
    const front: PeerRequest[] = [];
    let tokens = 0;
    for (const request of gpu.queue) {
      tokens += contextOf(request);
      if (request.model !== model || tokens > model.kvTokens) break;
      front.push(request);
    }
    for (const request of gpu.queue)
      if (request.state === 'executing' && !front.includes(request)) this.#evict(request);
    const prompts = front.filter(({ hasKv }) => !hasKv);
    const batch = prompts.length > 0 ? prompts : front;
    let micros = prompts.length > 0 ? this.#device.prefill(batch) : this.#device.decode(batch);
    for (const request of batch) {
      // Back on the GPU with KV that was kept: it is read back first.
      if (request.state === 'pending' && request.hasKv) micros += this.#device.kvIn(model, contextOf(request));
      request.state = 'executing';
    }
    this.#tally.work.busyMicros += micros;
    yield micros;
    if (gpu.blow !== null) return;
    for (const request of batch) step(this.#tally, request, this.#kernel.now);
    gpu.lastBatchAt = this.#kernel.now;
  }
}

/** The GPU of the model with the shortest line; if none has a free slot, the one that computed least recently. */
const toLeastLoaded: Dispatch = (gpus, request) => {
  const states = gpus.map((gpu) => {
    const model = gpu.queue.at(-1)?.model ?? gpu.model;
    let count = 0;
    for (let at = gpu.queue.length - 1; at >= 0 && gpu.queue[at]?.model === model; at--) count++;
    return { gpu, model, count };
  });
  const own = states.filter(({ model }) => model === request.model);
  if (own.every(({ count }) => count >= SLOTS)) {
    const others = states.filter(({ model }) => model !== request.model);
    const target =
      states.find(({ model }) => model === null) ?? others.toSorted((a, b) => a.gpu.lastBatchAt - b.gpu.lastBatchAt)[0];
    if (target !== undefined) {
      target.gpu.queue.push(request);
      return;
    }
  }
  own.toSorted((a, b) => a.count - b.count)[0]?.gpu.queue.push(request);
};

/** Batches of at most four of a model; the new request joins one, else begins one where there are fewest; then each GPU sorts. */
const toShortest: Dispatch = (gpus, request, device) => {
  const plans = gpus.map((gpu) => {
    const batches: PeerRequest[][] = [];
    for (const one of gpu.queue) {
      const batch = batches.find((other) => other[0]?.model === one.model && other.length < SLOTS);
      if (batch === undefined) batches.push([one]);
      else batch.push(one);
    }
    return { gpu, batches };
  });
  join(plans, request);
  for (const { gpu, batches } of plans) {
    const times = new Map(batches.map((batch) => [batch, remaining(batch, device)]));
    gpu.queue = batches.toSorted((a, b) => (times.get(a) ?? 0) - (times.get(b) ?? 0)).flat();
  }
};

function join(plans: readonly { readonly batches: PeerRequest[][] }[], request: PeerRequest): void {
  let least = plans[0];
  for (const plan of plans) {
    const batch = plan.batches.find((other) => other[0]?.model === request.model && other.length < SLOTS);
    if (batch !== undefined) return void batch.push(request);
    if (least === undefined || plan.batches.length < least.batches.length) least = plan;
  }
  least?.batches.push([request]);
}

/** Its prefill if it has any, else what its first request still has to decode. */
function remaining(batch: readonly PeerRequest[], device: Gpus): Micros {
  const prompts = batch.filter((request) => !request.hasKv);
  const [first] = batch as readonly [PeerRequest];
  const { prefill, decode } = first.model.costs;
  if (prompts.length > 0) {
    const tokens = prompts.reduce((sum, { promptTokens }) => sum + promptTokens, 0);
    const squares = prompts.reduce((sum, { promptTokens }) => sum + promptTokens ** 2, 0);
    return prefill.base + prefill.perToken * tokens + prefill.perSquaredToken * squares;
  }
  const end = first.promptTokens + first.outputTokens;
  const middle = Math.floor((contextOf(first) + end) / 2);
  const step =
    device.decodeExact(first.model, middle) + decode.perSequence * (device.setting.constants === 'simulator' ? 2 : 0);
  return step * (end - contextOf(first));
}
