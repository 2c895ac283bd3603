/** Bodies of the admin API about tenants and keys, checked. */
import { z } from 'zod';
import { BerthError } from '../../errors.ts';
import type { LimitSpec } from '../../limits/spec.ts';
import { BUDGET_WINDOWS, MOST_PER_MINUTE, NO_LIMITS } from '../../limits/spec.ts';

/** A tenant's id is a name in lists, headers, metrics and files: short and plain. */
export const TENANT_ID = /^[a-z0-9][a-z0-9_-]{0,62}$/;

const perMinute = z.int().min(1).max(MOST_PER_MINUTE).nullish();
const limitsSchema = z.strictObject({
  requestsPerMinute: perMinute,
  tokensPerMinute: perMinute,
  concurrency: z.int().min(1).max(1_000_000).nullish(),
  queue: z.int().min(0).max(1_000_000).nullish(),
  budget: z.strictObject({ tokens: z.int().min(0), window: z.enum(BUDGET_WINDOWS) }).nullish(),
});

type WrittenLimits = z.output<typeof limitsSchema>;

/** What isn't named isn't limited. */
export const asLimits = (written: WrittenLimits | null | undefined): LimitSpec => ({
  ...NO_LIMITS,
  ...Object.fromEntries(Object.entries(written ?? {}).map(([name, value]) => [name, value ?? null])),
});

/** Limits of a row. @throws BerthError store_unusable */
export function limitSpecOf(stored: unknown, whose: string): LimitSpec {
  const parsed = limitsSchema.safeParse(stored);
  if (parsed.success) return asLimits(parsed.data);
  throw new BerthError('store_unusable', `berth.db: the limits of ${whose} can’t be read`);
}

const name = z.string().trim().max(200);
const models = z.array(z.string().trim().min(1).max(200)).max(1_000).nullable();
const tenantFields = {
  name: name.optional(),
  weight: z.int().min(1).max(1_000).optional(),
  limits: limitsSchema.nullish(),
  models: models.optional(),
  isolation: z.enum(['strict', 'shared']).optional(),
  disabled: z.boolean().optional(),
};

const idText = 'must be a short name of lower-case letters, digits, - and _';
export const newTenantSchema = z.strictObject({
  id: z.string().refine((id) => TENANT_ID.test(id), idText),
  ...tenantFields,
});
export const tenantChangeSchema = z.strictObject(tenantFields);

export const newKeySchema = z.strictObject({
  tenant: z.string().min(1).max(64).optional(),
  name: name.optional(),
  models: models.optional(),
  limits: limitsSchema.nullish(),
  /** Seconds from now. */
  expiresInSeconds: z
    .int()
    .min(1)
    .max(10 * 366 * 86_400)
    .nullish(),
});
