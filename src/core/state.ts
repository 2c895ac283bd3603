/** Everything the core knows. Plain maps and numbers; changed only inside `handle`. */
import type { Action, Because, RefusalCode } from './actions.ts';
import type { DeviceSpec, Limits, ModelSpec, ResidencySpec } from './events.ts';
import type { ActionId, Bytes, Micros, ModelId, RequestId, TenantId } from './ids.ts';
import type { CostState } from './costs.ts';
import { createCosts } from './costs.ts';

/**
 * Where a model is. The three places are `resident`, `asleep` and `cold`; the others are the ways between them, during which
 * nothing else is asked of the engine (single flight).
 */
export type Phase = 'cold' | 'loading' | 'resident' | 'parking' | 'asleep' | 'unloading';

export interface Slice {
  readonly id: ActionId;
  readonly lanes: number;
  readonly grantedAt: Micros;
  readonly micros: Micros | null;
  /** Told to end; its lanes are free when it has said so. */
  ending: boolean;
}

/** Why a model can't be loaded right now. Cleared by a successful load or a change of its file. */
export interface Failure {
  readonly code: RefusalCode;
  readonly message: string;
  readonly count: number;
  readonly retryAt: Micros;
  /** Those who wait are not told yet: the model is tried again for them. */
  readonly forgiven: boolean;
}

export interface Model {
  readonly id: ModelId;
  spec: ModelSpec;
  phase: Phase;
  /** The action that is under way; completions of others are dropped. */
  transition: ActionId | null;
  /** Removed from the configuration: unloaded as soon as it can be, then forgotten. */
  removed: boolean;
  /** The launch that is on the device, if any; another one is configured when it differs from `spec.revision`. */
  loadedRevision: string | null;
  /** Waiting requests by tenant, in the order of arrival (a preempted one comes first). */
  readonly queues: Map<TenantId, RequestId[]>;
  waiting: number;
  /** Of those at the head of a line: the earliest due time and the earliest arrival; null with nobody waiting. */
  dueAt: Micros | null;
  waitingSince: Micros | null;
  /** Requests that its engine has. */
  readonly active: Set<RequestId>;
  /** Of these, the ones that are embedded. */
  embedding: number;
  slice: Slice | null;
  lastSliceEndedAt: Micros;
  /** A slice came back without a step though requests run: no new one before this time, so that no loop can spin on it. */
  quietUntil: Micros;
  residentSince: Micros;
  /** When it was last taken off the device: those who waited meanwhile come before it, however old its own line is. */
  leftAt: Micros;
  lastUsedAt: Micros;
  lastArrivedAt: Micros | null;
  /** Learned mean time between arrivals, null until there were two. */
  gapMicros: Micros | null;
  /** Since when it makes room for another model; null: it need not. */
  drainingSince: Micros | null;
  /** An operator wants it off (or, with `true` in `loadAsked`, on) the device. */
  stopAsked: boolean;
  loadAsked: boolean;
  keepAliveMicros: Micros | null;
  failure: Failure | null;
  readonly costs: CostState;
}

export interface Request {
  readonly id: RequestId;
  readonly tenantId: TenantId;
  readonly modelId: ModelId;
  readonly kind: 'generate' | 'embed';
  readonly priority: 'interactive' | 'batch';
  readonly arrivedAt: Micros;
  /** When its first token is due; orders work, refuses nothing. */
  readonly dueAt: Micros;
  /** Since when it waits: its arrival, or when it was preempted. */
  queuedAt: Micros;
  readonly interTokenGoalMicros: Micros;
  readonly promptTokens: number;
  readonly maxTokens: number;
  readonly keepAliveMicros: Micros | null;
  phase: 'waiting' | 'running' | 'preempting';
  firstTokenAt: Micros | null;
  outputTokens: number;
  /** How often in a row it was taken off the device without having got a token there. */
  fruitless: number;
  /** Which of the tenant's own users it is for; '': it does not say. */
  readonly share: string;
  /** Charged to its tenant so far; settled when it finishes. */
  chargedTokens: number;
}

export interface Tenant {
  readonly id: TenantId;
  weight: number;
  /** Virtual token counter (VTC): weighted service received, in tokens × 1000. */
  counter: number;
  /** Requests in the node. */
  requests: number;
  /** Its own users, by whatever it calls them, while it has requests: they share what it gets, and nobody else's. */
  readonly shares: Map<string, { counter: number; requests: number }>;
}

export interface State {
  now: Micros;
  nextId: ActionId;
  device: DeviceSpec;
  limits: Limits;
  residency: ResidencySpec;
  stopping: boolean;
  readonly models: Map<ModelId, Model>;
  readonly requests: Map<RequestId, Request>;
  /** All that wait, the longest first. */
  readonly waiting: Set<Request>;
  readonly tenants: Map<TenantId, Tenant>;
  /** How long a step may be as far as newcomers are concerned: a part of the tightest goal for a first token of all models. */
  patientStepMicros: Micros;
  /** Those that have requests in the node. */
  readonly busyTenants: Set<Tenant>;
  /** The counter of the tenant that was last to leave the node: where the next one starts if it is empty. */
  lastCounter: number;
  /** What the device made of late: weighted tokens, and the time of lanes that this took. */
  readonly worth: { tokens: number; laneMicros: Micros };
  /** Bytes held by each model that holds any. */
  readonly held: Map<ModelId, Bytes>;
  heldBytes: Bytes;
  /** Most lanes that may be granted now: the device's, or more for a moment after it was configured to fewer. */
  laneCeiling: number;
  /** Indices, so that an event costs the same with ten models as with ten thousand. */
  readonly present: Set<Model>;
  readonly pinned: Set<Model>;
  readonly wanted: Set<Model>;
  readonly busy: Set<Model>;
  readonly sliced: Set<Model>;
  readonly loading: Set<Model>;
  /** Something changed that residency must look at. */
  residencyDirty: boolean;
  /** How urgent the model is that is out of patience and can't have room yet: nothing less urgent can have any either. */
  blockedAt: Micros | null;
  /** When residency must look again though nothing happened: a keep-alive, a patience, a back-off runs out. */
  residencyWakeAt: Micros | null;
  /** Models with waiting requests that might be started now. */
  readonly startable: Set<Model>;
  /** The earliest moment at which time alone changes a decision. */
  wakeAt: Micros | null;
  /** The earliest moment at which a waiting request may have to be refused; null: none waits. */
  nextRefusalAt: Micros | null;
  /** Counters of outcomes: each request ends in exactly one. */
  readonly outcomes: { arrived: number; finished: number; failed: number; refused: number; cancelled: number };
  readonly actions: Action[];
}

export function createState(): State {
  return {
    now: 0,
    nextId: 1,
    device: { memoryBytes: 0, lanes: 1, overheadBytes: 0 },
    limits: { queuePerModel: 512, requests: 10_000, queueTimeoutMicros: 300_000_000 },
    residency: {
      minimumStayMicros: 1_000_000,
      patienceMicros: 2_000_000,
      drainMicros: 2_000_000,
      keepAliveMicros: 300_000_000,
      sleepForMicros: 3_600_000_000,
    },
    stopping: false,
    models: new Map(),
    requests: new Map(),
    waiting: new Set(),
    tenants: new Map(),
    patientStepMicros: 0,
    busyTenants: new Set(),
    lastCounter: 0,
    // Until something was computed: a small model's tokens on one core.
    worth: { tokens: 200, laneMicros: 1_000_000 },
    held: new Map(),
    heldBytes: 0,
    laneCeiling: 1,
    present: new Set(),
    pinned: new Set(),
    wanted: new Set(),
    busy: new Set(),
    sliced: new Set(),
    loading: new Set(),
    residencyDirty: false,
    blockedAt: null,
    residencyWakeAt: null,
    startable: new Set(),
    wakeAt: null,
    nextRefusalAt: null,
    outcomes: { arrived: 0, finished: 0, failed: 0, refused: 0, cancelled: 0 },
    actions: [],
  };
}

export function createModel(spec: ModelSpec): Model {
  return {
    id: spec.modelId,
    spec,
    phase: 'cold',
    transition: null,
    removed: false,
    loadedRevision: null,
    queues: new Map(),
    waiting: 0,
    dueAt: null,
    waitingSince: null,
    active: new Set(),
    embedding: 0,
    slice: null,
    lastSliceEndedAt: 0,
    quietUntil: 0,
    residentSince: 0,
    leftAt: 0,
    lastUsedAt: 0,
    lastArrivedAt: null,
    gapMicros: null,
    drainingSince: null,
    stopAsked: false,
    loadAsked: false,
    keepAliveMicros: null,
    failure: null,
    costs: createCosts(spec),
  };
}

type ActionBody = Action extends infer A ? (A extends Action ? Omit<A, 'id' | 'because'> : never) : never;

/** Decides: the action joins this call's list, with the next id. */
export function act(state: State, body: ActionBody, because: Because): ActionId {
  const id = state.nextId++;
  state.actions.push({ ...body, id, because });
  return id;
}

/** Time alone will change something at `at`: ask to be woken then. */
export function wakeBy(state: State, at: Micros): void {
  if (state.wakeAt === null || at < state.wakeAt) state.wakeAt = at;
}

/** Residency must look again at `at`, even if nothing happens. */
export function lookAgainAt(state: State, at: Micros): void {
  if (state.residencyWakeAt === null || at < state.residencyWakeAt) state.residencyWakeAt = at;
}

export function mustGet<K, V>(map: ReadonlyMap<K, V>, key: K): V {
  const value = map.get(key);
  if (value === undefined) throw new Error(`broken invariant: ${String(key)} is unknown`);
  return value;
}
