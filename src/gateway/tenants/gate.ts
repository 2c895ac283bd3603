/**
 * Stands around `node.submit`: shows a caller its models only, holds it to its limits, and writes down what it used. Without tenants,
 * limits or a ledger it costs a few map lookups.
 */
import type { Micros, ModelId, TenantId } from '../../core/ids.ts';
import { MILLI } from '../../core/ids.ts';
import { BerthError, modelNotFound } from '../../errors.ts';
import { OutputForecast } from '../../limits/forecast.ts';
import type { Cost, LimitRefusal, MeterView } from '../../limits/meter.ts';
import { Meter } from '../../limits/meter.ts';
import { Reservation, reserve } from '../../limits/reservation.ts';
import type { LimitSpec } from '../../limits/spec.ts';
import { isUnlimited } from '../../limits/spec.ts';
import type { ModelView, NodeApi, Submission } from '../../runtime/api.ts';
import type { SpentQuery, UsageRow } from '../../store/usage.ts';
import type { Principal } from '../options.ts';
import { expectedPrompt } from './expected.ts';
import { rateHeaders } from './rate-headers.ts';
import { Ticket } from './ticket.ts';
import type { ModelPolicy } from './types.ts';

export interface GateOptions {
  readonly policy?: (model: ModelId) => ModelPolicy | undefined;
  /** Where a request's row goes; absent: nowhere. `then` is to be run when it is safe there. */
  readonly record?: (row: UsageRow, then: () => void) => void;
  /** What a budget's window has seen already; absent: nothing. */
  readonly spentTokens?: (query: SpentQuery) => number;
  /** The longest wait for a place among a caller's concurrent requests. */
  readonly holdMillis?: number;
  /** Unix micros. */
  readonly now?: () => Micros;
}

const HOLD_MILLIS = 300_000;

export class Gate {
  readonly #node: NodeApi;
  readonly #options: GateOptions;
  readonly #now: () => Micros;
  readonly #forecast = new OutputForecast();
  readonly #meters = new Map<string, Meter>();
  /** Tickets that wait for a place, the first come first; a tenant's meters are nobody else's. */
  readonly #held = new Map<TenantId, Set<Ticket>>();
  readonly #refusals = new Map<string, number>();
  /** Not over yet, by whose they are. */
  readonly #open = new Map<Ticket, Principal>();

  constructor(node: NodeApi, options: GateOptions = {}) {
    this.#node = node;
    this.#options = options;
    this.#now = options.now ?? (() => Date.now() * MILLI);
  }

  models({ tenantId, access }: Principal): readonly ModelView[] {
    const all = this.#node.models(tenantId);
    return access === undefined ? all : all.filter((view) => access.allows(view));
  }

  /** @throws BerthError model_not_found, in the same words whether it isn't there or isn't the caller's. */
  model({ tenantId, access }: Principal, name: string): ModelView {
    const view = this.#node.model(name, tenantId);
    if (access !== undefined && !access.allows(view)) throw modelNotFound(name);
    return view;
  }

  /**
   * One client request, whose submissions all ask for the same model, `perPrompt` of them for each prompt.
   * @param tell is given `x-ratelimit-…` headers, of a refusal too.
   * @throws BerthError model_not_found, rate_limited, budget_exhausted
   */
  admit(
    principal: Principal,
    submissions: readonly [Submission, ...Submission[]],
    perPrompt: number,
    tell: (headers: Readonly<Record<string, string>>) => void,
  ): Ticket {
    const [first] = submissions;
    const { id } = this.model(principal, first.model);
    const policy = this.#options.policy?.(id);
    const meters = this.#metersFor(principal, id, policy);
    const now = this.#now();
    let reservation: Reservation | null = null;
    if (meters.length > 0) {
      const got = reserve(meters, this.#expect(id, submissions, perPrompt), now);
      tell(rateHeaders(meters.map((meter) => meter.view(now))));
      if (!(got instanceof Reservation)) {
        this.#refusals.set(got.limit, (this.#refusals.get(got.limit) ?? 0) + 1);
        throw refusalOf(got);
      }
      reservation = got;
    }
    const { record } = this.#options;
    const ticket = new Ticket({
      node: this.#node,
      principal,
      modelId: id,
      price: policy?.price ?? null,
      overflow: policy?.overflow ?? null,
      perPrompt,
      total: submissions.length,
      reservation,
      now: this.#now,
      holdMillis: this.#options.holdMillis ?? HOLD_MILLIS,
      ended: (row, learned, then) => {
        if (learned !== null) this.#forecast.learn(id, learned);
        this.#open.delete(ticket);
        if (row !== null && record !== undefined) record(row, then);
        else then();
        this.#startHeld(principal.tenantId, ticket);
      },
    });
    this.#open.set(ticket, principal);
    if (reservation !== null) this.#startOrHold(principal.tenantId, ticket);
    return ticket;
  }

  /** Ends what runs and waits on a key that was revoked, or for a tenant that is gone. */
  end(whose: { readonly keyId: string } | { readonly tenantId: TenantId }): void {
    // The last come first: none that waits takes the place of one that ends.
    for (const [ticket, { keyId, tenantId }] of [...this.#open].toReversed()) {
      if ('keyId' in whose ? keyId !== whose.keyId : tenantId !== whose.tenantId) continue;
      ticket.fail(new BerthError('invalid_api_key', 'The API key was revoked while the request ran.'));
    }
  }

  /** How often each kind of limit has refused. */
  get refusals(): ReadonlyMap<string, number> {
    return this.#refusals;
  }

  /** The counters of a tenant, of a key, or of a tenant's use of a model; null: it has no limits. */
  view(scope: { readonly tenantId: TenantId; readonly keyId?: string; readonly limits: LimitSpec }): MeterView | null {
    const { tenantId, keyId, limits } = scope;
    const query = { tenantId, keyId: keyId ?? null, modelId: null };
    return this.#meter(keyId === undefined ? 'tenant' : 'key', limits, query)?.view(this.#now()) ?? null;
  }

  #metersFor({ tenantId, access }: Principal, model: ModelId, policy: ModelPolicy | undefined): Meter[] {
    const found: Meter[] = [];
    const add = (
      scope: 'tenant' | 'key' | 'model',
      limits: LimitSpec | undefined,
      query: Omit<SpentQuery, 'sinceDay'>,
    ): void => {
      const meter = limits === undefined ? null : this.#meter(scope, limits, query);
      if (meter !== null) found.push(meter);
    };
    add('tenant', access?.tenant.limits, { tenantId, keyId: null, modelId: null });
    if (access?.key) add('key', access.key.limits, { tenantId, keyId: access.key.id, modelId: null });
    add('model', policy?.limits, { tenantId, keyId: null, modelId: model });
    return found;
  }

  #meter(scope: 'tenant' | 'key' | 'model', limits: LimitSpec, query: Omit<SpentQuery, 'sinceDay'>): Meter | null {
    const name = `${scope} ${query.tenantId} ${query.keyId ?? query.modelId ?? ''}`;
    const known = this.#meters.get(name);
    if (known === undefined && isUnlimited(limits)) return null;
    const spentSince = (sinceDay: number): number => this.#options.spentTokens?.({ ...query, sinceDay }) ?? 0;
    if (known === undefined) {
      const meter = new Meter(scope, limits, this.#now(), spentSince);
      this.#meters.set(name, meter);
      return meter;
    }
    if (known.spec !== limits) known.reconfigure(limits, this.#now(), spentSince);
    return known;
  }

  #expect(model: ModelId, submissions: readonly Submission[], perPrompt: number): Cost {
    let promptTokens = 0;
    let outputTokens = 0;
    for (const [index, { request }] of submissions.entries()) {
      if (index % perPrompt === 0) promptTokens += expectedPrompt(request);
      if (request.kind === 'generate') outputTokens += this.#forecast.expect(model, request.maxTokens);
    }
    return { promptTokens, outputTokens };
  }

  #startOrHold(tenant: TenantId, ticket: Ticket): void {
    if (ticket.canStart()) return ticket.start();
    const held = this.#held.get(tenant) ?? new Set();
    held.add(ticket);
    this.#held.set(tenant, held);
    ticket.hold(held.size);
  }

  /** Somebody made room, or gave up waiting. */
  #startHeld(tenant: TenantId, ended: Ticket): void {
    const held = this.#held.get(tenant);
    if (held === undefined) return;
    held.delete(ended);
    for (const ticket of held) {
      if (!ticket.canStart()) continue;
      held.delete(ticket);
      ticket.start();
    }
    if (held.size === 0) this.#held.delete(tenant);
  }
}

const WHOSE: Readonly<Record<string, string>> = {
  tenant: 'The tenant',
  key: 'The key',
  model: 'The tenant, of this model,',
};

function refusalOf({ limit, scope, most, retryAfterMicros }: LimitRefusal): BerthError {
  const whose = WHOSE[scope] ?? scope;
  const detail = retryAfterMicros === null ? {} : { retryAfterMicros };
  if (limit === 'budget') {
    return new BerthError('budget_exhausted', `${whose} has spent its budget of ${most} tokens.`, detail);
  }
  if (limit === 'queue') {
    // When one of those that run will end is not known: a second is a polite guess.
    const text = `${whose} has as many requests running as it may, and ${most} waiting.`;
    return new BerthError('rate_limited', text, { retryAfterMicros: 1_000_000 });
  }
  return new BerthError('rate_limited', `${whose} may use ${most} ${limit} a minute.`, detail);
}
