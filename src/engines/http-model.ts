/** One model on a server of its own: what state the server is in, who waits for what, and what happens when it dies. */
import type { Bytes, Micros, ModelId } from '../core/ids.ts';
import { MILLI, SECOND } from '../core/ids.ts';
import { asBerthError, BerthError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import type { EngineModel, EngineObserver, LoadReport, ModelLaunch, ReleaseReport } from './engine.ts';
import type { Exchange, HttpDialect } from './http-dialect.ts';
import { createGate } from './http-gate.ts';
import { createRequests } from './http-requests.ts';
import { HttpFailure } from './http-client.ts';
import { hasToken } from './http-server.ts';
import type { HttpServer, StartHooks } from './http-server.ts';
import type { ChildExit } from './supervisor.ts';
import type { Timer } from './timer.ts';
import { createTransitions } from './transitions.ts';

export interface HttpModel extends EngineModel {
  /** Looks at memory, and whether the server still answers; called every second. */
  tick(): void;
}

export interface HttpModelOptions {
  readonly launch: ModelLaunch;
  readonly observer: EngineObserver;
  readonly dialect: HttpDialect;
  readonly timer: Timer;
  /** How long a server that computes may say nothing before it is taken for hung. */
  readonly silenceMicros: Micros;
  /** Starts the server; resolves when it has computed a token. `onChild` gets it as soon as there is a process. */
  readonly start: (launch: ModelLaunch, hooks: StartHooks) => Promise<HttpServer>;
  /** How long sleeping and waking may each take, its first token included. */
  readonly moveMicros: Micros;
  /** What a process group holds of the device's memory, where that is not the machine's; null: it can't be told. */
  readonly deviceBytes?: (group: number) => Bytes | null;
  readonly log: (model: ModelId, line: string) => void;
  /** Whether there is a process to look after. */
  readonly holds: (holding: boolean) => void;
}

/** A process that breaks its sockets off is seen to end within so long. */
const EXIT_MICROS = 500 * MILLI;

/** Memory that was let go of is seen free within so long; it is looked at so often. */
const GIVEN_BACK_MICROS = 2 * SECOND;
const LOOK_MICROS = 20 * MILLI;

/** `moving`: a verb is under way, and whatever happens is told by its promise. */
type State = 'cold' | 'loaded' | 'asleep' | 'moving';

export function createHttpModel(options: HttpModelOptions): HttpModel {
  const { launch, observer, dialect, timer, silenceMicros } = options;
  const log = (line: string): void => options.log(launch.modelId, line);
  const transitions = createTransitions<{ load: LoadReport; sleep: ReleaseReport; unload: ReleaseReport }>();
  let state: State = 'cold';
  let server: HttpServer | null = null;
  /** Weights that the process maps: the most that was seen, since the system may drop pages of them that are needed again. */
  let mappedWeightBytes: Bytes = 0;
  /** Why a request that comes now can't be served. */
  let endedBy: ErrorCode = 'model_stopped';
  /** What the server did wrong, if it was for that that it was ended. */
  let fault: BerthError | null = null;
  /** Ends the wait of the load under way. */
  let interrupt: ((error: BerthError) => void) | null = null;
  /** How long it had computed when it last said something. */
  let heardAt: Micros = 0;

  const condemn = (error: BerthError): void => {
    fault ??= error;
    log(error.message);
    void server?.child.stop();
  };

  const gate = createGate({
    timer,
    pending: () => requests.size(),
    sliceEnded: (report) => observer.sliceEnded(report),
    opened: () => requests.pump(),
    broken: condemn,
  });

  const endOf = (own: HttpServer): Promise<unknown> =>
    Promise.race([
      own.child.exited,
      new Promise<void>((resolve) => {
        timer.after(EXIT_MICROS, resolve);
      }),
    ]);

  const exchange = (own: HttpServer, wire: Pick<Exchange, 'signal' | 'emit' | 'decoded'>): Exchange => ({
    client: own.client,
    launch,
    ...wire,
    prefilled: (tokens) => gate.prefilled(tokens),
  });

  const requests = createRequests({
    parallel: launch.parallel,
    isOpen: () => state === 'loaded' && gate.isOpen(),
    async run(request, wire) {
      const own = server;
      if (own === null) throw new BerthError(endedBy, 'The model is not loaded.');
      try {
        await dialect.run(request, exchange(own, wire));
      } catch (error) {
        if (dialect.isDead?.(error) === true) {
          condemn(new BerthError('engine_died', `${dialect.name} says that it can compute nothing any more.`));
          await own.child.exited;
        }
        // A socket that breaks is most often a process that ends: its exit says why, to all of its requests.
        if (!(error instanceof BerthError) && !(error instanceof HttpFailure) && !wire.signal.aborted) await endOf(own);
        throw error;
      }
    },
    explain: (thrown) => dialect.explain(thrown),
    counted: (requestId, tokens) => gate.counted(requestId, tokens),
    computedMicros: () => gate.computedMicros(),
    idle: () => {
      if (state === 'loaded') gate.idle();
    },
    log,
  });

  /** Measures, tells and returns what is charged. */
  const measure = (): Bytes => {
    const held = server?.child.memory() ?? null;
    const privateBytes = held?.privateBytes ?? 0;
    // What several processes map is libraries, which all servers of the kind share: weights are in their private memory.
    const mappedBytes = dialect.isManyProcesses === true ? 0 : (held?.mappedFileBytes ?? 0);
    mappedWeightBytes = server === null ? 0 : Math.max(mappedWeightBytes, mappedBytes);
    const onDevice = server === null ? null : (options.deviceBytes?.(server.child.pid) ?? null);
    const chargedBytes = onDevice ?? privateBytes + mappedWeightBytes;
    observer.memory({ chargedBytes, privateBytes, mappedWeightBytes, growthBytes: 0 });
    return chargedBytes;
  };

  const forget = (): void => {
    server = null;
    state = 'cold';
    fault = null;
    options.holds(false);
  };

  const died = (exit: ChildExit): void => {
    const reason = fault === null ? exit.reason : `${fault.message} (${exit.reason})`;
    if (state === 'moving') {
      const said = dialect.explainStart(server?.child.lines() ?? [], launch.modelId);
      const text = exit.cause === 'out_of_memory' ? `Out of memory: ${reason}.` : reason;
      interrupt?.(fault ?? said ?? new BerthError('model_load_failed', text));
      return;
    }
    endedBy = 'engine_died';
    forget();
    gate.release(false);
    requests.failAll('engine_died', reason);
    measure();
    observer.died(reason);
  };

  const release = async (): Promise<void> => {
    const own = server;
    if (own === null) return forget();
    state = 'moving';
    const { seenFree, took } = await own.child.stop();
    if (!seenFree) {
      throw new BerthError(
        'engine_error',
        `Process ${own.child.pid} does not end (last tried: ${took}); its memory is not free.`,
      );
    }
    forget();
  };

  const bring = async (): Promise<void> => {
    const { promise: ended, reject } = Promise.withResolvers<never>();
    interrupt = reject;
    ended.catch(() => {});
    let own: HttpServer | null = null;
    try {
      const starting = options.start(launch, {
        wanted: () => interrupt === reject,
        onServer(started) {
          server = own = started;
          options.holds(true);
          if (launch.memoryLimitBytes > 0)
            log(
              `memory limit of ${launch.memoryLimitBytes} bytes by ${started.child.limitMemory(launch.memoryLimitBytes)}`,
            );
        },
        onExit(exit) {
          if (own !== null && server === own) died(exit);
        },
        onHeard: () => {
          heardAt = gate.computedMicros();
        },
      });
      starting.catch(() => {});
      const ready = await Promise.race([starting, ended]);
      await Promise.race([gate.guard(ready.child.freezer), ended]);
    } finally {
      interrupt = null;
    }
    state = 'loaded';
  };

  const load = async (): Promise<LoadReport> => {
    const start = timer.now();
    const from = state === 'loaded' ? 'already' : state === 'asleep' ? 'asleep' : 'cold';
    if (from !== 'already') {
      state = 'moving';
      try {
        await (from === 'cold' ? bring() : wake());
      } catch (thrown) {
        gate.release(false);
        await release();
        measure();
        throw asBerthError(thrown);
      }
    }
    return { micros: timer.now() - start, from, memoryBytes: measure() };
  };

  /** What a server does on its way to sleep and back, with a deadline; a death meanwhile ends it. */
  const move = async (own: HttpServer, work: (signal: AbortSignal) => Promise<unknown>): Promise<void> => {
    const late = new AbortController();
    const cancel = timer.after(options.moveMicros, () => late.abort());
    const { promise: ended, reject } = Promise.withResolvers<never>();
    interrupt = reject;
    ended.catch(() => {});
    try {
      await own.child.freezer.thaw();
      await Promise.race([work(late.signal), ended]);
      await Promise.race([gate.guard(own.child.freezer), ended]);
    } catch (thrown) {
      if (!late.signal.aborted) throw thrown instanceof BerthError ? thrown : dialect.explain(thrown);
      const seconds = Math.round(options.moveMicros / SECOND);
      throw new BerthError('engine_error', `${dialect.name} was neither awake nor asleep after ${seconds} s.`);
    } finally {
      cancel();
      interrupt = null;
    }
  };

  const wake = async (): Promise<void> => {
    const own = server;
    if (own === null) throw new BerthError('model_stopped', 'The model is not asleep.');
    await move(own, async (signal) => {
      await dialect.wakeUp?.(own.client, signal);
      // Awake means that it computes, not that it says so.
      await hasToken(launch, own, timer.now() + options.moveMicros, options);
    });
    state = 'loaded';
  };

  /** Memory is given back a moment after the server has said so. */
  const seenLess = async (before: Bytes, signal: AbortSignal): Promise<void> => {
    const deadline = timer.now() + GIVEN_BACK_MICROS;
    while (measure() >= before && timer.now() < deadline && !signal.aborted) {
      await new Promise<void>((resolve) => {
        timer.after(LOOK_MICROS, resolve);
      });
    }
  };

  const sleep = async (): Promise<ReleaseReport> => {
    const start = timer.now();
    const own = server;
    if (own === null || state === 'asleep') return { micros: 0, memoryBytes: measure() };
    if (!dialect.capabilities.sleeps)
      throw new BerthError('engine_error', `The engine ${dialect.name} can’t put a model to sleep: unload it.`);
    if (requests.size() > 0)
      throw new BerthError('engine_error', 'A model that has requests can’t be put to sleep: let them end first.');
    const before = measure();
    state = 'moving';
    gate.release(true);
    try {
      await move(own, async (signal) => {
        await dialect.fallAsleep?.(own.client, signal);
        await seenLess(before, signal);
      });
    } catch (thrown) {
      // Nobody knows what it holds now.
      await release();
      measure();
      throw asBerthError(thrown);
    }
    const memoryBytes = measure();
    state = 'asleep';
    if (memoryBytes < before) return { micros: timer.now() - start, memoryBytes };
    // It said that it sleeps, and gave nothing back: it may as well work.
    await wake();
    const message = `${dialect.name} says that it sleeps, but its memory has not become less (${before} bytes before, ${memoryBytes} after): unload it.`;
    throw new BerthError('engine_error', message);
  };

  const unload = async (): Promise<ReleaseReport> => {
    const start = timer.now();
    endedBy = 'model_stopped';
    if (server !== null) {
      state = 'moving';
      requests.failAll('model_stopped', 'The model was unloaded.');
      gate.release(true);
      await release();
    }
    return { micros: timer.now() - start, memoryBytes: measure() };
  };

  return {
    ensureLoaded: () => transitions.ensure('load', load),
    ensureAsleep: () => transitions.ensure('sleep', sleep),
    ensureUnloaded() {
      if (transitions.heading() === 'load') {
        interrupt?.(new BerthError('model_stopped', 'The model was unloaded while it was being loaded.'));
      }
      return transitions.ensure('unload', unload);
    },
    slice: (grant) => gate.slice(grant),
    endSlice: (sliceId) => gate.endSlice(sliceId),
    submit(request, sink) {
      requests.submit(request, sink);
      if (state === 'loaded') return;
      const message = endedBy === 'engine_died' ? 'The model’s process has ended.' : 'The model is not loaded.';
      const code = state === 'asleep' ? 'model_stopped' : endedBy;
      setImmediate(() => requests.fail(request.requestId, code, message));
    },
    cancel: (requestId) => requests.cancel(requestId),
    tick() {
      if (state !== 'loaded' && state !== 'asleep') return;
      measure();
      if (requests.size() === 0) heardAt = gate.computedMicros();
      else if (gate.computedMicros() - heardAt > silenceMicros) {
        const seconds = Math.round(silenceMicros / SECOND);
        condemn(new BerthError('engine_died', `The server hangs: it computed ${seconds} s without a word.`));
      }
    },
  };
}
