/**
 * The shared core of engines that are servers of their own: a child process per resident model, spoken to over loopback HTTP, its
 * compute gated by freezing its process group. What differs from server to server is its dialect.
 */
import type { Bytes, Micros, ModelId } from '../core/ids.ts';
import { MILLI, MINUTE, SECOND } from '../core/ids.ts';
import type { MemoryGroups } from './cgroup.ts';
import type { Engine } from './engine.ts';
import type { HttpDialect } from './http-dialect.ts';
import { createHttpModel } from './http-model.ts';
import type { HttpModel } from './http-model.ts';
import { startServer } from './http-server.ts';
import { createSupervisor } from './supervisor.ts';
import type { StopPatience } from './supervisor.ts';
import { realTimer } from './timer.ts';

export interface HttpEngineOptions {
  /** How long a load may take, its first token included. */
  readonly loadTimeoutMicros?: Micros;
  /** How long a server that computes may say nothing before it is taken for hung. */
  readonly silenceMicros?: Micros;
  /** What a server prints. */
  readonly log?: (model: ModelId, line: string) => void;
  readonly groups?: MemoryGroups;
  readonly patience?: StopPatience;
  readonly sampleMicros?: Micros;
  /** Left out: one of its own. */
  readonly starts?: Starts;
  /** What a process group holds of the device's memory, where that is not the machine's; null: it can't be told. */
  readonly deviceBytes?: (group: number) => Bytes | null;
}

/** One start after the other: two at once take several times as long as one (imports, page cache, cores). */
export type Starts = <T>(start: () => Promise<T>) => Promise<T>;

export function createStarts(): Starts {
  let last: Promise<unknown> = Promise.resolve();
  return (start) => {
    const started = last.then(start);
    last = started.catch(() => {});
    return started;
  };
}

/** Servers give way to the node, which must answer while they compute. */
const NICENESS = 5;

export function createHttpEngine(dialect: HttpDialect, options: HttpEngineOptions = {}): Engine {
  const {
    loadTimeoutMicros = 5 * MINUTE,
    silenceMicros = 2 * MINUTE,
    log = () => {},
    starts = createStarts(),
  } = options;
  const supervisor = createSupervisor({
    ...(options.groups && { groups: options.groups }),
    ...(options.patience && { patience: options.patience }),
  });
  const models = new Set<HttpModel>();
  const sampler = setInterval(
    () => {
      for (const model of models) model.tick();
    },
    (options.sampleMicros ?? SECOND) / MILLI,
  ).unref();
  let closing: Promise<void> | null = null;
  const startOptions = {
    dialect,
    supervisor,
    timer: realTimer,
    niceness: NICENESS,
    loadMicros: loadTimeoutMicros,
    log,
  };

  return {
    name: dialect.name,
    overheadBytes: 0,
    capabilities: dialect.capabilities,
    open(launch, observer) {
      const model: HttpModel = createHttpModel({
        launch,
        observer,
        dialect,
        timer: realTimer,
        silenceMicros,
        moveMicros: loadTimeoutMicros,
        ...(options.deviceBytes && { deviceBytes: options.deviceBytes }),
        start: (of, hooks) => starts(() => startServer(of, hooks, startOptions)),
        log,
        holds: (holding) => void (holding ? models.add(model) : models.delete(model)),
      });
      return model;
    },
    check: (request) => dialect.check(request),
    estimate: (launch) => dialect.estimate(launch),
    close() {
      closing ??= (async () => {
        clearInterval(sampler);
        await Promise.allSettled([...models].map((model) => model.ensureUnloaded()));
        await supervisor.close();
      })();
      return closing;
    },
  };
}
