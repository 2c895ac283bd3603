/** One model of the llama.cpp engine: what state its runner is in, who waits for what, and what happens when it dies. */
import type { Bytes, KvEntryId, Micros, RequestId } from '../../core/ids.ts';
import { MIB } from '../../core/ids.ts';
import { asBerthError, BerthError } from '../../errors.ts';
import type { ErrorCode } from '../../errors.ts';
import type {
  EngineModel,
  EngineObserver,
  EngineSink,
  LoadReport,
  ModelLaunch,
  ReleaseReport,
  SliceGrant,
} from '../engine.ts';
import type { ChildExit } from '../supervisor.ts';
import type { Timer } from '../timer.ts';
import { createTransitions } from '../transitions.ts';
import { requireFile } from './estimate.ts';
import type { FromRunner, ToRunner, WireEvent } from './protocol.ts';
import type { Runner, RunnerListener } from './spare.ts';
import { fromWire } from './wire.ts';

export interface HostedModel extends EngineModel {
  /** Looks at memory and at slices that should have ended; called every second. */
  tick(): void;
}

export interface HostedOptions {
  readonly launch: ModelLaunch;
  readonly observer: EngineObserver;
  readonly timer: Timer;
  readonly limits: {
    readonly startMicros: Micros;
    readonly loadMicros: Micros;
    readonly sleepMicros: Micros;
    readonly sliceGraceMicros: Micros;
  };
  readonly takeRunner: () => Runner;
  readonly loadEnded: () => void;
  readonly log: (line: string) => void;
  /** Whether there is a process to look after. */
  readonly holds: (holding: boolean) => void;
}

/** `moving`: a verb is under way, and whatever happens is told by its promise. */
type State = 'cold' | 'loaded' | 'asleep' | 'moving';

interface OpenSlice {
  readonly grant: SliceGrant;
  readonly grantedAt: Micros;
  overdueAt: Micros;
  readonly decodeTokens: Record<RequestId, number>;
}

type Reply = Extract<FromRunner, { type: 'loaded' | 'loadFailed' | 'asleep' }>;

export function createHostedModel(options: HostedOptions): HostedModel {
  const { launch, observer, timer, limits, log } = options;
  const transitions = createTransitions<{ load: LoadReport; sleep: ReleaseReport; unload: ReleaseReport }>();
  const sinks = new Map<RequestId, EngineSink>();
  const slices = new Map<number, OpenSlice>();
  /** Entries of idle KV with leave to be saved. */
  const savable = new Set<KvEntryId>();
  let state: State = 'cold';
  let runner: Runner | null = null;
  let mappedWeightBytes: Bytes = 0;
  /** What its cache may still grow by is kept for it. */
  let growthBytes: Bytes = 0;
  /** Why a request that comes now can't be served. */
  let endedBy: ErrorCode = 'model_stopped';
  /** What the runner did wrong, if it was for that that it was ended. */
  let fault: BerthError | null = null;
  let hear: ((reply: Reply) => void) | null = null;
  /** Ends the wait of the verb under way. */
  let interrupt: ((error: BerthError) => void) | null = null;

  const send = (message: ToRunner): void => runner?.send(message);

  /** Measures, tells and returns what is charged. */
  const measure = (): Bytes => {
    const privateBytes = runner?.child.memory()?.privateBytes ?? 0;
    const mapped = state === 'loaded' ? mappedWeightBytes : 0;
    const growth = state === 'loaded' ? growthBytes : 0;
    const chargedBytes = privateBytes + mapped + growth;
    observer.memory({ chargedBytes, privateBytes, mappedWeightBytes: mapped, growthBytes: growth });
    return chargedBytes;
  };

  const failAll = (code: ErrorCode, message: string): void => {
    const all = [...sinks.keys()];
    for (const requestId of all) tell(requestId, { type: 'failed', code, message });
  };

  const tell = (requestId: RequestId, event: WireEvent): void => {
    // Who cancelled hears nothing more, though the runner may have said it before it heard of that.
    const sink = sinks.get(requestId);
    if (sink === undefined) return;
    if (event.type === 'finished' || event.type === 'embedded' || event.type === 'failed') sinks.delete(requestId);
    try {
      sink(fromWire(event));
    } catch (thrown) {
      // One caller's mistake must not reach the other requests of this message.
      log(`a listener failed and was dropped: ${asBerthError(thrown).message}`);
      model.cancel(requestId);
    }
  };

  /** The end of a slice whose runner won't report it: what it sent is known, its steps are not. */
  const endSlices = (): void => {
    const open = [...slices.values()];
    slices.clear();
    for (const slice of open) reportUnserved(slice, 'told');
  };
  const reportUnserved = ({ grant, grantedAt, decodeTokens }: OpenSlice, ended: 'told' | 'idle'): void => {
    const wallMicros = ended === 'idle' ? 0 : timer.now() - grantedAt;
    const { sliceId, lanes } = grant;
    const counts = { steps: 0, prefillTokens: 0, wallMicros, computeMicros: wallMicros, pending: sinks.size };
    observer.sliceEnded({ sliceId, lanes, ended, decodeTokens, requestMicros: {}, ...counts });
  };

  const countTokens = (requestId: RequestId, tokens: number): void => {
    for (const slice of slices.values()) slice.decodeTokens[requestId] = (slice.decodeTokens[requestId] ?? 0) + tokens;
  };

  /** The runner can't be trusted any more. Its exit tells the rest. */
  const condemn = (error: BerthError): void => {
    fault ??= error;
    log(error.message);
    void runner?.child.stop();
  };

  const listenerFor = (own: Runner): RunnerListener => ({
    message(message) {
      if (runner !== own) return;
      switch (message.type) {
        case 'events':
          for (const [requestId, event] of message.items) {
            if (event.type === 'tokens') countTokens(requestId, event.tokenIds.length);
            tell(requestId, event);
          }
          break;
        case 'sliceEnded':
          if (slices.delete(message.report.sliceId)) observer.sliceEnded(message.report);
          break;
        case 'fatal':
          fault ??= new BerthError(message.code, message.message);
          break;
        case 'grew':
          ({ growthBytes } = message);
          if (state === 'loaded') measure();
          break;
        case 'kv':
          if (message.event.type !== 'kept') savable.delete(message.event.entryId);
          observer.kv?.(message.event);
          break;
        case 'started':
          break;
        default:
          hear?.(message);
      }
    },
    malformed: () => condemn(new BerthError('engine_error', 'The runner sent a message that no runner sends.')),
    line: log,
    exited(exit) {
      if (runner === own) died(exit);
    },
  });

  const died = (exit: ChildExit): void => {
    const reason = fault === null ? exit.reason : `${fault.message} (${exit.reason})`;
    if (state === 'moving') {
      const code = fault?.code ?? 'model_load_failed';
      interrupt?.(new BerthError(code, exit.cause === 'out_of_memory' ? `Out of memory: ${reason}.` : reason));
      return;
    }
    endedBy = 'engine_died';
    forget();
    slices.clear();
    failAll('engine_died', reason);
    measure();
    observer.died(reason);
  };

  const forget = (): void => {
    savable.clear();
    runner = null;
    state = 'cold';
    mappedWeightBytes = 0;
    fault = null;
    options.holds(false);
  };

  /** Waits for `promise`, for the deadline, or for `interrupt`, whatever is first. */
  const bounded = <T>(promise: Promise<T>, micros: Micros, late: string): Promise<T> => {
    const { promise: result, resolve, reject } = Promise.withResolvers<T>();
    const cancel = timer.after(micros, () => reject(new BerthError('model_load_failed', late)));
    interrupt = reject;
    promise.then(resolve, reject);
    return result.finally(() => {
      cancel();
      interrupt = null;
    });
  };

  const ask = (message: ToRunner, micros: Micros, late: string): Promise<Reply> => {
    const { promise, resolve } = Promise.withResolvers<Reply>();
    hear = resolve;
    send(message);
    return bounded(promise, micros, late).finally(() => {
      hear = null;
    });
  };
  const seconds = (micros: Micros): string => `within ${(micros / 1e6).toFixed(0)} s`;

  /** Ends the process; resolves when its memory is free. */
  const release = async (polite: ToRunner | undefined): Promise<void> => {
    if (runner === null) return forget();
    state = 'moving';
    const { seenFree, took } = await runner.child.stop(polite);
    if (!seenFree) {
      const { pid } = runner.child;
      throw new BerthError(
        'engine_error',
        `Process ${pid} does not end (last tried: ${took}); its memory is not free.`,
      );
    }
    forget();
  };

  const load = async (): Promise<LoadReport> => {
    const start = timer.now();
    const from = runner === null ? 'cold' : state === 'loaded' ? 'already' : 'asleep';
    if (from !== 'already') {
      state = 'moving';
      try {
        await bring();
      } catch (error) {
        await release(undefined);
        measure();
        throw error;
      } finally {
        options.loadEnded();
      }
    }
    return { micros: timer.now() - start, from, memoryBytes: measure() };
  };

  const bring = async (): Promise<void> => {
    if (runner === null) {
      await bounded(requireFile(launch.path), limits.startMicros, 'The file system did not answer.');
      runner = options.takeRunner();
      options.holds(true);
      runner.attach(listenerFor(runner));
      if (launch.memoryLimitBytes > 0) {
        const by = runner.child.limitMemory(launch.memoryLimitBytes);
        log(`memory limit of ${launch.memoryLimitBytes} bytes by ${by}`);
      }
      await bounded(runner.started, limits.startMicros, `The runner did not start ${seconds(limits.startMicros)}.`);
    }
    const late = `The model did not load ${seconds(limits.loadMicros)}: raise \`limits.loadTimeout\` if its file is on a slow disk.`;
    const reply = await ask({ type: 'load', launch }, limits.loadMicros, late);
    if (reply.type === 'loadFailed') throw new BerthError(reply.code, reply.message);
    if (reply.type === 'loaded') ({ mappedWeightBytes, growthBytes } = reply);
    checkLimit();
    state = 'loaded';
  };

  /** Better now than when the cache has grown: then the limit would end the process in the middle of a request. */
  const checkLimit = (): void => {
    const bytes = (runner?.child.memory()?.privateBytes ?? 0) + growthBytes;
    if (launch.memoryLimitBytes === 0 || bytes <= launch.memoryLimitBytes) return;
    const [needed, limit] = [bytes, launch.memoryLimitBytes].map((size) => Math.round(size / MIB));
    throw new BerthError(
      'model_load_failed',
      `With a KV cache of ${launch.kvTokens} tokens the model needs ${needed} MiB of private memory; its limit is ${limit} MiB.`,
    );
  };

  const sleep = async (): Promise<ReleaseReport> => {
    const start = timer.now();
    if (state === 'loaded') {
      if (sinks.size > 0) {
        throw new BerthError('engine_error', `The model can't sleep: ${sinks.size} requests are still on it.`);
      }
      state = 'moving';
      try {
        await ask(
          { type: 'sleep' },
          limits.sleepMicros,
          `The model did not fall asleep ${seconds(limits.sleepMicros)}.`,
        );
      } catch (error) {
        endSlices();
        await release(undefined);
        measure();
        throw error;
      }
      state = 'asleep';
    }
    return { micros: timer.now() - start, memoryBytes: measure() };
  };

  /** A runner that falls asleep saves what it has leave to save. One that can't is ended all the same. */
  const saveIdle = async (): Promise<void> => {
    if (savable.size === 0) return;
    try {
      await ask({ type: 'sleep' }, limits.sleepMicros, `Idle KV was not saved ${seconds(limits.sleepMicros)}.`);
    } catch (thrown) {
      log(`idle KV is lost: ${asBerthError(thrown).message}`);
    }
  };

  const unload = async (): Promise<ReleaseReport> => {
    const start = timer.now();
    endedBy = 'model_stopped';
    if (runner !== null) {
      state = 'moving';
      failAll('model_stopped', 'The model was unloaded.');
      endSlices();
      await saveIdle();
      await release({ type: 'exit' });
    }
    return { micros: timer.now() - start, memoryBytes: measure() };
  };

  const model: HostedModel = {
    ensureLoaded: () => transitions.ensure('load', load),
    ensureAsleep: () => transitions.ensure('sleep', sleep),
    ensureUnloaded() {
      if (transitions.heading() === 'load') {
        interrupt?.(new BerthError('model_stopped', 'The model was unloaded while it was being loaded.'));
      }
      return transitions.ensure('unload', unload);
    },
    slice(grant) {
      const grantedAt = timer.now();
      const slice: OpenSlice = { grant, grantedAt, overdueAt: Infinity, decodeTokens: {} };
      if (state !== 'loaded') {
        setImmediate(() => reportUnserved(slice, 'idle'));
        return;
      }
      if (grant.micros !== null) slice.overdueAt = grantedAt + grant.micros + limits.sliceGraceMicros;
      slices.set(grant.sliceId, slice);
      send({ type: 'slice', grant });
    },
    endSlice(sliceId) {
      const slice = slices.get(sliceId);
      if (slice === undefined) return;
      slice.overdueAt = Math.min(slice.overdueAt, timer.now() + limits.sliceGraceMicros);
      send({ type: 'endSlice', sliceId });
    },
    submit(request, sink) {
      sinks.set(request.requestId, sink);
      if (state === 'loaded') return send({ type: 'submit', request });
      const message = endedBy === 'engine_died' ? 'The model’s process has ended.' : 'The model is not loaded.';
      setImmediate(() => tell(request.requestId, { type: 'failed', code: endedBy, message }));
    },
    cancel(requestId, keep = false) {
      if (sinks.delete(requestId)) send({ type: 'cancel', requestId, keep });
    },
    grantKv(grant) {
      if (state === 'loaded') savable.add(grant.entryId);
      send({ type: 'grantKv', grant });
    },
    dropKv: (entryId) => send({ type: 'dropKv', entryId }),
    tick() {
      if (state === 'loaded' || state === 'asleep') measure();
      const now = timer.now();
      for (const { grant, overdueAt } of slices.values()) {
        if (now < overdueAt) continue;
        condemn(
          new BerthError(
            'engine_died',
            `The runner hangs: slice ${grant.sliceId} did not end ${seconds(limits.sliceGraceMicros)} after its time.`,
          ),
        );
        return;
      }
    },
  };
  return model;
}
