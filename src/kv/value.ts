/**
 * Who leaves a full tier first: GreedyDual-Size-Frequency (L. Cherkasova, “Improving WWW Proxies Performance with
 * Greedy-Dual-Size-Frequency Caching Policy”, HP Labs HPL-98-69, 1998). Each key has H = L + uses × cost / size; the least H leaves, and the
 * age L rises to it, so that what is not used sinks against what comes. Pure: plain numbers in, a key out.
 */
import type { Bytes, Micros } from '../core/ids.ts';
import { MIB } from '../core/ids.ts';

export interface Valued {
  /** How often it was asked for, its making included. */
  readonly uses: number;
  /** What its absence costs: time to compute it again, less the time to bring it back. */
  readonly costMicros: Micros;
  readonly bytes: Bytes;
  /** Something newer holds all that it holds: it leaves before any other, and ages nobody. */
  readonly superseded: boolean;
}

export interface GreedyDual<Key> {
  /** Enters it or values it anew, at the present age. */
  set(key: Key, valued: Valued): void;
  /** It is not a candidate while held; its value stays. */
  hold(key: Key): void;
  unhold(key: Key): void;
  delete(key: Key): void;
  /** The least worth of those not held; ties: the one that was valued first. null: there is none. */
  least(): { readonly key: Key; readonly worth: number } | null;
  /** It leaves for want of room: the age rises to its worth. */
  leave(key: Key): void;
  /** What such a one would be worth if it came now. */
  worthOf(valued: Valued): number;
  /** One of such a worth was turned away: that ages the others as if it had come and left. */
  turnAway(worth: number): void;
  /** Keys, dearest first, the held ones too. */
  dearest(): Key[];
  readonly age: number;
}

interface Item<Key> {
  readonly key: Key;
  worth: number;
  /** Order of valuation. */
  turn: number;
  isHeld: boolean;
  /** Place in the heap; -1: it is not in it. */
  at: number;
}

const SUPERSEDED = -1;

/** Micros saved per MiB and use, above the age. Integer. */
const gain = ({ uses, costMicros, bytes }: Valued): number =>
  Math.floor((Math.max(1, uses) * Math.max(0, costMicros) * MIB) / Math.max(1, bytes));

export function createGreedyDual<Key>(): GreedyDual<Key> {
  const items = new Map<Key, Item<Key>>();
  /** A binary heap of those not held, the least on top. */
  const heap: Item<Key>[] = [];
  let age = 0;
  let turns = 0;

  const isBefore = (a: Item<Key>, b: Item<Key>): boolean =>
    a.worth < b.worth || (a.worth === b.worth && a.turn < b.turn);
  const put = (item: Item<Key>, at: number): void => {
    heap[at] = item;
    item.at = at;
  };
  /** Finds the item's place from `at`, upwards and then downwards. */
  const settle = (item: Item<Key>, at: number): void => {
    let place = at;
    while (place > 0) {
      const parent = heap[(place - 1) >> 1];
      if (parent === undefined || !isBefore(item, parent)) break;
      put(parent, place);
      place = (place - 1) >> 1;
    }
    for (;;) {
      const left = heap[2 * place + 1];
      const right = heap[2 * place + 2];
      const child = left !== undefined && right !== undefined && isBefore(right, left) ? right : left;
      if (child === undefined || !isBefore(child, item)) break;
      const next = child.at;
      put(child, place);
      place = next;
    }
    put(item, place);
  };
  const insert = (item: Item<Key>): void => {
    heap.push(item);
    settle(item, heap.length - 1);
  };
  const extract = (item: Item<Key>): void => {
    if (item.at < 0) return;
    const at = item.at;
    const last = heap.pop();
    item.at = -1;
    if (last !== undefined && last !== item) settle(last, at);
  };
  const worthOf = (valued: Valued): number => (valued.superseded ? SUPERSEDED : age + gain(valued));
  const remove = (key: Key): void => {
    const item = items.get(key);
    if (item === undefined) return;
    extract(item);
    items.delete(key);
  };

  return {
    set(key, valued) {
      const known = items.get(key);
      const item = known ?? { key, worth: 0, turn: 0, isHeld: false, at: -1 };
      extract(item);
      item.worth = worthOf(valued);
      item.turn = turns++;
      items.set(key, item);
      if (!item.isHeld) insert(item);
    },
    hold(key) {
      const item = items.get(key);
      if (item === undefined) return;
      item.isHeld = true;
      extract(item);
    },
    unhold(key) {
      const item = items.get(key);
      if (item === undefined || !item.isHeld) return;
      item.isHeld = false;
      insert(item);
    },
    delete: remove,
    least() {
      const [top] = heap;
      return top === undefined ? null : { key: top.key, worth: top.worth };
    },
    leave(key) {
      age = Math.max(age, items.get(key)?.worth ?? 0);
      remove(key);
    },
    worthOf,
    turnAway(worth) {
      age = Math.max(age, worth);
    },
    dearest: () => [...items.values()].toSorted((a, b) => b.worth - a.worth || b.turn - a.turn).map(({ key }) => key),
    get age() {
      return age;
    },
  };
}
