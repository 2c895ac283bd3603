/**
 * A GPU that is a cost model: models with bytes and loads, one link, lanes that compute steps. It does what the arbiter's actions say,
 * and tells what a node's engines would tell. Decode steps of an unchanged batch are planned as one run, and cut at the next step's end
 * when somebody joins, leaves or wants the lane: so a second of decoding costs one event, and no token is moved by it.
 */
import type { ActionId, Micros, ModelId, RequestId } from '../core/ids.ts';
import { crash, keepWhatIsDone } from './crash.ts';
import type { Engine, Job, Run, Slice } from './engine.ts';
import { createEngine, cutAt, planDecode, planPrefill, reportOf } from './engine.ts';
import { HANG_MICROS } from './faults.ts';
import { Link } from './link.ts';
import { Mailbox } from './mailbox.ts';
import type { DeviceWiring } from './progress.ts';
import { decoded, prefilled, say } from './progress.ts';

export class SimDevice {
  readonly #wiring: DeviceWiring;
  readonly #engines = new Map<ModelId, Engine>();
  readonly #link: Link;
  /** Compute since the last load. */
  #hidden: Micros = 0;

  constructor(wiring: DeviceWiring) {
    this.#wiring = wiring;
    this.#link = new Link(wiring.timeline, wiring.setting.linkBytesPerSecond, wiring.setting.quantumMicros);
  }

  // -------------------------------------------------------------- models

  load(id: ModelId, actionId: ActionId): void {
    const { timeline, setting, work } = this.#wiring;
    const engine = this.#engine(id);
    const { weightBytes, measured } = engine.costs;
    const startedAt = timeline.now;
    const from = engine.isAsleep ? 'asleep' : 'cold';
    const onLoaded = (): void => {
      const micros = timeline.now - startedAt;
      work.switches++;
      work.switchMicros += micros;
      work.linkBytes += weightBytes;
      engine.isLoaded = true;
      engine.isAsleep = false;
      this.#hidden = 0;
      say(this.#wiring, engine, {
        type: 'modelLoaded',
        actionId,
        modelId: id,
        from,
        micros,
        bytes: engine.loadedBytes,
      });
    };
    const fault = this.#wiring.faults?.nextLoad() ?? null;
    const onEnd = fault?.fails === true ? () => this.#failLoad(engine, actionId) : onLoaded;
    const slow = (amount: number): number => (fault === null ? amount : Math.ceil(amount * fault.slowness));
    const least = setting.freePrefetchLeastMicros;
    if (measured !== null) timeline.after(slow(engine.isAsleep ? measured.wakeMicros : measured.loadMicros), onEnd);
    else if (least === null) this.#link.bring(slow(weightBytes), onEnd);
    else timeline.after(slow(Math.max(least, this.#link.microsOf(weightBytes) - this.#hidden)), onEnd);
  }

  #failLoad(engine: Engine, actionId: ActionId): void {
    engine.isAsleep = false;
    this.#wiring.onGone(engine.id);
    const message = 'the device has no memory for it';
    say(this.#wiring, engine, {
      type: 'modelLoadFailed',
      actionId,
      modelId: engine.id,
      code: 'model_load_failed',
      message,
    });
  }

  unload(id: ModelId, actionId: ActionId): void {
    const { timeline } = this.#wiring;
    const engine = this.#leave(id);
    const startedAt = timeline.now;
    engine.isAsleep = false;
    // Its bytes are free when the KV that leaves with it has left.
    timeline.at(Math.max(this.#link.kvFreeAt, startedAt + (engine.costs.measured?.unloadMicros ?? 0)), () =>
      say(this.#wiring, engine, { type: 'modelUnloaded', actionId, modelId: id, micros: timeline.now - startedAt }),
    );
  }

  park(id: ModelId, actionId: ActionId): void {
    const engine = this.#leave(id);
    const { measured } = engine.costs;
    if (measured === null) throw new Error(`device: ${id} can’t sleep`);
    engine.isAsleep = true;
    const { parkMicros: micros, asleepBytes: bytes } = measured;
    this.#wiring.timeline.after(micros, () =>
      say(this.#wiring, engine, { type: 'modelFellAsleep', actionId, modelId: id, micros, bytes }),
    );
  }

  #leave(id: ModelId): Engine {
    const engine = this.#engine(id);
    if (engine.jobs.size > 0) throw new Error(`device: ${id} leaves with ${engine.jobs.size} requests`);
    this.#closeSlices(engine);
    engine.run = null;
    engine.isLoaded = engine.isHung = false;
    engine.version++;
    return engine;
  }

  // -------------------------------------------------------------- faults

  /** One of the engines that are there dies, or stands still; `victim` (from 0 to below 1) says which. */
  strike(kind: 'crash' | 'hang', victim: number): void {
    const { faults, timeline } = this.#wiring;
    const there = [...this.#engines.values()].filter(
      ({ isLoaded, run, isHung }) => isLoaded && (kind === 'crash' || (run !== null && !isHung)),
    );
    const engine = there[Math.floor(victim * there.length)];
    if (engine === undefined || faults === null) return;
    const { costs } = faults.all;
    if (kind === 'crash') {
      costs.crashes++;
      return crash(this.#wiring, engine);
    }
    costs.hangs++;
    keepWhatIsDone(this.#wiring, engine);
    engine.isHung = true;
    const version = ++engine.version;
    timeline.after(HANG_MICROS, () => {
      if (engine.version === version) crash(this.#wiring, engine);
    });
  }

  // -------------------------------------------------------------- requests

  submit(id: ModelId, job: Job): void {
    const engine = this.#engine(id);
    if (!engine.isLoaded) throw new Error(`device: a request for ${id}, which is not there`);
    job.isGone = false;
    engine.jobs.set(job.id, job);
    if (engine.run === null) this.#go(engine);
    else this.#cut(engine);
  }

  preempt(id: ModelId, requestId: RequestId, actionId: ActionId): void {
    const engine = this.#engine(id);
    const job = engine.jobs.get(requestId);
    if (job === undefined) return;
    engine.leaving.push({ job, actionId });
    if (engine.run === null) this.#letLeave(engine);
    else this.#cut(engine);
  }

  cancel(id: ModelId, requestId: RequestId): void {
    const engine = this.#engine(id);
    const job = engine.jobs.get(requestId);
    if (job === undefined) return;
    job.isGone = true;
    engine.jobs.delete(requestId);
    if (engine.run !== null) this.#cut(engine);
    else if (engine.jobs.size === 0) this.#go(engine);
  }

  #letLeave(engine: Engine): void {
    const { setting, work } = this.#wiring;
    for (const { job, actionId } of engine.leaving.splice(0)) {
      if (job.isGone || !engine.jobs.delete(job.id)) continue;
      if (!engine.keepsKv) {
        job.promptLeft += job.context;
        job.context = 0;
      } else if (job.context > 0) {
        job.isAway = true;
        const bytes = job.context * (setting.flatKvBytesPerToken ?? engine.costs.kvBytesPerToken);
        const micros = this.#link.microsOf(bytes);
        if (setting.flatKvBytesPerToken === null) {
          this.#link.moveKv(bytes);
          work.linkBytes += bytes;
        }
        say(this.#wiring, engine, { type: 'kvSaved', modelId: engine.id, tokens: job.context, micros });
      }
      say(this.#wiring, engine, { type: 'requestPreempted', actionId, requestId: job.id });
    }
  }

  // -------------------------------------------------------------- slices

  grant(id: ModelId, sliceId: ActionId, lanes: number, micros: Micros | null, stepMicros: Micros): void {
    const engine = this.#engine(id);
    const slice: Slice = {
      id: sliceId,
      lanes,
      micros,
      stepMicros,
      openedAt: this.#wiring.timeline.now,
      isTold: false,
      steps: 0,
      prefillTokens: 0,
      served: [],
      computeMicros: 0,
    };
    if (engine.run === null) {
      if (engine.slice !== null) this.#report(engine, engine.slice);
      engine.slice = slice;
      this.#go(engine);
      return;
    }
    if (engine.slice !== null) engine.slice.isTold = true;
    if (engine.next !== null && !engine.isHung) this.#report(engine, engine.next);
    engine.next = slice;
    this.#cut(engine);
  }

  endSlice(id: ModelId, sliceId: ActionId): void {
    const engine = this.#engine(id);
    if (engine.next?.id === sliceId) engine.next.isTold = true;
    if (engine.slice?.id !== sliceId) return;
    engine.slice.isTold = true;
    if (engine.run === null) this.#go(engine);
    else this.#cut(engine);
  }

  #closeSlices(engine: Engine): void {
    for (const slice of [engine.slice, engine.next]) if (slice !== null) this.#report(engine, slice);
    engine.slice = engine.next = null;
  }

  #report(engine: Engine, slice: Slice): void {
    say(this.#wiring, engine, reportOf(engine, slice));
  }

  // -------------------------------------------------------------- computing

  /** The next run, if there is a slice and work for it; else the slice is over. */
  #go(engine: Engine): void {
    for (;;) {
      const { slice } = engine;
      if (slice === null || engine.run !== null) return;
      const leftMicros =
        slice.micros === null
          ? Infinity
          : slice.micros - (slice.steps > 0 ? this.#wiring.timeline.now - slice.openedAt : 0);
      const isOver = slice.isTold || leftMicros <= 0 || engine.jobs.size === 0;
      if (!isOver) return this.#begin(engine, slice, leftMicros);
      this.#report(engine, slice);
      engine.slice = engine.next;
      engine.next = null;
    }
  }

  #begin(engine: Engine, slice: Slice, leftMicros: Micros): void {
    const { timeline, setting } = this.#wiring;
    const jobs = [...engine.jobs.values()];
    const moment = { setting, now: timeline.now, lanes: slice.lanes };
    engine.run =
      this.#restore(engine, jobs) ??
      planPrefill(engine, jobs, { ...moment, stepMicros: slice.stepMicros }) ??
      planDecode(engine, jobs, { ...moment, leftMicros });
    const { work } = this.#wiring;
    work.peakKvShare = Math.max(work.peakKvShare, engine.run.context / engine.kvTokens);
    this.#planEnd(engine, engine.run);
  }

  #planEnd(engine: Engine, run: Run): void {
    const version = ++engine.version;
    this.#wiring.timeline.at(run.startAt + (engine.ends[run.steps - 1] as number), () => {
      if (engine.version === version) this.#finish(engine, run);
    });
  }

  #restore(engine: Engine, jobs: readonly Job[]): Run | null {
    const away = jobs.filter(({ isAway }) => isAway);
    if (away.length === 0) return null;
    const { timeline, setting, work } = this.#wiring;
    const tokens = away.reduce((sum, { context }) => sum + context, 0);
    const bytes = tokens * (setting.flatKvBytesPerToken ?? engine.costs.kvBytesPerToken);
    work.linkBytes += bytes;
    const micros =
      setting.flatKvBytesPerToken === null ? this.#link.moveKv(bytes) - timeline.now : this.#link.microsOf(bytes);
    engine.ends[0] = micros;
    return {
      kind: 'restore',
      startAt: timeline.now,
      jobs: away,
      chunks: [],
      steps: 1,
      longestStep: micros,
      context: tokens,
    };
  }

  /** The run under way ends with the step that is under way now. */
  #cut(engine: Engine): void {
    if (engine.run === null || engine.isHung) return;
    if (cutAt(engine, engine.run, this.#wiring.timeline.now)) this.#planEnd(engine, engine.run);
  }

  #finish(engine: Engine, run: Run): void {
    const { slice, ends } = engine;
    const micros = ends[run.steps - 1] as number;
    engine.run = null;
    this.#wiring.work.busyMicros += micros;
    this.#hidden += run.kind === 'restore' ? 0 : micros;
    if (slice !== null) {
      slice.steps += run.steps;
      slice.computeMicros += micros;
    }
    if (run.kind === 'restore') for (const job of run.jobs) job.isAway = false;
    if (run.kind === 'prefill') prefilled(this.#wiring, engine, run, micros);
    if (run.kind === 'decode') decoded(this.#wiring, engine, run, micros);
    this.#letLeave(engine);
    this.#go(engine);
  }

  #engine(id: ModelId): Engine {
    let engine = this.#engines.get(id);
    if (engine === undefined) {
      engine = createEngine(id, this.#wiring.modelOf(id), this.#openMailbox());
      this.#engines.set(id, engine);
    }
    return engine;
  }

  #openMailbox(): Mailbox | null {
    const { timeline, tell: hear, faults } = this.#wiring;
    return faults === null ? null : new Mailbox({ timeline, delay: () => faults.nextDelay(), hear });
  }
}
