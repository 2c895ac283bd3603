/** Which device each model of a node is on, was on, and goes to. */
import type { ModelId } from '../core/ids.ts';
import { BerthError, modelNotFound } from '../errors.ts';
import type { Device, DeviceConfiguration } from './device.ts';
import type { AdapterSpec, Hosted, HostedSpec } from './hosted.ts';
import { choose, homesOf } from './placement.ts';

export interface Placed {
  readonly device: Device;
  readonly hosted: Hosted;
  /** Whose name was asked for; null: the model's own. */
  readonly adapter: AdapterSpec | null;
}

export class Homes {
  readonly #create: (id: string, isOnly: boolean) => Device;
  /** Where each model is, or was the last time. */
  readonly #homes = new Map<ModelId, Device>();
  #devices: readonly Device[] = [];
  /** Of pinned models, as the last `share` found them. */
  #settled: ReadonlyMap<string, number> = new Map();

  constructor(create: (id: string, isOnly: boolean) => Device) {
    this.#create = create;
  }

  get devices(): readonly Device[] {
    return this.#devices;
  }

  /** What the first configuration says of devices holds for ever; throws `config_invalid` when a later one says otherwise. */
  adopt(configured: readonly DeviceConfiguration[]): void {
    const ids = configured.map(({ id }) => id);
    if (this.#devices.length === 0) this.#devices = ids.map((id) => this.#create(id, ids.length === 1));
    if (ids.join() === this.#devices.map(({ id }) => id).join()) return;
    throw new BerthError('config_invalid', 'devices: others are taken with the next start only', { param: 'devices' });
  }

  /**
   * The models that each device is to list. One that is pinned is loaded at once, so it is listed by one device only: by the one where it
   * is, else where the most is left.
   */
  share(configured: readonly DeviceConfiguration[]): (readonly HostedSpec[])[] {
    if (configured.length === 1) return configured.map(({ models }) => models);
    const pinned = new Map<ModelId, { bytes: number; allowed: number[] }>();
    for (const [index, { models }] of configured.entries()) {
      for (const { id, fileBytes } of models.filter((model) => model.pinned)) {
        const known = pinned.get(id) ?? { bytes: fileBytes, allowed: [] };
        pinned.set(id, known);
        known.allowed.push(index);
      }
    }
    const weighed = [...pinned].map(([name, { bytes, allowed }]) => {
      const home = this.#homes.get(name);
      return { name, bytes, allowed, home: home === undefined ? null : this.#devices.indexOf(home) };
    });
    const budgets = configured.map(({ device }) => device.memoryBytes - device.overheadBytes);
    const settled = homesOf(weighed, budgets);
    this.#settled = settled;
    return configured.map(({ models }, index) => models.filter(({ id }) => (settled.get(id) ?? index) === index));
  }

  /** After the devices have taken their lists. */
  settle(): void {
    for (const [id, device] of this.#homes) if (!device.allows(id) && !device.isAt(id)) this.#homes.delete(id);
    for (const [id, index] of this.#settled) this.#homes.set(id as ModelId, this.#devices[index] as Device);
  }

  /** Where the model is, or was; else the first device that may have it. */
  homeOf(id: ModelId): Device | undefined {
    return this.#homes.get(id) ?? this.#devices.find((device) => device.allows(id)) ?? this.#devices[0];
  }

  /** The name of the device where it is, was the last time, or must be; null: nowhere yet, or the node has only one. */
  labelOf(id: ModelId): string | null {
    if (this.#devices.length === 1) return null;
    const allowed = this.#devices.filter((device) => device.allows(id));
    return (this.#homes.get(id) ?? (allowed.length === 1 ? allowed[0] : undefined))?.id ?? null;
  }

  /** A model goes to a device when it is wanted and is on none; from then on it stays there until it is cold again. */
  place(name: string): Placed {
    const id = this.idOf(name);
    const home = id === null ? undefined : this.homeOf(id);
    if (id === null || home === undefined) throw modelNotFound(name);
    if (this.#devices.length === 1) return this.#at(home, id, name);
    const device = home.isAt(id) ? home : this.#best(id, home);
    this.#homes.set(id, device);
    return this.#at(device, id, name);
  }

  #best(id: ModelId, home: Device): Device {
    const devices = this.#devices.filter((device) => device.allows(id));
    const offers = devices.map((device) => device.offer(id, this.#homes.get(id) === device));
    return devices[choose(offers)] ?? home;
  }

  /** By id or alias; null: there is none of that name. */
  idOf(name: string): ModelId | null {
    for (const { registry } of this.#devices) {
      const id = registry.idOf(name);
      if (id !== null) return id;
    }
    return null;
  }

  /** By id or alias, where it is; throws `model_not_found`. */
  find(name: string): Placed {
    const id = this.idOf(name);
    const device = id === null ? undefined : this.homeOf(id);
    if (id === null || device === undefined) throw modelNotFound(name);
    return this.#at(device, id, name);
  }

  #at(device: Device, id: ModelId, name: string): Placed {
    const hosted = device.registry.get(id);
    if (hosted === undefined) throw modelNotFound(name);
    const [adapter = null] = this.#devices.flatMap(({ registry }) => registry.adapterOf(name) ?? []);
    return { device, hosted, adapter };
  }
}
