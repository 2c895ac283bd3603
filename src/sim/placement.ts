/**
 * Which device serves a request? Pure: each model has a home, found from the list of models and their sizes alone, and leaves it only
 * while that one is much busier than another. Staying keeps weights and KV where they are; a model that wanders is loaded everywhere.
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

/** What the front sees of a device when a request comes. */
export interface DeviceView {
  /** Requests of this request's model there, waiting and running. */
  readonly own: number;
  readonly hasModel: boolean;
  /** Models with work there, this one not counted. */
  readonly others: number;
}

export interface Spill {
  /** Expected micros of a load of this model, and of one more model's turn. */
  readonly loadMicros: Micros;
  readonly turnMicros: Micros;
  /** Another device must be better than the home by so much. */
  readonly marginMicros: Micros;
}

/**
 * Where the model has work already: with whom it is batched it hardly costs a step. Else the home, or another device where the first
 * token should come sooner by more than the margin.
 */
export function choose(home: number, views: readonly DeviceView[], spill: Spill): number {
  const isAnywhere = views.some(({ own }) => own > 0);
  const cost = ({ own, hasModel, others }: DeviceView): Micros =>
    isAnywhere && own === 0 ? Infinity : others * spill.turnMicros + (hasModel ? 0 : spill.loadMicros);
  let best = home;
  let least = cost(views[home] as DeviceView) - spill.marginMicros;
  for (const [device, view] of views.entries()) {
    const micros = cost(view);
    if (device !== home && micros < least) [best, least] = [device, micros];
  }
  return best;
}
