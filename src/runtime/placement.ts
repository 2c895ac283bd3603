/**
 * Which of the node's devices is a model computed on? Pure. A model stays where it is; one that is nowhere goes where its memory is free,
 * and of such devices to the least busy one. Berth's simulator spreads a model over several (`sim/placement.ts`); a node has each on one.
 */
import type { Bytes } from '../core/ids.ts';

/** A device that may compute the model, as the model finds it. */
export interface Offer {
  /** With everything else gone that may go, the model has room there. */
  readonly fits: boolean;
  /** A load of it failed there, and is not to be tried again yet. */
  readonly isFailing: boolean;
  /** What it needs is free at this moment. */
  readonly hasRoom: boolean;
  /** Requests that wait or run there, for each lane. */
  readonly busy: number;
  readonly freeBytes: Bytes;
  /** The model was there the last time. */
  readonly wasHere: boolean;
}

/** The index of the best offer, the first of equals; -1: there is none. */
export function choose(offers: readonly Offer[]): number {
  let best = -1;
  for (const [index, offer] of offers.entries()) {
    const other = offers[best];
    if (other === undefined || compare(offer, other) < 0) best = index;
  }
  return best;
}

/** Below 0: `a` is better. */
function compare(a: Offer, b: Offer): number {
  const yes = (one: boolean, other: boolean): number => Number(other) - Number(one);
  return (
    yes(a.fits, b.fits) ||
    yes(!a.isFailing, !b.isFailing) ||
    yes(a.hasRoom, b.hasRoom) ||
    a.busy - b.busy ||
    yes(a.wasHere, b.wasHere) ||
    b.freeBytes - a.freeBytes
  );
}

export interface Weighed {
  readonly name: string;
  readonly bytes: Bytes;
  /** Indices of the devices that may have it; at least one. */
  readonly allowed: readonly number[];
  /** Where it is at home already; null: nowhere. */
  readonly home: number | null;
}

/** Homes of models that never leave: those that have one keep it, then the largest first to where the most is left. */
export function homesOf(models: readonly Weighed[], budgets: readonly Bytes[]): Map<string, number> {
  const left = [...budgets];
  const homes = new Map<string, number>();
  const settle = ({ name, bytes }: Weighed, device: number): void => {
    homes.set(name, device);
    left[device] = (left[device] ?? 0) - bytes;
  };
  const isAtHome = ({ home, allowed }: Weighed): boolean => home !== null && allowed.includes(home);
  for (const model of models) if (isAtHome(model)) settle(model, model.home as number);
  const others = models.filter((model) => !isAtHome(model));
  for (const model of others.toSorted((a, b) => b.bytes - a.bytes || (a.name < b.name ? -1 : 1))) {
    const most = Math.max(...model.allowed.map((device) => left[device] ?? 0));
    settle(model, model.allowed.find((device) => left[device] === most) as number);
  }
  return homes;
}
