/**
 * A model that is computed elsewhere, as the contract wants it: there is nothing to load, and slices do not hold it up. A slice that it
 * is granted all the same is counted in, and ends when it is told to, when its time is over, or when nothing is left to do.
 */
import type { Bytes, Micros, RequestId } from '../core/ids.ts';
import { SECOND } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import type { EngineModel, EngineObserver, EngineRequest, ModelLaunch, ReleaseReport } from './engine.ts';
import type { Freezer } from './freezer.ts';
import type { Exchange } from './http-dialect.ts';
import { createGate } from './http-gate.ts';
import { createRequests } from './http-requests.ts';
import { explainServer } from './server-errors.ts';
import { realTimer } from './timer.ts';

export interface RemoteWire extends Pick<Exchange, 'signal' | 'emit' | 'decoded' | 'prefilled'> {
  /** The server said something. */
  readonly heard: () => void;
}

export interface RemoteModelOptions {
  readonly launch: ModelLaunch;
  readonly observer: EngineObserver;
  readonly bytes: Bytes;
  readonly run: (request: EngineRequest, wire: RemoteWire) => Promise<void>;
  /** How long it may say nothing. */
  readonly timeoutMicros: Micros;
}

/** Nobody here can be frozen. */
const NO_FREEZER: Freezer = {
  by: 'signals',
  freeze: () => Promise.resolve(true),
  thaw: () => Promise.resolve(true),
};

export function createRemoteModel({ launch, observer, bytes, run, timeoutMicros }: RemoteModelOptions): EngineModel {
  const timer = realTimer;
  let isOpen = false;

  const gate = createGate({
    timer,
    pending: () => requests.size(),
    sliceEnded: (report) => observer.sliceEnded(report),
    opened: () => {},
    broken: () => {},
  });

  const runInTime = async (request: EngineRequest, wire: Omit<RemoteWire, 'heard' | 'prefilled'>): Promise<void> => {
    const late = new AbortController();
    let cancel = (): void => {};
    const heard = (): void => {
      cancel();
      cancel = timer.after(timeoutMicros, () => late.abort());
    };
    heard();
    try {
      const signal = AbortSignal.any([wire.signal, late.signal]);
      await run(request, { ...wire, signal, heard, prefilled: (tokens) => gate.prefilled(tokens) });
    } catch (error) {
      if (!late.signal.aborted) throw error;
      const seconds = Math.round(timeoutMicros / SECOND);
      throw new BerthError('engine_error', `The remote server said nothing for ${seconds} s.`, { cause: error });
    } finally {
      cancel();
    }
  };

  const requests = createRequests({
    parallel: launch.parallel,
    isOpen: () => isOpen,
    run: runInTime,
    explain: (thrown) => explainServer('The remote server', thrown),
    counted: (requestId: RequestId, tokens) => gate.counted(requestId, tokens),
    computedMicros: () => timer.now(),
    idle: () => gate.idle(),
    log: () => {},
  });

  const measure = (): Bytes => {
    const chargedBytes = isOpen ? bytes : 0;
    observer.memory({ chargedBytes, privateBytes: chargedBytes, mappedWeightBytes: 0, growthBytes: 0 });
    return chargedBytes;
  };
  const leave = (): Promise<ReleaseReport> => {
    if (isOpen) {
      isOpen = false;
      requests.failAll('model_stopped', 'The model was unloaded.');
      gate.release(true);
    }
    return Promise.resolve({ micros: 0, memoryBytes: measure() });
  };
  let loading: Promise<Awaited<ReturnType<EngineModel['ensureLoaded']>>> | null = null;

  return {
    ensureLoaded() {
      loading ??= (async () => {
        const from = isOpen ? 'already' : 'cold';
        if (!isOpen) await gate.guard(NO_FREEZER);
        isOpen = true;
        loading = null;
        return { micros: 0, from, memoryBytes: measure() };
      })();
      return loading;
    },
    ensureAsleep: () =>
      isOpen
        ? Promise.reject(new BerthError('engine_error', 'A remote model does not sleep: unload it.'))
        : Promise.resolve({ micros: 0, memoryBytes: 0 }),
    async ensureUnloaded() {
      await loading;
      return leave();
    },
    slice: (grant) => gate.slice(grant),
    endSlice: (sliceId) => gate.endSlice(sliceId),
    submit(request, sink) {
      requests.submit(request, sink);
      if (isOpen) return;
      setImmediate(() => requests.fail(request.requestId, 'model_stopped', 'The model is not loaded.'));
    },
    cancel: (requestId) => requests.cancel(requestId),
  };
}
