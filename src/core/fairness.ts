/**
 * Which tenant is served next? The virtual token counter (VTC; Sheng et al., OSDI'24): each tenant's counter grows by the
 * service it receives, divided by its weight; the least counter is served next. A tenant that comes back after having had
 * nothing in the node is lifted to the least counter of those that have, or, in an empty node, to that of the last to leave:
 * idling earns no credit.
 */
import type { Micros, TenantId } from './ids.ts';
import { SECOND } from './ids.ts';
import type { State, Tenant } from './state.ts';

/** An output token costs twice an input token, as in the paper. Counters are in thousandths of a token. */
export const OUTPUT_WEIGHT = 2;
const SCALE = 1000;
const WORTH_OVER_MICROS = 20 * SECOND;

export function tenantOf(state: State, id: TenantId): Tenant {
  let tenant = state.tenants.get(id);
  if (tenant === undefined) {
    tenant = { id, weight: 1, counter: 0, requests: 0, shares: new Map() };
    state.tenants.set(id, tenant);
  }
  return tenant;
}

/** So many users of one tenant are told apart at a time; of more, those without a request are forgotten. */
const MOST_SHARES = 1_000;

/** The least counter of those that have requests; null: none has. */
function leastBusy(all: Iterable<Pick<Tenant, 'counter' | 'requests'>>): number | null {
  let least: number | null = null;
  for (const { counter, requests } of all) if (requests > 0) least = Math.min(least ?? counter, counter);
  return least;
}

/** A request of the tenant came in: lift the counter of one that had none, and likewise of its user's share in it. */
export function enter(state: State, tenant: Tenant, name = ''): void {
  if (tenant.requests === 0) {
    tenant.counter = Math.max(tenant.counter, leastBusy(state.busyTenants) ?? state.lastCounter);
    state.busyTenants.add(tenant);
  }
  tenant.requests++;
  const { shares } = tenant;
  const share = shares.get(name) ?? { counter: 0, requests: 0 };
  if (share.requests === 0) share.counter = Math.max(share.counter, leastBusy(shares.values()) ?? 0);
  if (shares.size >= MOST_SHARES) for (const [id, { requests }] of shares) if (requests === 0) shares.delete(id);
  share.requests++;
  shares.set(name, share);
}

export function leave(state: State, tenant: Tenant, name = ''): void {
  tenant.requests--;
  const share = tenant.shares.get(name);
  if (share !== undefined) share.requests--;
  if (tenant.requests > 0) return;
  tenant.shares.clear();
  state.lastCounter = tenant.counter;
  state.busyTenants.delete(tenant);
}

/** Service received (or, negative, given back when an estimate was too high). */
export function charge(tenant: Tenant, tokens: number, name?: string): void {
  tenant.counter += Math.round((tokens * SCALE) / tenant.weight);
  const share = name === undefined ? undefined : tenant.shares.get(name);
  if (share !== undefined) share.counter += Math.round(tokens * SCALE);
}

/** So many weighted tokens may one be ahead of another before the other goes first, whatever is due: less would be noise of single requests. */
const AHEAD_TOKENS = 512;

/** Is the first of these two counters so far ahead of the other? */
export const isAhead = (counter: number, other: number): boolean => counter - other > AHEAD_TOKENS * SCALE;

/** What the least served of these tenants has received; 0 for none. */
export function leastCounter(state: State, ids: Iterable<TenantId>): number {
  let least: number | null = null;
  for (const id of ids) least = Math.min(least ?? Infinity, tenantOf(state, id).counter);
  return least ?? 0;
}

/** What so much computing made; what is older than some ten to twenty seconds of it is forgotten. */
export function learnWorth({ worth }: State, tokens: number, laneMicros: Micros): void {
  worth.tokens += tokens;
  worth.laneMicros += laneMicros;
  if (worth.laneMicros < WORTH_OVER_MICROS) return;
  [worth.tokens, worth.laneMicros] = [Math.ceil(worth.tokens / 2), Math.ceil(worth.laneMicros / 2)];
}

/** A lane's time that a tenant's requests cost besides their tokens (a model that was switched in for them): as the tokens that the device makes in it. */
export function chargeMicros(state: State, id: TenantId, laneMicros: Micros): void {
  charge(tenantOf(state, id), (laneMicros * state.worth.tokens) / state.worth.laneMicros);
}

/** The tenant with the least counter; of equals the one with the fewest requests, then the first, so that replay is exact. */
export function leastServed(state: State, ids: Iterable<TenantId>): TenantId | null {
  let best: Tenant | null = null;
  for (const id of ids) {
    const tenant = tenantOf(state, id);
    if (best === null || (tenant.counter - best.counter || tenant.requests - best.requests) < 0) best = tenant;
  }
  return best?.id ?? null;
}
