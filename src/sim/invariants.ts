/**
 * What must add up after every event: bytes, lanes, places, lines and outcomes. Checked in all tests of the core, and in the
 * simulator. A breach is a bug of ours: it throws, and the message prints every term.
 */
import { freeBytes } from '../core/memory.ts';
import { grantedLanes } from '../core/slices.ts';
import type { Model, Request, State } from '../core/state.ts';

/** Throws at the first breach. Costs time in the number of models and requests. */
export function checkInvariants(state: State): void {
  checkBytes(state);
  checkLanes(state);
  for (const model of state.models.values()) checkModel(state, model);
  checkIndices(state);
  checkPlaces(state);
  checkOrder(state);
  checkTenants(state);
  checkOutcomes(state);
}

type Terms = Readonly<Record<string, string | number | boolean | null>>;

function must(holds: boolean, what: string, terms: Terms): void {
  if (holds) return;
  const printed = Object.entries(terms).map(([name, value]) => `${name} ${String(value)}`);
  throw new Error(`broken invariant: ${what} (${printed.join(', ')})`);
}

function isQuantity(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}

function checkBytes(state: State): void {
  const { memoryBytes, overheadBytes } = state.device;
  let held = 0;
  for (const [id, bytes] of state.held) {
    const phase = state.models.get(id)?.phase ?? 'unknown';
    must(isQuantity(bytes) && bytes > 0, 'bytes held are positive', { model: id, bytes });
    must(phase !== 'cold' && phase !== 'unknown', 'only models on the device hold bytes', { model: id, phase, bytes });
    held += bytes;
  }
  must(held === state.heldBytes, 'the sum of what is held is what is booked', { held, booked: state.heldBytes });
  const free = freeBytes(state);
  const terms = { free, overhead: overheadBytes, held, budget: memoryBytes };
  must(free + overheadBytes + held === memoryBytes, 'free + overhead + held = budget', terms);
}

function checkLanes(state: State): void {
  const granted = grantedLanes(state);
  const ceiling = Math.max(state.laneCeiling, state.device.lanes);
  must(granted <= ceiling, 'lanes granted ≤ lanes', { granted, lanes: state.device.lanes, ceiling });
  for (const model of state.models.values()) {
    const { slice } = model;
    if (slice === null) continue;
    must(slice.lanes > 0, 'a slice has a lane', { model: model.id, slice: slice.id, lanes: slice.lanes });
    must(
      model.phase !== 'cold' && model.phase !== 'loading' && model.phase !== 'asleep',
      'a slice is of a loaded model',
      {
        model: model.id,
        phase: model.phase,
        slice: slice.id,
      },
    );
  }
}

function isWithinBatch({ active, embedding, spec }: Model): boolean {
  return active.size - embedding <= spec.parallel && embedding <= spec.embedParallel;
}

function checkModel(state: State, model: Model): void {
  const { id, phase, transition } = model;
  const isMoving = phase === 'loading' || phase === 'parking' || phase === 'unloading';
  must(isMoving === (transition !== null), 'one transition under way where there is one', {
    model: id,
    phase,
    transition,
  });
  must(!(model.removed && phase === 'cold'), 'a removed model that is cold is forgotten', { model: id });
  must(!(model.removed && model.waiting > 0), 'nobody waits for a removed model', {
    model: id,
    waiting: model.waiting,
  });
  const active = model.active.size;
  must(active === 0 || phase === 'resident' || phase === 'unloading', 'only models on the device compute', {
    model: id,
    phase,
    active,
  });
  must(
    isWithinBatch(model) || model.removed || model.loadedRevision !== model.spec.revision,
    'active ≤ parallel, embedding ≤ embedParallel',
    {
      model: id,
      active,
      embedding: model.embedding,
      parallel: model.spec.parallel,
      embedParallel: model.spec.embedParallel,
    },
  );
  let embedding = 0;
  for (const request of model.active) if (state.requests.get(request)?.kind === 'embed') embedding++;
  must(embedding === model.embedding, 'embeddings are counted', { model: id, embedding, counted: model.embedding });
  let waiting = 0;
  for (const [tenant, line] of model.queues) {
    must(line.length > 0, 'no empty line is kept', { model: id, tenant });
    waiting += line.length;
  }
  must(waiting === model.waiting, 'the lines add up', { model: id, inLines: waiting, counted: model.waiting });
  const isOnDevice = phase !== 'cold';
  must(isOnDevice === state.held.has(id), 'a model on the device holds bytes', {
    model: id,
    phase,
    held: state.held.get(id) ?? 0,
  });
}

const INDICES: Readonly<
  Record<'present' | 'pinned' | 'wanted' | 'busy' | 'sliced' | 'loading' | 'startable', (model: Model) => boolean>
> = {
  present: (model) => model.phase !== 'cold',
  pinned: (model) => model.spec.pinned && !model.removed,
  wanted: (model) => model.phase !== 'resident' && (model.waiting > 0 || model.loadAsked),
  busy: (model) => model.phase === 'resident' && model.active.size > 0 && model.spec.isElsewhere !== true,
  sliced: (model) => model.slice !== null,
  loading: (model) => model.phase === 'loading',
  startable: (model) => model.phase === 'resident' && model.waiting > 0,
};

function checkIndices(state: State): void {
  for (const [name, belongs] of Object.entries(INDICES) as [keyof typeof INDICES, (model: Model) => boolean][]) {
    let members = 0;
    for (const model of state.models.values()) {
      if (belongs(model)) members++;
      must(state[name].has(model) === belongs(model), `the index "${name}" is true to its definition`, {
        model: model.id,
        phase: model.phase,
        waiting: model.waiting,
        active: model.active.size,
        listed: state[name].has(model),
      });
    }
    must(state[name].size === members, `the index "${name}" knows no strangers`, { listed: state[name].size, members });
  }
}

/** Who has waited longest is first, so that a timeout looks at the first only. */
function checkOrder(state: State): void {
  let before = 0;
  let waiting = 0;
  for (const model of state.models.values()) waiting += model.waiting;
  must(waiting === state.waiting.size, 'all that wait are listed', { waiting, listed: state.waiting.size });
  for (const { id, queuedAt, phase } of state.waiting) {
    must(phase === 'waiting' && queuedAt >= before, 'who has waited longest is first', {
      request: id,
      queuedAt,
      before,
    });
    before = queuedAt;
  }
  must(waiting === 0 || state.nextRefusalAt !== null, 'who waits has a deadline', { waiting });
}

/** Each request is in exactly one place: in a line, or on an engine. */
function checkPlaces(state: State): void {
  let placed = 0;
  for (const model of state.models.values()) {
    for (const [tenant, line] of model.queues) {
      for (const id of line) {
        const request = state.requests.get(id);
        must(
          request?.phase === 'waiting' && request.modelId === model.id && request.tenantId === tenant,
          'who is in a line waits there',
          {
            request: id,
            model: model.id,
            tenant,
            phase: request?.phase ?? 'unknown',
          },
        );
        placed++;
      }
    }
    for (const id of model.active) {
      const request = state.requests.get(id);
      must(
        request !== undefined && request.phase !== 'waiting' && request.modelId === model.id,
        'who is active is known',
        {
          request: id,
          model: model.id,
          phase: request?.phase ?? 'unknown',
        },
      );
      placed++;
    }
  }
  must(placed === state.requests.size, 'each request is in exactly one place', {
    placed,
    requests: state.requests.size,
  });
}

function checkTenants(state: State): void {
  const requests = new Map<Request['tenantId'], number>();
  for (const { tenantId } of state.requests.values()) requests.set(tenantId, (requests.get(tenantId) ?? 0) + 1);
  for (const tenant of state.tenants.values()) {
    const counted = requests.get(tenant.id) ?? 0;
    must(state.busyTenants.has(tenant) === counted > 0, 'a tenant is busy while it has requests', {
      tenant: tenant.id,
    });
    must(tenant.requests === counted, 'requests of a tenant', { tenant: tenant.id, counted, booked: tenant.requests });
    must(Number.isSafeInteger(tenant.counter), 'a counter is an integer', {
      tenant: tenant.id,
      counter: tenant.counter,
    });
  }
}

function checkOutcomes(state: State): void {
  const { arrived, finished, failed, refused, cancelled } = state.outcomes;
  const inNode = state.requests.size;
  must(
    arrived === finished + failed + refused + cancelled + inNode,
    'arrived = finished + failed + refused + cancelled + in the node',
    { arrived, finished, failed, refused, cancelled, inNode },
  );
  for (const [name, count] of Object.entries(state.outcomes))
    must(isQuantity(count), 'outcomes count up', { [name]: count });
}
