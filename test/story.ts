/** For tests of the core: an arbiter, told what happens at which time, answering with what it wants done. */
import type { Action } from '../src/core/actions.ts';
import type { Arbiter } from '../src/core/arbiter.ts';
import { createArbiter } from '../src/core/arbiter.ts';
import type {
  CoreEvent,
  DeviceSpec,
  EventOf,
  Limits,
  ModelSpec,
  ResidencySpec,
  TenantSpec,
} from '../src/core/events.ts';
import type { Micros, ModelId } from '../src/core/ids.ts';
import { MILLI, modelId, requestId, SECOND, tenantId } from '../src/core/ids.ts';
import { checkInvariants } from '../src/sim/invariants.ts';
import type { Model, Request } from '../src/core/state.ts';

type ActionOf<T extends Action['type']> = Extract<Action, { type: T }>;

export interface Plot {
  readonly device?: Partial<DeviceSpec>;
  readonly limits?: Partial<Limits>;
  readonly residency?: Partial<ResidencySpec>;
  /** By name; what is not said is usual: 100 bytes, two requests at once. */
  readonly models?: Readonly<Record<string, Partial<ModelSpec>>>;
  readonly tenants?: Readonly<Record<string, number>>;
}

export interface AskOptions {
  readonly tenant?: string;
  readonly kind?: 'generate' | 'embed';
  readonly priority?: 'interactive' | 'batch';
  readonly promptTokens?: number;
  readonly maxTokens?: number;
  readonly keepAliveMicros?: Micros;
  readonly share?: string;
  readonly ttftGoalMicros?: Micros;
}

/** A device of 200 bytes and two lanes; a model stays 1 s at least, makes room after 2 s, and may drain for 2 s. */
export class Story {
  readonly arbiter: Arbiter = createArbiter();
  now: Micros = 0;
  wakeAt: Micros | null = null;
  readonly #plot: Plot;
  #last: readonly Action[] = [];

  constructor(plot: Plot = {}) {
    this.#plot = plot;
    this.configure();
  }

  get state(): Arbiter['state'] {
    return this.arbiter.state;
  }

  configure(change: Plot = {}): readonly Action[] {
    const plot = { ...this.#plot, ...change };
    return this.tell(configured(plot));
  }

  /** Time passes, then this happens. */
  after(micros: Micros, ...events: CoreEvent[]): readonly Action[] {
    this.now += micros;
    return this.tell(...(events.length === 0 ? [{ type: 'ticked' } as const] : events));
  }

  tell(...events: CoreEvent[]): readonly Action[] {
    const { actions, wakeAt } = this.arbiter.handle({ now: this.now, events });
    checkInvariants(this.state);
    this.wakeAt = wakeAt;
    this.#last = actions;
    return actions;
  }

  ask(id: string, model: string, options: AskOptions = {}): readonly Action[] {
    return this.tell(asked(id, model, options));
  }

  /** Asks for the model and has it loaded; the request runs. */
  run(id: string, model: string, options: AskOptions = {}): readonly Action[] {
    this.ask(id, model, options);
    return this.loaded(model);
  }

  loaded(model: string, bytes = this.model(model).costs.loadedBytes): readonly Action[] {
    return this.tell({ type: 'modelLoaded', ...this.under(model), from: 'cold', micros: 500 * MILLI, bytes });
  }

  unloaded(model: string): readonly Action[] {
    return this.tell({ type: 'modelUnloaded', ...this.under(model), micros: MILLI });
  }

  asleep(model: string): readonly Action[] {
    const bytes = this.model(model).costs.asleepBytes;
    return this.tell({ type: 'modelFellAsleep', ...this.under(model), micros: MILLI, bytes });
  }

  finished(
    id: string,
    tokens: { readonly promptTokens?: number; readonly outputTokens?: number } = {},
  ): readonly Action[] {
    return this.tell(finished(id, tokens));
  }

  /** The model's slice came back. */
  sliceEnded(model: string, decoded: Readonly<Record<string, number>> = {}): readonly Action[] {
    const sliceId = this.model(model).slice?.id ?? 0;
    const work = { steps: 1, prefillTokens: 0, wallMicros: 10 * MILLI, computeMicros: 10 * MILLI };
    return this.tell({
      type: 'sliceEnded',
      modelId: modelId(model),
      sliceId,
      lanes: this.model(model).slice?.lanes ?? 1,
      decodeTokens: decoded,
      ...work,
    });
  }

  preempted(id: string): readonly Action[] {
    return this.tell({ type: 'requestPreempted', requestId: requestId(id), actionId: 0 });
  }

  model(name: string): Model {
    const model = this.state.models.get(modelId(name));
    if (model === undefined) throw new Error(`no model ${name}`);
    return model;
  }

  request(id: string): Request | undefined {
    return this.state.requests.get(requestId(id));
  }

  /** The transition that the model is in: what its completion must name. */
  under(name: string): { readonly actionId: number; readonly modelId: ModelId } {
    return { actionId: this.model(name).transition ?? 0, modelId: modelId(name) };
  }

  /** The only action of that kind in the last answer. */
  one<T extends Action['type']>(type: T): ActionOf<T> {
    const found = this.all(type);
    const [only] = found;
    if (only === undefined || found.length > 1) {
      throw new Error(`wanted one ${type}, got ${JSON.stringify(this.#last, null, 1)}`);
    }
    return only;
  }

  all<T extends Action['type']>(type: T): ActionOf<T>[] {
    return this.#last.filter((action): action is ActionOf<T> => action.type === type);
  }

  /** The last answer in short, without the slices that are renewed now and then. */
  get news(): string[] {
    return this.brief.filter((line) => !line.startsWith('grantSlice'));
  }

  /** The last answer in short: `load m0`, `start r1`, … */
  get brief(): string[] {
    return this.#last.map((action) => `${action.type} ${'requestId' in action ? action.requestId : action.modelId}`);
  }
}

export function configured({ device, limits, residency, models, tenants }: Plot): CoreEvent {
  return {
    type: 'configured',
    device: { memoryBytes: 200, lanes: 2, overheadBytes: 0, ...device },
    limits: { queuePerModel: 10, requests: 100, queueTimeoutMicros: 60 * SECOND, ...limits },
    residency: {
      minimumStayMicros: SECOND,
      patienceMicros: 2 * SECOND,
      drainMicros: 2 * SECOND,
      keepAliveMicros: 300 * SECOND,
      sleepForMicros: 3_600 * SECOND,
      ...residency,
    },
    models: Object.entries(models ?? { a: {}, b: {}, c: {} }).map(([name, spec]) => ({ ...usual(name), ...spec })),
    tenants: Object.entries(tenants ?? {}).map(
      ([name, weight]) => ({ tenantId: tenantId(name), weight }) satisfies TenantSpec,
    ),
  };
}

const usual = (name: string): ModelSpec => ({
  modelId: modelId(name),
  parallel: 2,
  embedParallel: 4,
  embedWindowMicros: 3 * MILLI,
  pinned: false,
  canSleep: false,
  keepsKv: false,
  loadedBytes: 100,
  asleepBytes: 10,
  loadMicros: 500 * MILLI,
  ttftGoalMicros: SECOND,
  interTokenGoalMicros: 200 * MILLI,
  keepAliveMicros: null,
  revision: '1',
});

export const asked = (id: string, model: string, options: AskOptions = {}): CoreEvent => ({
  type: 'requestArrived',
  requestId: requestId(id),
  tenantId: tenantId(options.tenant ?? 'default'),
  modelId: modelId(model),
  kind: options.kind ?? 'generate',
  priority: options.priority ?? 'interactive',
  promptTokens: options.promptTokens ?? 10,
  maxTokens: options.maxTokens ?? 100,
  ttftGoalMicros: options.ttftGoalMicros ?? null,
  interTokenGoalMicros: null,
  keepAliveMicros: options.keepAliveMicros ?? null,
  ...(options.share !== undefined && { share: options.share }),
});

export const finished = (
  id: string,
  {
    promptTokens = 10,
    outputTokens = 20,
    failed = false,
  }: { promptTokens?: number; outputTokens?: number; failed?: boolean } = {},
): EventOf<'requestFinished'> => ({
  type: 'requestFinished',
  requestId: requestId(id),
  failed,
  promptTokens,
  cachedTokens: 0,
  outputTokens,
  prefillMicros: 10 * MILLI,
  decodeMicros: outputTokens * 10 * MILLI,
});
