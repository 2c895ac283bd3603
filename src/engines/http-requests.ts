/**
 * The requests on one server: those that wait for their turn, those under way, and what became of them. Not more are sent than the
 * server computes at once, and none while it is frozen: a frozen server does not even notice that a client left.
 */
import type { Micros, RequestId } from '../core/ids.ts';
import type { BerthError, ErrorCode } from '../errors.ts';
import type { EngineEvent, EngineRequest, EngineSink, RequestUsage } from './engine.ts';
import type { Exchange } from './http-dialect.ts';

export interface Requests {
  /** How many still have work. */
  size(): number;
  submit(request: EngineRequest, sink: EngineSink): void;
  cancel(requestId: RequestId): void;
  /** Sends what waits, as far as there is room. */
  pump(): void;
  fail(requestId: RequestId, code: ErrorCode, message: string): void;
  failAll(code: ErrorCode, message: string): void;
}

export interface RequestsOptions {
  /** Most under way at once. */
  readonly parallel: number;
  readonly isOpen: () => boolean;
  /** Puts a request to the server. */
  readonly run: (request: EngineRequest, wire: Pick<Exchange, 'signal' | 'emit' | 'decoded'>) => Promise<void>;
  readonly explain: (thrown: unknown) => BerthError;
  readonly counted: (requestId: RequestId, tokens: number) => void;
  /** Micros for which the server has computed. */
  readonly computedMicros: () => Micros;
  /** The last one has ended. */
  readonly idle: () => void;
  readonly log: (line: string) => void;
}

interface Live {
  readonly request: EngineRequest;
  readonly sink: EngineSink;
  readonly abort: AbortController;
  running: boolean;
  /** Its share of the computed time when it was sent, and when its prompt was done. */
  startShare: number;
  firstShare: number | null;
}

const isLast = (event: EngineEvent): boolean =>
  event.type === 'finished' || event.type === 'embedded' || event.type === 'failed';

export function createRequests(options: RequestsOptions): Requests {
  const { parallel, isOpen, run, explain, counted, computedMicros, idle, log } = options;
  const all = new Map<RequestId, Live>();
  let running = 0;
  /** Computed time is shared evenly by those under way: what one had of it is the difference of two readings of this sum. */
  let share = 0;
  let sharedUntil: Micros = 0;

  const readShare = (): number => {
    const now = computedMicros();
    if (running > 0) share += (now - sharedUntil) / running;
    sharedUntil = now;
    return share;
  };

  const leave = (live: Live): void => {
    if (all.get(live.request.requestId) !== live) return;
    readShare();
    all.delete(live.request.requestId);
    if (live.running) running -= 1;
    live.running = false;
    if (all.size === 0) idle();
    else pump();
  };

  const timed = (live: Live, usage: RequestUsage): RequestUsage => {
    const now = readShare();
    const first = live.firstShare ?? now;
    return {
      ...usage,
      prefillMicros: Math.round(first - live.startShare),
      decodeMicros: Math.round(now - first),
    };
  };

  const tell = (live: Live, event: EngineEvent): void => {
    // Who was cancelled hears nothing more.
    if (all.get(live.request.requestId) !== live) return;
    if (event.type === 'tokens' && event.tokenIds.length > 0) decoded(live, event.tokenIds.length);
    const told =
      event.type === 'finished' || event.type === 'embedded' ? { ...event, usage: timed(live, event.usage) } : event;
    if (isLast(event)) leave(live);
    try {
      live.sink(told);
    } catch (thrown) {
      // One caller's mistake must not reach the other requests.
      log(`a listener failed and was dropped: ${thrown instanceof Error ? thrown.message : 'it threw no error'}`);
      drop(live);
    }
  };

  const decoded = (live: Live, tokens: number): void => {
    live.firstShare ??= readShare();
    counted(live.request.requestId, tokens);
  };

  const drop = (live: Live): void => {
    live.abort.abort();
    leave(live);
  };

  const fail = (requestId: RequestId, code: ErrorCode, message: string): void => {
    const live = all.get(requestId);
    if (live === undefined) return;
    live.abort.abort();
    tell(live, { type: 'failed', code, message });
  };

  const start = (live: Live): void => {
    live.startShare = readShare();
    live.running = true;
    running += 1;
    const wire = {
      signal: live.abort.signal,
      emit: (event: EngineEvent) => tell(live, event),
      decoded: (tokens: number) => {
        if (all.get(live.request.requestId) === live) decoded(live, tokens);
      },
    };
    run(live.request, wire).then(
      () => tell(live, { type: 'failed', code: 'engine_error', message: 'The engine ended the answer too early.' }),
      (thrown: unknown) => {
        const { code, message, param } = explain(thrown);
        tell(live, { type: 'failed', code, message, ...(param === null ? {} : { param }) });
      },
    );
  };

  const pump = (): void => {
    if (!isOpen()) return;
    for (const live of all.values()) {
      if (running >= parallel) return;
      if (!live.running) start(live);
    }
  };

  return {
    size: () => all.size,
    submit(request, sink) {
      const live: Live = {
        request,
        sink,
        abort: new AbortController(),
        running: false,
        startShare: 0,
        firstShare: null,
      };
      all.set(request.requestId, live);
      pump();
    },
    cancel(requestId) {
      const live = all.get(requestId);
      if (live !== undefined) drop(live);
    },
    pump,
    fail,
    failAll(code, message) {
      for (const requestId of Array.from(all.keys())) fail(requestId, code, message);
    },
  };
}
