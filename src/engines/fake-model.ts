/** One model on the fake engine: its state, its slice, its steps. */
import type { Bytes, Micros, RequestId } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import type {
  EngineModel,
  EngineObserver,
  LoadReport,
  ModelLaunch,
  ReleaseReport,
  SliceGrant,
  SliceReport,
} from './engine.ts';
import type { FakeCosts } from './fake.ts';
import { createFakeSequence } from './fake-sequence.ts';
import type { FakeSequence } from './fake-sequence.ts';
import type { Timer } from './timer.ts';
import { createTransitions } from './transitions.ts';

export interface FakeModel extends EngineModel {
  crash(reason: string): void;
  crashAfterSteps(steps: number, reason: string): void;
  failNextLoad(code: ErrorCode, message: string): void;
  slowNextLoad(extraMicros: Micros): void;
  /** Unloads without taking time. */
  stopNow(): void;
}

interface Slice {
  readonly grant: SliceGrant;
  told: boolean;
  readonly grantedAt: Micros;
  firstStepAt: Micros | null;
  lastStepAt: Micros;
  /** When the step under way ends. Kept apart from the clock, so that late timers don't add up. */
  due: Micros;
  steps: number;
  computeMicros: Micros;
  prefillTokens: number;
  readonly decodeTokens: Record<RequestId, number>;
  readonly requestMicros: Record<RequestId, Micros>;
}

/** A step that comes later than this is not caught up with: the machine was asleep or busy. */
const CATCH_UP_MICROS = 20_000;

export function createFakeModel(options: {
  readonly launch: ModelLaunch;
  readonly observer: EngineObserver;
  readonly timer: Timer;
  readonly costs: FakeCosts;
  readonly fileIs: (path: string) => 'sound' | 'missing' | 'invalid';
}): FakeModel {
  const { launch, observer, timer, costs, fileIs } = options;
  const transitions = createTransitions<{ load: LoadReport; sleep: ReleaseReport; unload: ReleaseReport }>();
  /** In order of arrival. */
  const sequences = new Map<RequestId, FakeSequence>();
  let state: 'cold' | 'loaded' | 'asleep' = 'cold';
  let endedBy: ErrorCode = 'model_stopped';
  let slice: Slice | null = null;
  /** Granted while another was under way: a caller's mistake, but each is reported. */
  const queued: SliceGrant[] = [];
  let cancelStep: (() => void) | null = null;
  let abortWait: ((error: BerthError) => void) | null = null;
  let nextLoad: { failure: BerthError | null; extraMicros: Micros } = { failure: null, extraMicros: 0 };
  let crashIn: { steps: number; readonly reason: string } | null = null;

  /** Lets time pass within a change of state; `crash` ends it early. */
  const wait = (micros: Micros): Promise<void> =>
    new Promise((resolve, reject) => {
      const cancel = timer.after(micros, () => {
        abortWait = null;
        resolve();
      });
      abortWait = (error) => {
        cancel();
        abortWait = null;
        reject(error);
      };
    });

  const held = (): { readonly privateBytes: Bytes; readonly mappedWeightBytes: Bytes } => {
    if (state === 'cold') return { privateBytes: 0, mappedWeightBytes: 0 };
    if (state === 'asleep') return { privateBytes: costs.overheadBytes, mappedWeightBytes: 0 };
    return {
      privateBytes: costs.overheadBytes + costs.kvBytesPerToken * launch.kvTokens,
      mappedWeightBytes: costs.weightBytes,
    };
  };
  const tellMemory = (): Bytes => {
    const { privateBytes, mappedWeightBytes } = held();
    const chargedBytes = privateBytes + mappedWeightBytes;
    observer.memory({ chargedBytes, privateBytes, mappedWeightBytes, growthBytes: 0 });
    return chargedBytes;
  };

  const endSlice = (ended: SliceReport['ended']): void => {
    if (slice === null) return;
    const { grant, steps, prefillTokens, decodeTokens, requestMicros, firstStepAt, lastStepAt, computeMicros } = slice;
    slice = null;
    observer.sliceEnded({
      sliceId: grant.sliceId,
      lanes: grant.lanes,
      ended,
      steps,
      prefillTokens,
      decodeTokens,
      wallMicros: firstStepAt === null ? 0 : lastStepAt - firstStepAt,
      computeMicros,
      requestMicros,
      pending: sequences.size,
    });
    const next = queued.shift();
    if (next !== undefined) startSlice(next);
  };

  const startSlice = (grant: SliceGrant): void => {
    const now = timer.now();
    slice = {
      grant,
      told: false,
      grantedAt: now,
      firstStepAt: null,
      lastStepAt: now,
      due: now,
      steps: 0,
      computeMicros: 0,
      prefillTokens: 0,
      decodeTokens: {},
      requestMicros: {},
    };
    // Not at once: no observer is called from within a verb.
    timer.after(0, runStep);
  };

  /** Those that fit, in order: one that does not fit holds up the ones behind it, so that it is not starved. */
  const admitted = (): FakeSequence[] => {
    const running: FakeSequence[] = [];
    let kvTokens = 0;
    for (const sequence of sequences.values()) {
      kvTokens += sequence.kvTokens;
      if (!sequence.accepted || running.length >= launch.parallel || kvTokens > launch.kvTokens) break;
      running.push(sequence);
    }
    return running;
  };

  const runStep = (): void => {
    if (slice === null || cancelStep !== null) return;
    if (slice.told) return endSlice('told');
    const now = timer.now();
    const running = admitted();
    if (running.length === 0) return endSlice('idle');
    if (slice.grant.micros !== null && slice.steps > 0 && now - slice.grantedAt >= slice.grant.micros)
      return endSlice('time');
    const decoding = running.filter((sequence) => sequence.prefillLeft === 0);
    let room = launch.batchTokens - decoding.length;
    const prefills: (readonly [FakeSequence, number])[] = [];
    for (const sequence of running) {
      const tokens = Math.min(room, sequence.prefillLeft);
      if (tokens <= 0) continue;
      prefills.push([sequence, tokens]);
      room -= tokens;
    }
    const decodeCost = decoding.length === 0 ? 0 : costs.stepMicros + costs.stepMicrosPerSequence * decoding.length;
    const prefillTokens = prefills.reduce((sum, [, tokens]) => sum + tokens, 0);
    const cost = Math.round(
      (decodeCost + costs.prefillMicrosPerToken * prefillTokens) / costs.speedup(slice.grant.lanes),
    );
    slice.firstStepAt ??= now;
    slice.due = (now - slice.due > CATCH_UP_MICROS ? now : slice.due) + cost;
    cancelStep = timer.after(slice.due - now, () => {
      cancelStep = null;
      finishStep(decoding, prefills, cost);
      runStep();
    });
  };

  // Sinks may cancel, also others: who is no longer among the sequences hears nothing.
  const present = (sequence: FakeSequence): boolean => sequences.get(sequence.request.requestId) === sequence;

  const finishStep = (
    decoding: readonly FakeSequence[],
    prefills: readonly (readonly [FakeSequence, number])[],
    cost: Micros,
  ): void => {
    if (slice === null) return;
    const own = slice;
    own.steps += 1;
    own.computeMicros += cost;
    own.lastStepAt = timer.now();
    const perToken = cost / (decoding.length + prefills.reduce((sum, [, tokens]) => sum + tokens, 0));
    const decode = (sequence: FakeSequence): void => {
      const { requestId } = sequence.request;
      own.decodeTokens[requestId] = (own.decodeTokens[requestId] ?? 0) + 1;
      sequence.decode();
    };
    const share = ({ request: { requestId } }: FakeSequence, micros: Micros): void => {
      own.requestMicros[requestId] = Math.round((own.requestMicros[requestId] ?? 0) + micros);
    };
    for (const sequence of decoding) share(sequence, perToken);
    for (const [sequence, tokens] of prefills) share(sequence, perToken * tokens);
    for (const sequence of decoding.filter(present)) {
      sequence.charge(0, perToken);
      if (present(sequence)) decode(sequence);
    }
    for (const [sequence, tokens] of prefills) {
      if (!present(sequence)) continue;
      sequence.prefillLeft -= tokens;
      sequence.charge(perToken * tokens, 0);
      own.prefillTokens += tokens;
      if (sequence.prefillLeft > 0) continue;
      if (sequence.request.kind === 'embed') sequence.finishEmbedding();
      else decode(sequence);
    }
    for (const [id, sequence] of sequences) if (sequence.done) sequences.delete(id);
    if (crashIn !== null && --crashIn.steps <= 0) model.crash(crashIn.reason);
  };

  const failAll = (code: ErrorCode, message: string): void => {
    const all = [...sequences.values()];
    sequences.clear();
    for (const sequence of all) sequence.fail({ type: 'failed', code, message });
  };
  const stopComputing = (): void => {
    cancelStep?.();
    cancelStep = null;
  };

  const load = async (): Promise<LoadReport> => {
    const start = timer.now();
    const from = state === 'loaded' ? 'already' : state;
    if (from === 'cold') {
      const { failure, extraMicros } = nextLoad;
      nextLoad = { failure: null, extraMicros: 0 };
      const file = fileIs(launch.path);
      if (file === 'missing') throw new BerthError('model_file_missing', `There is no file ${launch.path}.`);
      if (file === 'invalid') throw new BerthError('model_file_invalid', `${launch.path} is no sound model file.`);
      await wait(costs.loadMicros + extraMicros);
      if (failure !== null) throw failure;
    } else if (from === 'asleep') await wait(costs.wakeMicros);
    state = 'loaded';
    return { micros: timer.now() - start, from, memoryBytes: tellMemory() };
  };

  const sleep = async (): Promise<ReleaseReport> => {
    const start = timer.now();
    if (state === 'loaded') {
      if (sequences.size > 0) {
        throw new BerthError('engine_error', `The model can't sleep: ${sequences.size} requests are still on it.`);
      }
      await wait(costs.sleepMicros);
      state = 'asleep';
    }
    return { micros: timer.now() - start, memoryBytes: tellMemory() };
  };

  const stop = (): void => {
    failAll('model_stopped', 'The model was unloaded.');
    stopComputing();
    for (let open = queued.length + 1; open > 0; open--) endSlice('told');
    endedBy = 'model_stopped';
  };
  const unload = async (): Promise<ReleaseReport> => {
    const start = timer.now();
    if (state !== 'cold') {
      stop();
      await wait(costs.unloadMicros);
      state = 'cold';
    }
    return { micros: timer.now() - start, memoryBytes: tellMemory() };
  };

  const model: FakeModel = {
    ensureLoaded: () => transitions.ensure('load', load),
    ensureAsleep: () => transitions.ensure('sleep', sleep),
    ensureUnloaded() {
      if (transitions.heading() === 'load') {
        abortWait?.(new BerthError('model_stopped', 'The model was unloaded while it was being loaded.'));
      }
      return transitions.ensure('unload', unload);
    },
    slice(grant) {
      // One at a time: the slice under way is told to end, and its step ends first.
      if (slice === null) return startSlice(grant);
      model.endSlice(slice.grant.sliceId);
      queued.push(grant);
    },
    endSlice(sliceId) {
      if (slice?.grant.sliceId !== sliceId) return;
      slice.told = true;
      timer.after(0, runStep);
    },
    submit(request, sink) {
      const sequence = createFakeSequence(request, sink, {
        contextTokens: launch.contextTokens,
        naturalTokens: costs.naturalTokens,
      });
      sequences.set(request.requestId, sequence);
      timer.after(0, () => {
        if (sequences.get(request.requestId) !== sequence) return;
        const refusal = refuse(sequence);
        if (refusal === null) return sequence.accept();
        sequences.delete(request.requestId);
        sequence.fail({ type: 'failed', ...refusal });
      });
    },
    cancel(requestId) {
      sequences.delete(requestId);
    },
    crash(reason) {
      crashIn = null;
      endedBy = 'engine_died';
      stopComputing();
      queued.length = 0;
      slice = null;
      failAll('engine_died', reason);
      // A death within a verb is told by its promise.
      const told = state === 'cold' || abortWait !== null;
      state = 'cold';
      abortWait?.(new BerthError('engine_died', reason));
      tellMemory();
      if (!told) observer.died(reason);
    },
    crashAfterSteps(steps, reason) {
      crashIn = { steps, reason };
    },
    failNextLoad(code, message) {
      nextLoad.failure = new BerthError(code, message);
    },
    slowNextLoad(extraMicros) {
      nextLoad.extraMicros = extraMicros;
    },
    stopNow() {
      abortWait?.(new BerthError('model_stopped', 'The engine was closed.'));
      if (state !== 'cold') stop();
      state = 'cold';
    },
  };

  const refuse = (sequence: FakeSequence): { readonly code: ErrorCode; readonly message: string } | null => {
    if (state !== 'loaded') return { code: endedBy, message: 'The model is not loaded.' };
    if (sequence.prefillLeft < launch.contextTokens) return null;
    const message = `The prompt has ${sequence.prefillLeft} tokens, the model's context ${launch.contextTokens}.`;
    return { code: 'context_length_exceeded', message };
  };

  return model;
}
