/**
 * Which device serves a request? Pure: each model has a home, found from the list of models and their sizes alone, and leaves it only
 * while that one is much busier than another. Staying keeps weights and KV where they are; a model that wanders is loaded everywhere.
 * A node has each model on one device (`runtime/placement.ts`).
 */
import type { Bytes, Micros } from '../core/ids.ts';

export interface Placed {
  readonly name: string;
  readonly weightBytes: Bytes;
}

/** Homes: as many models on each device as on any other, give or take one, and bytes as even as that allows. Largest first. */
export function spread(models: readonly Placed[], devices: number): Map<string, number> {
  const homes = new Map<string, number>();
  const loads = Array.from({ length: devices }, (_, device) => ({ device, models: 0, bytes: 0 }));
  const most = Math.ceil(models.length / devices);
  const bySize = models.toSorted((a, b) => b.weightBytes - a.weightBytes || (a.name < b.name ? -1 : 1));
  for (const { name, weightBytes } of bySize) {
    let best = loads[0] as (typeof loads)[number];
    for (const load of loads) {
      if (load.models >= most) continue;
      if (best.models >= most || load.bytes < best.bytes || (load.bytes === best.bytes && load.models < best.models))
        best = load;
    }
    best.models++;
    best.bytes += weightBytes;
    homes.set(name, best.device);
  }
  return homes;
}

/**
 * The devices that may serve a model: its home, then others, each model's in an order of its own, so that two models of one home rarely
 * give way to the same place. A short list is as good as all for a front that looks at how busy they are (“the power of two choices”;
 * M. Mitzenmacher, IEEE TPDS 2001), and a device need only know its own models.
 */
export function candidates(home: number, index: number, devices: number, most: number): number[] {
  const stride = 1 + (index % Math.max(1, devices - 1));
  const found = new Set([home]);
  for (let at = home; found.size < Math.min(most, devices); ) {
    at = (at + stride) % devices;
    // A stride that divides the number comes round too early: go on beside it.
    while (found.has(at)) at = (at + 1) % devices;
    found.add(at);
  }
  return [...found];
}

/** What the front sees of the devices when a request for a model comes; each list has a place for each device. */
export interface Views {
  /** Requests of this model, waiting and running. */
  readonly own: ArrayLike<number>;
  /** 1 where the model is, or is on its way. */
  readonly present: ArrayLike<number>;
  /** Models with work. */
  readonly busy: ArrayLike<number>;
}

export interface Spill {
  /** Expected micros of a load of this model, and of one more model's turn. */
  readonly loadMicros: Micros;
  readonly turnMicros: Micros;
  /** A device where the model computes, and a seat is free, may be busier by so much. */
  readonly joinMicros: Micros;
  /** Requests of the model that one device computes at once. */
  readonly seats: number;
}

/** Another device must promise less than this share of the home's wait, by a turn. */
const HOME_SHARE = 0.5;
/** Who finds all seats taken waits for somebody to be through: as long as several turns. */
const TURNS_FOR_A_SEAT = 4;

/**
 * Which of the model's devices, the first of which is its home? The one where the first token should come soonest. Where the model has
 * work and a seat is free, the request is batched and hardly costs a step: such a device may be a few turns busier than the best. So a
 * model that is asked for much is soon on several, and those of a crowded device leave it one by one.
 */
export function choose(devices: readonly number[], { own, present, busy }: Views, spill: Spill): number {
  const [home = 0] = devices;
  let best = home;
  let least = Infinity;
  for (const device of devices) {
    const mine = own[device] as number;
    const turns = (busy[device] as number) - (mine > 0 ? 1 : 0) + TURNS_FOR_A_SEAT * Math.floor(mine / spill.seats);
    const waitMicros = turns * spill.turnMicros + (present[device] === 1 ? 0 : spill.loadMicros);
    const atHome = device === home ? waitMicros * HOME_SHARE - spill.turnMicros : waitMicros;
    const micros = atHome - (mine > 0 && mine < spill.seats ? spill.joinMicros : 0);
    if (micros < least) [best, least] = [device, micros];
  }
  return best;
}
