/**
 * The simulator's faults as they strike the peers: what, and when, is as for Berth (`../faults.ts`). A peer has no clock and sends no
 * messages, so of jumps and delays it feels nothing. It is taken to begin a failed load again at once, and to notice a crash when the step
 * under way should be over; nothing that the artifact's simulators compute is changed where no faults are asked for.
 */
import type { Micros } from '../../core/ids.ts';
import type { Blow, FaultCosts, FaultSpec } from '../faults.ts';
import { DeviceFaults, Faults, HANG_MICROS } from '../faults.ts';
import type { Kernel, Process, Signal } from './kernel.ts';
import type { PeerRequest } from './request.ts';
import { contextOf, isOver } from './request.ts';

/** A GPU that can be struck. */
export interface Fragile {
  readonly wake: Signal;
  readonly faults: DeviceFaults | null;
  /** Has struck, and was not felt yet. */
  blow: Blow | null;
}

export class Trouble {
  readonly #faults: Faults | null;
  #gpus = 0;

  constructor(spec: FaultSpec | undefined) {
    this.#faults = spec === undefined ? null : new Faults(spec);
  }

  get costs(): FaultCosts | null {
    return this.#faults?.costs ?? null;
  }

  /** The next GPU's part of a new one. */
  fragile(): Omit<Fragile, 'wake'> {
    const faults = this.#faults === null ? null : new DeviceFaults(this.#faults, this.#gpus++);
    return { faults, blow: null };
  }

  /** Plans what will happen. `onLeft` hears of each request whose client has left. */
  begin(
    kernel: Kernel,
    requests: readonly PeerRequest[],
    gpus: readonly Fragile[],
    onLeft: (request: PeerRequest) => void,
  ): void {
    const faults = this.#faults;
    const calmAt = requests.at(-1)?.arrivedAt;
    if (faults === null || calmAt === undefined) return;
    for (const request of requests) {
      const leavesAfter = faults.clientLeavesAfter();
      if (leavesAfter !== null) kernel.plan(request.arrivedAt, this.#leaving(request, leavesAfter, onLeft));
    }
    for (const gpu of gpus) kernel.plan(0, this.#striking(kernel, gpu, calmAt));
    kernel.plan(calmAt, this.#calming(faults));
  }

  // oxlint-disable-next-line require-yield
  *#calming(faults: Faults): Process {
    faults.isCalm = true;
  }

  *#leaving(request: PeerRequest, after: Micros, onLeft: (request: PeerRequest) => void): Process {
    yield after;
    if (isOver(request) || this.#faults === null) return;
    this.#faults.costs.clientsLeft++;
    request.state = 'failed';
    onLeft(request);
  }

  *#striking(kernel: Kernel, gpu: Fragile, calmAt: Micros): Process {
    for (const blow of gpu.faults?.blows() ?? []) {
      if (blow.at > calmAt) return;
      yield blow.at - kernel.now;
      if (blow.kind === 'jump') continue;
      gpu.blow = blow;
      gpu.wake.fire(kernel);
    }
  }

  /** A load that takes so long where nothing goes wrong. */
  *load({ faults }: Fragile, micros: Micros): Process {
    for (;;) {
      const fault = faults?.nextLoad();
      yield fault === undefined ? micros : Math.ceil(micros * fault.slowness);
      if (fault?.fails !== true) return;
    }
  }

  /** The GPU feels its blow: one that hangs stands still until that is noticed. `isThere`: it has a model that can be struck. */
  *feel(gpu: Fragile, isThere: boolean): Process {
    const { blow } = gpu;
    gpu.blow = null;
    if (blow === null || !isThere || this.#faults === null) return;
    if (blow.kind === 'hang') {
      this.#faults.costs.hangs++;
      yield HANG_MICROS;
    } else this.#faults.costs.crashes++;
  }

  /** The request's KV is gone: it is computed again. */
  lose(request: PeerRequest): void {
    if (isOver(request)) return;
    if (request.hasKv && this.#faults !== null) this.#faults.costs.recomputedTokens += contextOf(request);
    request.hasKv = false;
    request.state = 'pending';
  }
}
