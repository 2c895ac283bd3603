/**
 * Which tenant is served next? The virtual token counter (VTC; Sheng et al., OSDI'24): each tenant's counter grows by the
 * service it receives, divided by its weight; the least counter is served next. A tenant that comes back after having had
 * nothing in the node is lifted to the least counter of those that have, or, in an empty node, to that of the last to leave:
 * idling earns no credit.
 */
import type { TenantId } from './ids.ts';
import type { State, Tenant } from './state.ts';

/** An output token costs twice an input token, as in the paper. Counters are in thousandths of a token. */
export const OUTPUT_WEIGHT = 2;
const SCALE = 1000;

export function tenantOf(state: State, id: TenantId): Tenant {
  let tenant = state.tenants.get(id);
  if (tenant === undefined) {
    tenant = { id, weight: 1, counter: 0, requests: 0 };
    state.tenants.set(id, tenant);
  }
  return tenant;
}

/** A request of the tenant came in: lift the counter of one that had none. */
export function enter(state: State, tenant: Tenant): void {
  if (tenant.requests === 0) {
    let least: number | null = null;
    for (const other of state.tenants.values()) {
      if (other.requests > 0 && (least === null || other.counter < least)) least = other.counter;
    }
    tenant.counter = Math.max(tenant.counter, least ?? state.lastCounter);
  }
  tenant.requests++;
}

export function leave(state: State, tenant: Tenant): void {
  tenant.requests--;
  if (tenant.requests === 0) state.lastCounter = tenant.counter;
}

/** Service received (or, negative, given back when an estimate was too high). */
export function charge(tenant: Tenant, tokens: number): void {
  tenant.counter += Math.round((tokens * SCALE) / tenant.weight);
}

/** The tenant with the least counter; the first of equals, so that replay is exact. */
export function leastServed(state: State, ids: Iterable<TenantId>): TenantId | null {
  let best: Tenant | null = null;
  for (const id of ids) {
    const tenant = tenantOf(state, id);
    if (best === null || tenant.counter < best.counter) best = tenant;
  }
  return best?.id ?? null;
}
