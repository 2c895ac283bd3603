/** Virtual time: what is planned happens in order of time, and in the order of planning at the same microsecond. */
import type { Micros } from '../core/ids.ts';

interface Planned {
  readonly at: Micros;
  readonly order: number;
  readonly run: () => void;
}

export class Timeline {
  now: Micros = 0;
  #order = 0;
  readonly #heap: Planned[] = [];

  get nextAt(): Micros | null {
    return this.#heap[0]?.at ?? null;
  }

  at(at: Micros, run: () => void): void {
    const heap = this.#heap;
    heap.push({ at: Math.max(at, this.now), order: this.#order++, run });
    let index = heap.length - 1;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!isBefore(heap, index, parent)) break;
      swap(heap, index, parent);
      index = parent;
    }
  }

  after(micros: Micros, run: () => void): void {
    this.at(this.now + micros, run);
  }

  /** Goes to that time and runs what is planned for it, also what is planned for it meanwhile. */
  runUntil(at: Micros): void {
    this.now = Math.max(this.now, at);
    while (this.#heap[0] !== undefined && this.#heap[0].at <= this.now) this.#pop().run();
  }

  #pop(): Planned {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined) throw new Error('nothing is planned');
    if (heap.length === 0) return first;
    heap[0] = last;
    let index = 0;
    for (;;) {
      const left = 2 * index + 1;
      let least = index;
      if (left < heap.length && isBefore(heap, left, least)) least = left;
      if (left + 1 < heap.length && isBefore(heap, left + 1, least)) least = left + 1;
      if (least === index) return first;
      swap(heap, index, least);
      index = least;
    }
  }
}

function isBefore(heap: readonly Planned[], a: number, b: number): boolean {
  const x = heap[a] as Planned;
  const y = heap[b] as Planned;
  return x.at < y.at || (x.at === y.at && x.order < y.order);
}

function swap(heap: Planned[], a: number, b: number): void {
  [heap[a], heap[b]] = [heap[b] as Planned, heap[a] as Planned];
}
