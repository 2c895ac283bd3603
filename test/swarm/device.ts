/**
 * A device that is not there: models with bytes and costs, lanes that compute steps, all in virtual time. It does what it is told
 * and tells what happened, a little later; it also checks what a real device would suffer from (lanes over-granted, loads that
 * overlap, a model taken away under a request). Faults are drawn from the seed while `faults` says so.
 */
import type { RefusalCode } from '../../src/core/actions.ts';
import type { CoreEvent } from '../../src/core/events.ts';
import type { ActionId, Bytes, Micros, ModelId, RequestId } from '../../src/core/ids.ts';
import { LATEST_MICROS } from '../../src/sim/faults.ts';
import { Mailbox } from '../../src/sim/mailbox.ts';
import type { Timeline } from '../../src/sim/timeline.ts';
import type { Prng } from './prng.ts';

/** What the model really is, as opposed to what the core was told. */
export interface Physics {
  readonly loadedBytes: Bytes;
  readonly asleepBytes: Bytes;
  readonly loadMicros: Micros;
  readonly wakeMicros: Micros;
  /** Cost of one step on one lane: its own, and per decoded or prefilled token. */
  readonly stepMicros: Micros;
  readonly decodeMicros: Micros;
  readonly prefillMicros: Micros;
  readonly chunkTokens: number;
  /** Tokens of one step; more than one is coarser, and faster to simulate. */
  readonly tokensPerStep: number;
  /** Its file is broken: no load will ever succeed. */
  readonly broken: boolean;
}

export interface Work {
  readonly requestId: RequestId;
  promptLeft: number;
  /** Tokens whose KV is on the device. */
  computed: number;
  outputLeft: number;
  generated: number;
  readonly promptTokens: number;
  prefillMicros: Micros;
  decodeMicros: Micros;
}

/** Chances in 1,000. */
export interface DeviceFaults {
  loadFails: number;
  parkFails: number;
  /** A message comes late. */
  late: number;
}

interface OpenSlice {
  readonly id: ActionId;
  readonly lanes: number;
  readonly micros: Micros | null;
  readonly openedAt: Micros;
  told: boolean;
  steps: number;
  prefillTokens: number;
  readonly decodeTokens: Record<RequestId, number>;
  computeMicros: Micros;
}

type Place = 'cold' | 'loading' | 'resident' | 'parking' | 'asleep' | 'unloading';

interface VirtualModel {
  readonly id: ModelId;
  physics: Physics;
  place: Place;
  /** Counts the ways between places and deaths: what was planned before is void. */
  life: number;
  bytes: Bytes;
  readonly work: Map<RequestId, Work>;
  slice: OpenSlice | null;
  next: OpenSlice | null;
  stepping: boolean;
  readonly mailbox: Mailbox;
}

export interface DeviceWiring {
  readonly timeline: Timeline;
  readonly prng: Prng;
  readonly faults: DeviceFaults;
  readonly lanes: () => number;
  readonly hopMicros: Micros;
  /** A message arrives at the node. */
  readonly tell: (event: CoreEvent) => void;
}

export class VirtualDevice {
  readonly #wiring: DeviceWiring;
  readonly #models = new Map<ModelId, VirtualModel>();
  peakBytes: Bytes = 0;

  constructor(wiring: DeviceWiring) {
    this.#wiring = wiring;
  }

  /** Takes effect at the model's next load. */
  describe(id: ModelId, physics: Physics): void {
    const model = this.#models.get(id);
    if (model !== undefined) model.physics = physics;
    else {
      const work = new Map<RequestId, Work>();
      this.#models.set(id, {
        id,
        physics,
        work,
        place: 'cold',
        life: 0,
        bytes: 0,
        slice: null,
        next: null,
        stepping: false,
        mailbox: this.#openMailbox(),
      });
    }
  }

  #openMailbox(): Mailbox {
    const { timeline, prng, hopMicros, tell: hear } = this.#wiring;
    const delay = (): Micros => (this.#strikes('late') ? prng.between(hopMicros, LATEST_MICROS) : hopMicros);
    return new Mailbox({ timeline, delay, hear });
  }

  /** Held by all models now. */
  get bytes(): Bytes {
    let bytes = 0;
    for (const model of this.#models.values()) bytes += model.bytes;
    return bytes;
  }

  /** Lanes that compute at this moment. */
  get lanesInUse(): number {
    let lanes = 0;
    for (const model of this.#models.values()) if (model.stepping) lanes += model.slice?.lanes ?? 0;
    return lanes;
  }

  onDevice(): ModelId[] {
    return [...this.#models.values()].filter(({ place }) => place !== 'cold').map(({ id }) => id);
  }

  // -------------------------------------------------------------- what it is told

  load(id: ModelId, actionId: ActionId): void {
    const model = this.#model(id);
    this.#must(model.place === 'cold' || model.place === 'asleep', model, 'a load overlaps something else');
    const from = model.place === 'asleep' ? 'asleep' : 'cold';
    const { loadMicros, wakeMicros, loadedBytes, broken } = model.physics;
    const life = this.#go(model, 'loading');
    model.bytes = Math.max(model.bytes, loadedBytes);
    this.peakBytes = Math.max(this.peakBytes, this.bytes);
    const micros = from === 'cold' ? loadMicros : wakeMicros;
    this.#wiring.timeline.after(micros, () => {
      if (model.life !== life) return this.#failLoad(model, actionId, 'model_stopped');
      if (broken || this.#strikes('loadFails')) {
        this.#go(model, 'cold');
        model.bytes = 0;
        return this.#failLoad(model, actionId, broken ? 'model_file_invalid' : 'model_load_failed');
      }
      this.#go(model, 'resident');
      model.bytes = loadedBytes;
      model.mailbox.say({ type: 'modelLoaded', actionId, modelId: id, from, micros, bytes: loadedBytes });
    });
  }

  #failLoad(model: VirtualModel, actionId: ActionId, code: RefusalCode): void {
    model.mailbox.say({ type: 'modelLoadFailed', actionId, modelId: model.id, code, message: 'the load failed' });
  }

  park(id: ModelId, actionId: ActionId): void {
    const model = this.#model(id);
    this.#must(model.place === 'resident', model, 'only a resident model can be parked');
    this.#must(model.work.size === 0, model, 'a model with work is parked');
    for (const slice of [model.slice, model.next]) if (slice !== null) this.#report(model, slice);
    model.slice = model.next = null;
    const life = this.#go(model, 'parking');
    const micros = Math.ceil(model.physics.wakeMicros / 2);
    this.#wiring.timeline.after(micros, () => {
      if (model.life !== life) return;
      const fails = this.#strikes('parkFails');
      this.#go(model, fails ? 'cold' : 'asleep');
      model.bytes = fails ? 0 : model.physics.asleepBytes;
      if (fails) model.mailbox.say({ type: 'modelUnloaded', actionId, modelId: id, micros });
      else model.mailbox.say({ type: 'modelFellAsleep', actionId, modelId: id, micros, bytes: model.bytes });
    });
  }

  unload(id: ModelId, actionId: ActionId, forced: boolean): void {
    const model = this.#model(id);
    this.#must(model.place !== 'unloading', model, 'an unload overlaps another');
    this.#must(forced || model.work.size === 0, model, 'a model with work is unloaded');
    this.#failWork(model);
    model.slice = model.next = null;
    const life = this.#go(model, 'unloading');
    const micros = this.#wiring.prng.between(1_000, 20_000);
    this.#wiring.timeline.after(micros, () => {
      if (model.life !== life) return;
      this.#go(model, 'cold');
      model.bytes = 0;
      model.mailbox.say({ type: 'modelUnloaded', actionId, modelId: id, micros });
    });
  }

  /** The process is gone. What it had said is heard before its end is. */
  kill(id: ModelId): void {
    const model = this.#model(id);
    if (model.place === 'cold') return;
    // Most go on when it is back; of some the node has had enough.
    for (const requestId of model.work.keys())
      if (this.#wiring.prng.chance(3, 4)) {
        model.mailbox.say({ type: 'requestLost', requestId });
        model.work.delete(requestId);
      }
    this.#failWork(model);
    model.slice = model.next = null;
    model.bytes = 0;
    this.#go(model, 'cold');
    model.mailbox.say({ type: 'engineDied', modelId: id });
    model.mailbox.flush();
  }

  measure(id: ModelId): void {
    const model = this.#model(id);
    if (model.place === 'resident') model.mailbox.say({ type: 'memoryMeasured', modelId: id, bytes: model.bytes });
  }

  submit(id: ModelId, work: Work): void {
    const model = this.#model(id);
    this.#must(model.place === 'resident', model, 'a request for a model that is not there');
    this.#must(!model.work.has(work.requestId), model, 'a request is started twice');
    model.work.set(work.requestId, work);
    this.#step(model);
  }

  /** Nothing more is heard of the request. With `keepsKv` its KV is saved: of so many tokens. */
  cancel(id: ModelId, requestId: RequestId, keepsKv = false): number {
    const model = this.#model(id);
    const work = model.work.get(requestId);
    model.work.delete(requestId);
    model.mailbox.forget(requestId);
    if (!keepsKv || work === undefined || work.computed === 0) return 0;
    const micros = work.computed * this.#wiring.prng.between(1, 50);
    model.mailbox.say({ type: 'kvSaved', modelId: id, tokens: work.computed, micros });
    return work.computed;
  }

  grant(id: ModelId, sliceId: ActionId, lanes: number, micros: Micros | null): void {
    const model = this.#model(id);
    this.#must(model.place === 'resident', model, 'a slice for a model that is not there');
    const openedAt = this.#wiring.timeline.now;
    const slice = {
      id: sliceId,
      lanes,
      micros,
      openedAt,
      told: false,
      steps: 0,
      prefillTokens: 0,
      decodeTokens: {},
      computeMicros: 0,
    };
    if (model.slice !== null && model.stepping) {
      model.slice.told = true;
      if (model.next !== null) this.#report(model, model.next);
      model.next = slice;
      return;
    }
    this.#endSlice(model);
    model.slice = slice;
    this.#step(model);
  }

  endSlice(id: ModelId, sliceId: ActionId): void {
    const model = this.#model(id);
    if (model.next?.id === sliceId) model.next.told = true;
    if (model.slice?.id !== sliceId) return;
    model.slice.told = true;
    if (!model.stepping) this.#endSlice(model);
  }

  // -------------------------------------------------------------- computing

  #step(model: VirtualModel): void {
    const { slice, physics } = model;
    if (slice === null || model.stepping || model.place !== 'resident') return;
    const isOver =
      slice.micros !== null && slice.steps > 0 && this.#wiring.timeline.now - slice.openedAt >= slice.micros;
    if (slice.told || isOver || model.work.size === 0) return this.#endSlice(model);
    let room = physics.chunkTokens;
    let decoded = 0;
    const shares = [...model.work.values()].map((work) => {
      if (work.promptLeft > 0) {
        const prefill = Math.min(room, work.promptLeft);
        room -= prefill;
        return { work, prefill, decode: 0 };
      }
      const decode = Math.min(work.outputLeft, physics.tokensPerStep);
      decoded += decode;
      return { work, prefill: 0, decode };
    });
    const prefilled = physics.chunkTokens - room;
    const effort = physics.stepMicros + decoded * physics.decodeMicros + prefilled * physics.prefillMicros;
    const micros = Math.max(1, Math.floor(effort / slice.lanes));
    model.stepping = true;
    const lanes = this.#wiring.lanes();
    this.#must(this.lanesInUse <= lanes, model, `${this.lanesInUse} lanes compute, of ${lanes}`);
    const { life } = model;
    this.#wiring.timeline.after(micros, () => {
      if (model.life !== life) return;
      model.stepping = false;
      slice.steps++;
      slice.computeMicros += micros;
      slice.prefillTokens += prefilled;
      for (const { work, prefill, decode } of shares) {
        if (model.work.get(work.requestId) === work) this.#advance(model, slice, work, prefill, decode, micros);
      }
      this.#step(model);
    });
  }

  #advance(model: VirtualModel, slice: OpenSlice, work: Work, prefill: number, decode: number, micros: Micros): void {
    const { requestId } = work;
    work.promptLeft -= prefill;
    work.computed += prefill + decode;
    if (decode === 0) work.prefillMicros += micros;
    else {
      work.decodeMicros += micros;
      if (work.generated === 0) model.mailbox.say({ type: 'firstTokenEmitted', requestId });
      work.generated += decode;
      work.outputLeft -= decode;
      slice.decodeTokens[requestId] = (slice.decodeTokens[requestId] ?? 0) + decode;
    }
    if (work.promptLeft > 0 || work.outputLeft > 0) return;
    model.work.delete(requestId);
    const { promptTokens, generated, prefillMicros, decodeMicros } = work;
    const usage = { promptTokens, cachedTokens: 0, outputTokens: generated, prefillMicros, decodeMicros };
    model.mailbox.say({ type: 'requestFinished', requestId, failed: false, ...usage });
  }

  #endSlice(model: VirtualModel): void {
    if (model.slice === null) return;
    this.#report(model, model.slice);
    model.slice = model.next;
    model.next = null;
    this.#step(model);
  }

  #report(model: VirtualModel, slice: OpenSlice): void {
    const { id: sliceId, steps, prefillTokens, decodeTokens, computeMicros } = slice;
    const wallMicros = computeMicros;
    model.mailbox.say({
      type: 'sliceEnded',
      modelId: model.id,
      sliceId,
      lanes: slice.lanes,
      steps,
      prefillTokens,
      decodeTokens,
      wallMicros,
      computeMicros,
    });
  }

  // -------------------------------------------------------------- telling

  #failWork(model: VirtualModel): void {
    const nothing = { promptTokens: 0, cachedTokens: 0, outputTokens: 0, prefillMicros: 0, decodeMicros: 0 };
    for (const requestId of model.work.keys()) {
      model.mailbox.say({ type: 'requestFinished', requestId, failed: true, ...nothing });
    }
    model.work.clear();
  }

  #go(model: VirtualModel, place: Place): number {
    model.place = place;
    model.stepping = false;
    return ++model.life;
  }

  #strikes(fault: keyof DeviceFaults): boolean {
    const chances = this.#wiring.faults[fault];
    return chances > 0 && this.#wiring.prng.chance(chances, 1_000);
  }

  #model(id: ModelId): VirtualModel {
    const model = this.#models.get(id);
    if (model === undefined) throw new Error(`the device knows no model ${id}`);
    return model;
  }

  #must(holds: boolean, model: VirtualModel, what: string): void {
    if (!holds) throw new Error(`device: ${what} (model ${model.id}, ${model.place}, at ${this.#wiring.timeline.now})`);
  }
}
