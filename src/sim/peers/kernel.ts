/**
 * Virtual time for the peers: processes are generators that yield how long they sleep (micros), or a signal that they wait for. What is
 * due at the same time happens in the order in which it was planned, as in simpy, with which Aegaeon's simulator is written.
 */
import type { Micros } from '../../core/ids.ts';

export class Signal {
  #waiting: Process[] = [];
  /** Everybody who waits now goes on at this same time. */
  fire(kernel: Kernel): void {
    for (const process of this.#waiting) kernel.plan(0, process);
    this.#waiting = [];
  }
  wait(process: Process): void {
    this.#waiting.push(process);
  }
}

export type Process = Generator<Micros | Signal, void, void>;

interface Planned {
  readonly at: Micros;
  readonly order: number;
  readonly process: Process;
}

export class Kernel {
  now: Micros = 0;
  #order = 0;
  readonly #heap: Planned[] = [];

  plan(after: Micros, process: Process): void {
    const heap = this.#heap;
    const item = { at: this.now + after, order: this.#order++, process };
    let at = heap.length;
    heap.push(item);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent] as Planned;
      if (!isBefore(item, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = item;
  }

  /** Until nothing is planned: processes that wait for a signal then wait for ever. */
  run(): void {
    for (let next = this.#pop(); next !== undefined; next = this.#pop()) {
      this.now = next.at;
      const { done, value } = next.process.next();
      if (done === true) continue;
      if (typeof value === 'number') this.plan(value, next.process);
      else value.wait(next.process);
    }
  }

  #pop(): Planned | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1] as Planned, heap[child] as Planned)) child++;
      if (!isBefore(heap[child] as Planned, last)) break;
      heap[at] = heap[child] as Planned;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}

const isBefore = (a: Planned, b: Planned): boolean => a.at < b.at || (a.at === b.at && a.order < b.order);
