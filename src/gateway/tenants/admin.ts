/** The admin API of tenants, keys and usage. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { TenantId } from '../../core/ids.ts';
import { DEFAULT_TENANT, tenantId } from '../../core/ids.ts';
import { BerthError } from '../../errors.ts';
import type { UsageGroup, UsageQuery, UsageSum } from '../../store/usage.ts';
import type {
  KeyResponse,
  KeysResponse,
  NewKeyResponse,
  TenantResponse,
  TenantsResponse,
  UsageResponse,
} from '../admin-types.ts';
import { route } from '../http.ts';
import { parse } from '../openai/errors.ts';
import type { TenantDirectory } from './directory.ts';
import type { Gate } from './gate.ts';
import { asLimits, newKeySchema, newTenantSchema, tenantChangeSchema } from './schema.ts';
import { usageCsv } from './usage-csv.ts';

export interface TenantAdmin {
  readonly directory: TenantDirectory;
  readonly gate: Gate;
  /** What was used, up to this moment. */
  readonly usage: (query: UsageQuery) => UsageSum[];
  /** Weights may have changed. */
  readonly changed: () => void;
  /** What the node keeps of the tenant (its KV) is not wanted any more. */
  readonly removed: (tenantId: TenantId) => void;
}

type Query = Readonly<Record<string, unknown>>;

const idOf = (request: FastifyRequest): string => (request.params as { id: string }).id;
const textOf = (query: Query, name: string): string | null => {
  const value = query[name];
  return typeof value === 'string' && value !== '' ? value : null;
};

/** Absent fields stay absent, so that a change leaves them as they are. */
function changeOf(body: ReturnType<typeof tenantChangeSchema.parse>) {
  const { limits, ...rest } = body;
  const given = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined)) as {
    [Name in keyof typeof rest]?: Exclude<(typeof rest)[Name], undefined>;
  };
  return limits === undefined ? given : { ...given, limits: asLimits(limits) };
}

const GROUPS: readonly string[] = ['tenant', 'key', 'model', 'day', 'kind'] satisfies UsageGroup[];

/** `2026-01-31`, a whole ISO time, or Unix seconds. */
function timeOf(query: Query, name: string): number | null {
  const text = textOf(query, name);
  if (text === null) return null;
  const at = /^\d{1,11}$/.test(text) ? Number(text) * 1_000 : Date.parse(text);
  if (Number.isSafeInteger(at)) return at;
  throw new BerthError(
    'invalid_request',
    `\`${name}\` must be a day such as 2026-01-31, an ISO time or Unix seconds.`,
    {
      param: name,
    },
  );
}

function usageQuery(query: Query): UsageQuery {
  const by = (textOf(query, 'by') ?? '').split(',').filter((group) => group !== '');
  if (!by.every((group): group is UsageGroup => GROUPS.includes(group))) {
    throw new BerthError('invalid_request', `\`by\` takes ${GROUPS.join(', ')}.`, { param: 'by' });
  }
  const tenant = textOf(query, 'tenant');
  return {
    by,
    since: timeOf(query, 'since'),
    until: timeOf(query, 'until'),
    tenantId: tenant === null ? null : tenantId(tenant),
  };
}

export function addTenantRoutes(app: FastifyInstance, { directory, gate, usage, changed, removed }: TenantAdmin): void {
  const whole = (id: string): TenantResponse => {
    const tenant = directory.tenant(id);
    const meter = gate.view({ tenantId: tenant.id, limits: tenant.limits });
    return { tenant, keys: directory.keys(tenant.id), meter };
  };

  route(app, '/api/admin/tenants', {
    GET: (): TenantsResponse => {
      const counts = new Map<TenantId, number>();
      for (const { tenantId: id, revokedAt } of directory.keys()) {
        if (revokedAt === null) counts.set(id, (counts.get(id) ?? 0) + 1);
      }
      const tenants = directory.tenants().map((tenant) => ({ ...tenant, keys: counts.get(tenant.id) ?? 0 }));
      return { tenants, keyed: !directory.isOpen };
    },
    POST: (request): TenantResponse => {
      const { id, ...body } = parse(newTenantSchema, request.body);
      directory.addTenant({
        id: tenantId(id),
        name: id,
        weight: 1,
        models: null,
        isolation: 'strict',
        disabled: false,
        limits: asLimits(null),
        ...changeOf(body),
      });
      changed();
      return whole(id);
    },
  });
  route(app, '/api/admin/tenants/:id', {
    GET: (request) => whole(idOf(request)),
    POST: (request) => {
      directory.changeTenant(idOf(request), changeOf(parse(tenantChangeSchema, request.body)));
      changed();
      return whole(idOf(request));
    },
    DELETE: (request) => {
      const tenant = directory.removeTenant(idOf(request));
      gate.end({ tenantId: tenant.id });
      removed(tenant.id);
      changed();
      return { success: true, id: tenant.id };
    },
  });

  route(app, '/api/admin/keys', {
    GET: (request): KeysResponse => {
      const tenant = textOf(request.query as Query, 'tenant');
      return { keys: directory.keys(tenant === null ? null : tenantId(tenant)) };
    },
    POST: (request): NewKeyResponse => {
      const body = parse(newKeySchema, request.body ?? {});
      return directory.createKey({
        tenantId: tenantId(body.tenant ?? DEFAULT_TENANT),
        name: body.name ?? '',
        models: body.models ?? null,
        limits: asLimits(body.limits),
        expiresAt: body.expiresInSeconds ? Date.now() + body.expiresInSeconds * 1_000 : null,
      });
    },
  });
  const revoke = (request: FastifyRequest): KeyResponse => {
    const key = directory.revokeKey(idOf(request));
    gate.end({ keyId: key.id });
    return { key };
  };
  route(app, '/api/admin/keys/:id', { DELETE: revoke });
  route(app, '/api/admin/keys/:id/revoke', { POST: revoke });
  route(app, '/api/admin/keys/:id/rotate', {
    POST: (request): NewKeyResponse => directory.rotateKey(idOf(request)),
  });

  route(app, '/api/admin/usage', {
    GET: (request: FastifyRequest, reply: FastifyReply): UsageResponse | string => {
      const query = request.query as Query;
      const wanted = usageQuery(query);
      const sums = usage(wanted);
      if (textOf(query, 'format') !== 'csv') return { by: wanted.by, usage: sums };
      void reply.type('text/csv; charset=utf-8');
      return usageCsv(wanted.by, sums);
    },
  });
}
