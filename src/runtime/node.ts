/**
 * The node: an inbox, a clock and the arbiter. Whatever happens goes into the inbox; the arbiter is asked at once, its actions are
 * performed, their completions come back through the inbox. Nothing else decides.
 */
import type { Action } from '../core/actions.ts';
import { whyNot } from '../core/admission.ts';
import { createArbiter } from '../core/arbiter.ts';
import type { CoreEvent, DeviceSpec, Limits, ResidencySpec, TenantSpec } from '../core/events.ts';
import type { ModelId, RequestId, TenantId } from '../core/ids.ts';
import { DEFAULT_TENANT, requestId as asRequestId } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import type { EngineEvent } from '../engines/engine.ts';
import type { KvView, ModelView, NodeApi, NodeStatus, StreamEvent, Submission, SubmissionHandle } from './api.ts';
import type { Clock } from './clock.ts';
import type { DecisionLog } from './decisions.ts';
import type { DeviceTimeRow, Payer } from './device-time.ts';
import { createDeviceTime } from './device-time.ts';
import { createDecisionLog } from './decisions.ts';
import type { Hosted, HostedSpec } from './hosted.ts';
import { toModelSpec } from './hosted.ts';
import type { Journal } from './journal.ts';
import type { KvDesk, KvTiers } from './kv-desk.ts';
import { openKvDesk } from './kv-desk.ts';
import type { Log } from './log.ts';
import { logDecision } from './log.ts';
import type { Metrics } from './metrics.ts';
import { createMetrics } from './metrics.ts';
import { observe } from './observe.ts';
import type { Stage } from './perform.ts';
import { perform } from './perform.ts';
import { createRegistry } from './registry.ts';
import type { LiveRequest } from './requests.ts';
import { createLiveRequest, estimatePromptTokens, receive, survives } from './requests.ts';
import { modelView, queuedNote, statusOf } from './views.ts';
import type { Waiters } from './waiters.ts';
import { createWaiters } from './waiters.ts';

export interface NodeConfiguration {
  readonly device: DeviceSpec;
  readonly deviceName: string;
  readonly limits: Limits;
  readonly residency: ResidencySpec;
  readonly tenants: readonly TenantSpec[];
  readonly models: readonly HostedSpec[];
}

export interface NodeOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly journal: Journal | null;
  /** Where conversations' KV may be kept besides the device; null: it ends with its request. */
  readonly kv: KvTiers | null;
  readonly version: string;
  /** How long `load` and `stop` wait for the model. */
  readonly operatorDeadlineMicros: number;
}

/** Far more than can be in flight. */
const PAYERS_LIMIT = 50_000;

/** What lies in host memory is moved to disk for so long, when the node ends; the rest is gone. */
const KV_CLOSE_MICROS = 10_000_000;

/** A request without `max_tokens` may use its context; for estimates that is far too much. */
const USUAL_MAX_TOKENS = 512;

export class BerthNode implements NodeApi {
  readonly #options: NodeOptions;
  readonly #arbiter = createArbiter();
  readonly #metrics: Metrics = createMetrics();
  readonly #decisions: DecisionLog = createDecisionLog();
  readonly #registry = createRegistry((id) => observe(this.#stage, id));
  readonly #requests = new Map<RequestId, LiveRequest>();
  readonly #waiters: Waiters;
  readonly #kv: KvDesk;
  readonly #deviceTime = createDeviceTime();
  /** Of requests, those just ended too: their last slice is reported after them. */
  readonly #payers = new Map<RequestId, Payer>();
  readonly #inbox: CoreEvent[] = [];
  readonly #stage: Stage;
  #pumping = false;
  #cancelWake: (() => void) | null = null;
  #configuration: NodeConfiguration | null = null;
  #configError: string | null = null;
  #stopping = false;

  constructor(options: NodeOptions) {
    this.#options = options;
    this.#waiters = createWaiters(options.clock, options.operatorDeadlineMicros);
    const { clock, log } = options;
    this.#kv = openKvDesk(options.kv, {
      clock,
      log,
      model: (id) => this.#registry.get(id)?.model,
      prefillMicrosPerKiloToken: (id) => this.#arbiter.state.models.get(id)?.costs.prefillMicrosPerKiloToken ?? 0,
      tell: (event) => this.#tell(event),
    });
    this.#stage = {
      clock: options.clock,
      kv: this.#kv,
      deviceTime: this.#deviceTime,
      payerOf: (id) => this.#payers.get(id) ?? null,
      metrics: this.#metrics,
      log: options.log,
      hosted: (id) => this.#registry.get(id),
      request: (id) => this.#requests.get(id),
      requestsOf: (id) => this.#requestsOf(id),
      reopen: (hosted) => this.#registry.reopen(hosted),
      tell: (event) => this.#tell(event),
      heard: (live, event) => this.#heard(live, event),
      drop: (live, failure) => this.#drop(live, failure),
    };
  }

  // -------------------------------------------------------------- configuration

  /** Takes the whole configuration, at the start and at each change. Models that are new are estimated first. */
  async configure(configuration: NodeConfiguration): Promise<void> {
    await this.#registry.take(configuration.models);
    this.#configuration = configuration;
    this.#configError = null;
    const { device, limits, residency, tenants } = configuration;
    this.#deviceTime.configured(this.#options.clock.now(), device.lanes);
    const models = this.#registry.listed().map((hosted) => toModelSpec(hosted, this.#options.kv !== null));
    this.#tell({ type: 'configured', device, limits, residency, tenants, models });
  }

  /** The last save of the configuration was refused: said in the status until a good one comes. */
  configRefused(message: string): void {
    this.#configError = message;
  }

  // -------------------------------------------------------------- the cycle

  #tell(event: CoreEvent): void {
    this.#inbox.push(event);
    this.#pump();
  }

  #pump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      while (this.#inbox.length > 0) {
        const events = this.#inbox.splice(0);
        const now = this.#options.clock.now();
        const { actions, wakeAt } = this.#arbiter.handle({ now, events });
        this.#options.journal?.write({ now, events, actions });
        for (const action of actions) this.#perform(now, action);
        this.#scheduleWake(wakeAt, now);
      }
    } finally {
      this.#pumping = false;
    }
    this.#waiters.look(this.#arbiter.state);
  }

  #perform(now: number, action: Action): void {
    this.#decisions.add(now, action);
    logDecision(this.#options.log, action);
    perform(this.#stage, action);
  }

  #scheduleWake(wakeAt: number | null, now: number): void {
    this.#cancelWake?.();
    this.#cancelWake =
      wakeAt === null ? null : this.#options.clock.after(wakeAt - now, () => this.#tell({ type: 'ticked' }));
  }

  // -------------------------------------------------------------- requests

  submit(submission: Submission, sink: (event: StreamEvent) => void): SubmissionHandle {
    const hosted = this.#registry.find(submission.model);
    const request =
      submission.request.kind === 'embed' ? submission.request : { ...submission.request, resumeTokens: [] };
    const unfit = hosted.spec.engine.check(request);
    if (unfit !== null)
      throw new BerthError(unfit.code, unfit.message, unfit.param === undefined ? {} : { param: unfit.param });
    const id = this.#freshId(request.requestId);
    // Until this call returns the caller has no handle: what it would hear is kept, and a refusal is thrown.
    let early: StreamEvent[] | null = [];
    const live = createLiveRequest(
      id,
      hosted.spec.id,
      submission,
      (event) => (early === null ? sink(event) : early.push(event)),
      this.#options.clock.now(),
    );
    this.#requests.set(id, live);
    this.#remember(id, submission);
    this.#kv.arrived(live, hosted);
    this.#tell({
      type: 'requestArrived',
      requestId: id,
      tenantId: submission.tenantId,
      modelId: hosted.spec.id,
      kind: request.kind,
      priority: submission.priority,
      promptTokens: estimatePromptTokens(submission.request),
      maxTokens: request.kind === 'embed' ? 0 : (request.maxTokens ?? USUAL_MAX_TOKENS),
      ttftGoalMicros: submission.ttftGoalMicros,
      interTokenGoalMicros: submission.interTokenGoalMicros,
      keepAliveMicros: submission.keepAliveMicros,
    });
    if (this.#arbiter.state.models.get(live.modelId)?.phase === 'loading') live.loadingSince ??= live.arrivedAt;
    const refused = early.find((event) => event.type === 'failed');
    if (refused !== undefined) {
      const { code, message, retryAfterMicros, param } = refused;
      throw new BerthError(code, message, {
        ...(retryAfterMicros === undefined ? {} : { retryAfterMicros }),
        ...(param === undefined ? {} : { param }),
      });
    }
    let left = false;
    queueMicrotask(() => {
      const events = early ?? [];
      early = null;
      if (left) return;
      for (const event of [...queuedNote(this.#arbiter.state, live, events), ...events]) sink(event);
    });
    return {
      requestId: id,
      modelId: hosted.spec.id,
      cancel: () => {
        left = true;
        this.#cancel(id);
      },
    };
  }

  /** Ids come from clients too (`x-request-id`): one that is in use gets a suffix. */
  #freshId(wish: RequestId): RequestId {
    let id = wish;
    for (let n = 2; this.#requests.has(id); n++) id = asRequestId(`${wish}-${n}`);
    return id;
  }

  #heard(live: LiveRequest, event: EngineEvent): void {
    if (this.#requests.get(live.id) !== live) return;
    if (survives(live, event)) return this.#lost(live);
    const now = this.#options.clock.now();
    const isLast = event.type === 'finished' || event.type === 'embedded' || event.type === 'failed';
    if (isLast) this.#forget(live.id);
    if (event.type === 'accepted') this.#kv.accepted(live, event);
    // The client first: what the core then decides must not stand between a token and its reader.
    const told: CoreEvent[] = [];
    const forClient = receive(live, event, now, (coreEvent) => told.push(coreEvent));
    if (forClient !== null) live.sink(forClient);
    this.#inbox.push(...told);
    if (isLast) this.#count(live, event, forClient);
    if (told.length > 0) this.#pump();
  }

  /** Its engine died: the core hears of that next, and only then decides anything. */
  #lost(live: LiveRequest): void {
    live.sink({ type: 'preempted' });
    this.#inbox.push({ type: 'requestLost', requestId: live.id });
    queueMicrotask(() => this.#pump());
  }

  #count(live: LiveRequest, event: EngineEvent, seen: StreamEvent | null): void {
    if (event.type === 'failed') return this.#metrics.failed(live.modelId, event.code);
    if (seen?.type !== 'finished' && seen?.type !== 'embedded') return;
    this.#metrics.finished(live.modelId, seen.type === 'finished' ? seen.reason : 'stop', seen.usage);
    this.#metrics.latencies(live.modelId, { ...seen.timings, outputTokens: seen.usage.outputTokens });
  }

  #drop(live: LiveRequest, failure: { code: ErrorCode; message: string; retryAfterMicros: number | null }): void {
    if (!this.#forget(live.id)) return;
    const { code, message, retryAfterMicros } = failure;
    live.sink({ type: 'failed', code, message, ...(retryAfterMicros === null ? {} : { retryAfterMicros }) });
  }

  #cancel(id: RequestId): void {
    if (this.#forget(id)) this.#tell({ type: 'requestCancelled', requestId: id });
  }

  #remember(id: RequestId, { tenantId, keyId }: Submission): void {
    this.#payers.set(id, { tenantId, keyId });
    const [oldest] = this.#payers.keys();
    if (this.#payers.size > PAYERS_LIMIT && oldest !== undefined) this.#payers.delete(oldest);
  }

  #forget(id: RequestId): boolean {
    const live = this.#requests.get(id);
    if (live !== undefined) this.#kv.ended(live);
    return this.#requests.delete(id);
  }

  *#requestsOf(id: ModelId): Generator<LiveRequest> {
    const model = this.#arbiter.state.models.get(id);
    if (model === undefined) return;
    for (const requests of [...model.queues.values(), model.active]) {
      for (const request of requests) {
        const live = this.#requests.get(request);
        if (live !== undefined) yield live;
      }
    }
  }

  // -------------------------------------------------------------- what people see and ask

  #view(hosted: Hosted): ModelView {
    const { state } = this.#arbiter;
    return modelView(hosted, state.models.get(hosted.spec.id), state, this.#options.clock.now());
  }

  models(_tenantId: TenantId): readonly ModelView[] {
    return this.#registry.listed().map((hosted) => this.#view(hosted));
  }

  model(name: string, _tenantId: TenantId): ModelView {
    return this.#view(this.#registry.find(name));
  }

  status(): NodeStatus {
    const { state } = this.#arbiter;
    let chargedBytes = 0;
    for (const { chargedBytes: bytes } of this.#registry.all()) chargedBytes += bytes;
    return {
      ...statusOf(state, this.#configuration?.deviceName ?? '', chargedBytes),
      version: this.#options.version,
      uptimeMicros: this.#options.clock.now(),
      configError: this.#configError,
    };
  }

  ready(): boolean {
    return this.#configuration !== null && !this.#stopping;
  }

  why(name: string): ReturnType<DecisionLog['of']> {
    const found = this.#decisions.of(this.#registry.idOf(name) ?? name);
    if (found.length > 0) return found;
    if (this.#registry.idOf(name) !== null) return [];
    throw new BerthError('not_found', `nothing was decided about ${JSON.stringify(name.slice(0, 100))}`);
  }

  /** Removes the KV of the tenant's conversations, wherever it lies. */
  readonly forgetTenant = (id: TenantId): void => this.#kv.forgetTenant(id);

  /** Where the lanes' time went since this was last asked. */
  takeDeviceTime(): DeviceTimeRow[] {
    return this.#deviceTime.take(this.#options.clock.now());
  }

  kv(): KvView | null {
    return this.#kv.view();
  }

  metrics(): Promise<string> {
    const { state } = this.#arbiter;
    const gauges = this.models(DEFAULT_TENANT).map(({ id, state, running, waiting, chargedBytes }) => ({
      model: id,
      state,
      running,
      waiting,
      chargedBytes,
    }));
    return this.#metrics.text(gauges, {
      memoryBytes: state.device.memoryBytes,
      heldBytes: state.heldBytes,
      kv: this.#kv.view()?.stats ?? null,
    });
  }

  async load(name: string, _tenantId: TenantId): Promise<void> {
    const { spec } = this.#registry.find(name);
    const model = this.#arbiter.state.models.get(spec.id);
    const refusal = model === undefined ? null : whyNot(this.#arbiter.state, model);
    if (refusal !== null && refusal.code !== 'queue_full') throw new BerthError(refusal.code, refusal.message);
    const loaded = this.#waiters.waitFor(this.#arbiter.state, spec.id, 'resident');
    this.#tell({ type: 'loadRequested', modelId: spec.id, keepAliveMicros: null });
    await loaded;
  }

  async stop(name: string, _tenantId: TenantId, { force }: { readonly force: boolean }): Promise<void> {
    const { spec } = this.#registry.find(name);
    const stopped = this.#waiters.waitFor(this.#arbiter.state, spec.id, 'cold');
    this.#tell({ type: 'stopRequested', modelId: spec.id, force });
    await stopped;
  }

  /** Admits nothing more, lets what runs finish until the deadline, then closes the engines, which fail the rest. */
  async close(graceMicros: number): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    this.#tell({ type: 'nodeStopping' });
    const deadline = this.#options.clock.now() + graceMicros;
    while (this.#requests.size > 0 && this.#options.clock.now() < deadline) {
      await new Promise<void>((resolve) => setTimeout(resolve, 20));
    }
    const engines = new Set([...this.#registry.all()].map(({ spec }) => spec.engine));
    await Promise.all([...engines].map((engine) => engine.close()));
    await this.#kv.close(KV_CLOSE_MICROS);
    this.#cancelWake?.();
    await this.#options.journal?.close();
  }
}
