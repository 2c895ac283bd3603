/**
 * The node: the requests of all, and its devices, each with an arbiter of its own. Here is decided only which device a model is computed
 * on; all else is decided there.
 */
import type { CoreEvent } from '../core/events.ts';
import type { ModelId, RequestId, TenantId } from '../core/ids.ts';
import { DEFAULT_TENANT, SECOND, requestId as asRequestId } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import type { EngineEvent } from '../engines/engine.ts';
import type { KvView, ModelView, NodeApi, NodeStatus, StreamEvent, Submission, SubmissionHandle } from './api.ts';
import type { Clock } from './clock.ts';
import type { DecisionLog } from './decisions.ts';
import { createDecisionLog } from './decisions.ts';
import type { DeviceConfiguration, SharedConfiguration } from './device.ts';
import { Device } from './device.ts';
import type { DeviceTimeRow, Payer } from './device-time.ts';
import type { AdapterSpec } from './hosted.ts';
import { Homes } from './homes.ts';
import type { Placed } from './homes.ts';
import type { Journal } from './journal.ts';
import type { KvDesk, KvTiers } from './kv-desk.ts';
import { openKvDesk } from './kv-desk.ts';
import type { Log } from './log.ts';
import type { Metrics } from './metrics.ts';
import { createMetrics } from './metrics.ts';
import type { LiveRequest } from './requests.ts';
import { createLiveRequest, estimatePromptTokens, receive, survives } from './requests.ts';
import { adapterView, modelView, queuedNote, together } from './views.ts';

export interface NodeConfiguration extends SharedConfiguration {
  /** At least one, and always the same ones. */
  readonly devices: readonly DeviceConfiguration[];
  /** All models that the devices list, as people shall see them. */
  readonly order: readonly ModelId[];
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
  readonly #metrics: Metrics = createMetrics();
  readonly #decisions: DecisionLog = createDecisionLog();
  readonly #requests = new Map<RequestId, LiveRequest>();
  readonly #kv: KvDesk;
  /** Of requests, those just ended too: their last slice is reported after them. */
  readonly #payers = new Map<RequestId, Payer>();
  readonly #homes = new Homes((id, isOnly) => this.#createDevice(id, isOnly));
  #configuration: NodeConfiguration | null = null;
  #configError: string | null = null;
  #stopping = false;

  constructor(options: NodeOptions) {
    this.#options = options;
    const { clock, log } = options;
    this.#kv = openKvDesk(options.kv, {
      clock,
      log,
      model: (id) => this.#homes.homeOf(id)?.registry.get(id)?.model,
      prefillMicrosPerKiloToken: (id) =>
        this.#homes.homeOf(id)?.state.models.get(id)?.costs.prefillMicrosPerKiloToken ?? 0,
      tell: (event) => this.#homes.homeOf(event.modelId)?.tell(event),
    });
  }

  // -------------------------------------------------------------- configuration

  /** Takes the whole configuration, at the start and at each change. Models that are new are estimated first. */
  async configure(configuration: NodeConfiguration): Promise<void> {
    const { devices, order } = configuration;
    this.#homes.adopt(devices);
    const shares = this.#homes.share(devices);
    const hosted = new Set(order);
    const prepare = (device: Device, index: number): Promise<() => void> => device.prepare(shares[index] ?? [], hosted);
    const commits = await Promise.all(this.#devices.map(prepare));
    for (const commit of commits) commit();
    this.#homes.settle();
    this.#configuration = configuration;
    this.#configError = null;
    for (const [index, device] of this.#devices.entries())
      device.configure(devices[index] as DeviceConfiguration, configuration);
  }

  get #devices(): readonly Device[] {
    return this.#homes.devices;
  }

  #createDevice(id: string, isOnly: boolean): Device {
    const { clock, log, journal, operatorDeadlineMicros, kv } = this.#options;
    return new Device({
      id,
      label: isOnly ? null : id,
      clock,
      log,
      journal,
      operatorDeadlineMicros,
      keepsKv: kv !== null,
      kv: this.#kv,
      metrics: this.#metrics,
      decisions: this.#decisions,
      payerOf: (request) => this.#payers.get(request) ?? null,
      request: (request) => this.#requests.get(request),
      heard: (device, live, event) => this.#heard(device, live, event),
      drop: (live, failure) => this.#drop(live, failure),
    });
  }

  /** The last save of the configuration was refused: said in the status until a good one comes. */
  configRefused(message: string): void {
    this.#configError = message;
  }

  /** What one device's core can't know: how many requests the others have. */
  #checkRoom(): void {
    const limit = this.#configuration?.limits.requests ?? 0;
    if (this.#devices.length === 1 || this.#requests.size < limit) return;
    throw new BerthError('queue_full', `the node has ${this.#requests.size} requests already`, {
      retryAfterMicros: SECOND,
    });
  }

  // -------------------------------------------------------------- requests

  submit(submission: Submission, sink: (event: StreamEvent) => void): SubmissionHandle {
    const { device, hosted, adapter } = this.#homes.place(submission.model);
    const asked = adapter === null ? submission : withAdapter(submission, adapter);
    const request = asked.request.kind === 'embed' ? asked.request : { ...asked.request, resumeTokens: [] };
    const unfit = hosted.spec.engine.check(request);
    if (unfit !== null)
      throw new BerthError(unfit.code, unfit.message, unfit.param === undefined ? {} : { param: unfit.param });
    this.#checkRoom();
    const id = this.#freshId(request.requestId);
    // Until this call returns the caller has no handle: what it would hear is kept, and a refusal is thrown.
    let early: StreamEvent[] | null = [];
    const live = createLiveRequest(
      id,
      hosted.spec.id,
      asked,
      (event) => (early === null ? sink(event) : early.push(event)),
      this.#options.clock.now(),
    );
    this.#requests.set(id, live);
    this.#remember(id, submission);
    this.#kv.arrived(live, hosted);
    device.tell({
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
      ...(submission.share !== undefined && { share: submission.share }),
    });
    if (device.state.models.get(live.modelId)?.phase === 'loading') live.loadingSince ??= live.arrivedAt;
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
      for (const event of [...queuedNote(device.state, live, events), ...events]) sink(event);
    });
    return {
      requestId: id,
      modelId: adapter?.id ?? hosted.spec.id,
      cancel: () => {
        left = true;
        this.#cancel(device, id);
      },
    };
  }

  /** Ids come from clients too (`x-request-id`): one that is in use gets a suffix. */
  #freshId(wish: RequestId): RequestId {
    let id = wish;
    for (let n = 2; this.#requests.has(id); n++) id = asRequestId(`${wish}-${n}`);
    return id;
  }

  #heard(device: Device, live: LiveRequest, event: EngineEvent): void {
    if (this.#requests.get(live.id) !== live) return;
    if (survives(live, event)) return this.#lost(device, live);
    const now = this.#options.clock.now();
    const isLast = event.type === 'finished' || event.type === 'embedded' || event.type === 'failed';
    if (isLast) this.#forget(live.id);
    if (event.type === 'accepted') this.#kv.accepted(live, event);
    // The client first: what the core then decides must not stand between a token and its reader.
    const told: CoreEvent[] = [];
    const forClient = receive(live, event, now, (coreEvent) => told.push(coreEvent));
    if (forClient !== null) live.sink(forClient);
    device.note(told);
    if (isLast) this.#count(live, event, forClient);
    if (told.length > 0) device.pump();
  }

  /** Its engine died: the core hears of that next, and only then decides anything. */
  #lost(device: Device, live: LiveRequest): void {
    live.sink({ type: 'preempted' });
    device.note([{ type: 'requestLost', requestId: live.id }]);
    queueMicrotask(() => device.pump());
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

  #cancel(device: Device, id: RequestId): void {
    if (this.#forget(id)) device.tell({ type: 'requestCancelled', requestId: id });
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

  // -------------------------------------------------------------- what people see and ask

  #view({ device: { state }, hosted, adapter }: Placed): ModelView {
    const { id } = hosted.spec;
    const view = modelView(hosted, state.models.get(id), state, this.#options.clock.now(), this.#homes.labelOf(id));
    return adapter === null ? view : adapterView(view, adapter);
  }

  models(_tenantId: TenantId): readonly ModelView[] {
    return (this.#configuration?.order ?? []).flatMap((id) => {
      const found = this.#homes.find(id);
      const adapters = found.hosted.spec.adapters ?? [];
      return [found, ...adapters.map((adapter) => ({ ...found, adapter }))].map((each) => this.#view(each));
    });
  }

  model(name: string, _tenantId: TenantId): ModelView {
    return this.#view(this.#homes.find(name));
  }

  status(): NodeStatus {
    return {
      ...together(this.#devices.map((device) => device.status())),
      ...(this.#devices.length > 1 && { devices: this.#devices.map((device) => device.view()) }),
      version: this.#options.version,
      uptimeMicros: this.#options.clock.now(),
      configError: this.#configError,
    };
  }

  ready(): boolean {
    return this.#configuration !== null && !this.#stopping;
  }

  why(name: string): ReturnType<DecisionLog['of']> {
    const id = this.#homes.idOf(name);
    const found = this.#decisions.of(id ?? name);
    if (found.length > 0 || id !== null) return found;
    throw new BerthError('not_found', `nothing was decided about ${JSON.stringify(name.slice(0, 100))}`);
  }

  /** Removes the KV of the tenant's conversations, wherever it lies. */
  readonly forgetTenant = (id: TenantId): void => this.#kv.forgetTenant(id);

  /** Where the lanes' time went since this was last asked. */
  takeDeviceTime(): DeviceTimeRow[] {
    return this.#devices.flatMap(({ deviceTime }) => deviceTime.take(this.#options.clock.now()));
  }

  kv(): KvView | null {
    return this.#kv.view();
  }

  metrics(): Promise<string> {
    const models = this.models(DEFAULT_TENANT).filter(({ parent }) => parent === undefined);
    const gauges = models.map(({ id, ...model }) => ({ model: id, ...model }));
    const devices = this.#devices.map(({ id, state }) => ({
      device: this.#devices.length === 1 ? null : id,
      memoryBytes: state.device.memoryBytes,
      heldBytes: state.heldBytes,
    }));
    return this.#metrics.text(gauges, devices, this.#kv.view()?.stats ?? null);
  }

  async load(name: string, _tenantId: TenantId): Promise<void> {
    const { device, hosted } = this.#homes.place(name);
    await device.load(hosted);
  }

  async stop(name: string, _tenantId: TenantId, { force }: { readonly force: boolean }): Promise<void> {
    const { device, hosted } = this.#homes.find(name);
    await device.stop(hosted, force);
  }

  /** Admits nothing more, lets what runs finish until the deadline, then closes the engines, which fail the rest. */
  async close(graceMicros: number): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    for (const device of this.#devices) device.tell({ type: 'nodeStopping' });
    const deadline = this.#options.clock.now() + graceMicros;
    while (this.#requests.size > 0 && this.#options.clock.now() < deadline) {
      await new Promise<void>((resolve) => setTimeout(resolve, 20));
    }
    const engines = new Set(
      this.#devices.flatMap(({ registry }) => [...registry.all()].map(({ spec }) => spec.engine)),
    );
    await Promise.all([...engines].map((engine) => engine.close()));
    await this.#kv.close(KV_CLOSE_MICROS);
    for (const device of this.#devices) device.close();
    await this.#options.journal?.close();
  }
}

/** The engine is told which weights to add. */
const withAdapter = (submission: Submission, { adapter }: AdapterSpec): Submission => ({
  ...submission,
  request: { ...submission.request, adapter },
});
