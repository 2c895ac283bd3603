/** `berth tenants`: who shares the node, and what each may use. */
import type { MeterView, NewTenantRequest, TenantResponse, TenantsResponse } from '../../gateway/admin-types.ts';
import { adminClient } from '../client.ts';
import type { NodeOptions } from '../client.ts';
import type { Io } from '../io.ts';
import { limitsFrom, limitsText, patternsFrom } from '../limit-flags.ts';
import type { LimitFlags } from '../limit-flags.ts';
import { humanSpan, json, table } from '../output.ts';
import { keyState } from './keys.ts';

export interface TenantOptions extends NodeOptions, LimitFlags {
  readonly name?: string;
  readonly weight?: string;
  readonly models?: string;
  readonly isolation?: 'strict' | 'shared';
  readonly disable?: boolean;
  readonly enable?: boolean;
  readonly quiet?: boolean;
}

const PATH = '/api/admin/tenants';
const pathOf = (id: string): string => `${PATH}/${encodeURIComponent(id)}`;

export async function list(io: Io, options: TenantOptions): Promise<void> {
  const { tenants, keyed } = (await adminClient(options, io.env).json(PATH)) as TenantsResponse;
  if (options.json === true) return io.out(json(tenants));
  if (options.quiet === true) return io.out(tenants.map(({ id }) => `${id}\n`).join(''));
  const rows = tenants.map(({ id, name, weight, keys, limits, models, source, disabled }) => [
    id,
    name,
    String(weight),
    String(keys),
    limitsText(limits),
    models === null ? 'all' : models.join(', '),
    `${source === 'file' ? 'berth.yaml' : 'berth.db'}${disabled ? ', disabled' : ''}`,
  ]);
  const headers = ['TENANT', 'NAME', 'WEIGHT', 'KEYS', 'LIMITS', 'MODELS', 'KEPT IN'];
  io.out(table({ headers, rows, styled: io.stdoutIsTty, right: ['WEIGHT', 'KEYS'] }));
  if (!keyed) io.err('No key is needed yet: everybody who reaches the port is the tenant default.\n');
}

export async function add(io: Io, id: string, options: TenantOptions): Promise<void> {
  const client = adminClient(options, io.env);
  const before = (await client.json(PATH)) as TenantsResponse;
  const body: NewTenantRequest = { id, ...fieldsOf(options), limits: limitsFrom(options) };
  const answer = (await client.json(PATH, { body })) as TenantResponse;
  if (options.json === true) return io.out(json(answer.tenant));
  io.out(`The tenant ${id} is there. Give it a key: berth keys create --tenant ${id}\n`);
  if (!before.keyed) {
    io.err('From now on every request needs a key. Callers that have none: berth keys create --tenant default\n');
  }
}

export async function set(io: Io, id: string, options: TenantOptions): Promise<void> {
  const client = adminClient(options, io.env);
  const { tenant } = (await client.json(pathOf(id))) as TenantResponse;
  const limits = { ...tenant.limits, ...limitsFrom(options) };
  const answer = (await client.json(pathOf(id), { body: { ...fieldsOf(options), limits } })) as TenantResponse;
  if (options.json === true) return io.out(json(answer.tenant));
  io.out(`${id}: weight ${answer.tenant.weight}, limits ${limitsText(answer.tenant.limits)}\n`);
}

function fieldsOf({ name, weight, models, isolation, disable, enable }: TenantOptions): Omit<NewTenantRequest, 'id'> {
  return {
    ...(name === undefined ? {} : { name }),
    ...(weight === undefined ? {} : { weight: Number(weight) }),
    ...(models === undefined ? {} : { models: patternsFrom(models) }),
    ...(isolation === undefined ? {} : { isolation }),
    ...(disable === true ? { disabled: true } : {}),
    ...(enable === true ? { disabled: false } : {}),
  };
}

export async function show(io: Io, id: string, options: TenantOptions): Promise<void> {
  const answer = (await adminClient(options, io.env).json(pathOf(id))) as TenantResponse;
  if (options.json === true) return io.out(json(answer));
  const { tenant, keys, meter } = answer;
  const now = Date.now();
  const facts: readonly (readonly [string, string])[] = [
    [
      'Tenant',
      `${tenant.id}${tenant.name === tenant.id ? '' : ` (${tenant.name})`}${tenant.disabled ? ', disabled' : ''}`,
    ],
    ['Kept in', tenant.source === 'file' ? 'berth.yaml' : 'berth.db'],
    ['Weight', String(tenant.weight)],
    ['Isolation', tenant.isolation],
    ['Models', tenant.models === null ? 'all that are not private to others' : tenant.models.join(', ')],
    ['Limits', limitsText(tenant.limits)],
    ...meterFacts(meter, now),
    ['Keys', keys.length === 0 ? 'none' : keys.map((key) => `${key.id} (${keyState(key, now)})`).join(', ')],
  ];
  io.out(facts.map(([label, value]) => `${label.padEnd(10)}  ${value}\n`).join(''));
}

function meterFacts(meter: MeterView | null, now: number): [string, string][] {
  if (meter === null) return [];
  const { requests, tokens, budget, concurrency } = meter;
  const facts: [string, string][] = [['Now', `${concurrency.running} running, ${concurrency.waiting} waiting`]];
  const left = [
    ...(requests === null ? [] : [`${requests.remaining} of ${requests.limit} requests`]),
    ...(tokens === null ? [] : [`${tokens.remaining} of ${tokens.limit} tokens`]),
  ];
  if (left.length > 0) facts.push(['Minute', `${left.join(' and ')} left`]);
  if (budget !== null) {
    const ends = budget.endsAt === null ? '' : `, anew in ${humanSpan(Math.max(0, budget.endsAt - now * 1_000))}`;
    facts.push(['Budget', `${budget.spent} of ${budget.limit} tokens spent, ${budget.held} promised${ends}`]);
  }
  return facts;
}

export async function rm(io: Io, ids: readonly string[], options: TenantOptions): Promise<void> {
  for (const id of ids) {
    await adminClient(options, io.env).json(pathOf(id), { method: 'DELETE' });
    if (options.json !== true) io.out(`${id} is removed, and its keys are revoked. Its usage stays in the ledger.\n`);
  }
  if (options.json === true) io.out(json({ removed: ids }));
}
