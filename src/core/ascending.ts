/** What has a key to be served by: the lower, the sooner. */
export interface Keyed {
  readonly key: number;
}

/**
 * The items by rising key, each found only when it is asked for: who looks at the first few of a thousand does not pay for sorting
 * all. Takes the array over (a binary heap). Equal keys come in an order that only depends on the input.
 */
export function* ascending<T extends Keyed>(items: T[]): Generator<T> {
  for (let index = (items.length >> 1) - 1; index >= 0; index--) sink(items, index);
  for (;;) {
    const first = items[0];
    const last = items.pop();
    if (first === undefined || last === undefined) return;
    if (items.length > 0) {
      items[0] = last;
      sink(items, 0);
    }
    yield first;
  }
}

function sink(heap: Keyed[], from: number): void {
  const item = heap[from] as Keyed;
  let index = from;
  for (;;) {
    let child = 2 * index + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && (heap[child + 1] as Keyed).key < (heap[child] as Keyed).key) child++;
    if ((heap[child] as Keyed).key >= item.key) break;
    heap[index] = heap[child] as Keyed;
    index = child;
  }
  heap[index] = item;
}
