/** What berth.yaml may say of tenants, their limits and prices. */
import type { TenantId } from '../core/ids.ts';
import { DEFAULT_TENANT, tenantId } from '../core/ids.ts';
import { choice, text, texts, whole, yesNo } from './kinds.ts';
import type { Kind } from './kinds.ts';

/** null: no limit. */
export interface LimitsConfig {
  readonly requestsPerMinute: number | null;
  readonly tokensPerMinute: number | null;
  readonly concurrency: number | null;
  readonly queue: number | null;
  readonly budget: BudgetConfig | null;
}

export interface BudgetConfig {
  readonly tokens: number;
  readonly window: 'day' | 'month' | 'total';
}

/** Per million tokens, in whatever currency. */
export interface PriceConfig {
  readonly input: number;
  readonly cached: number;
  readonly output: number;
}

export interface TenantConfig {
  readonly id: TenantId;
  readonly name: string;
  readonly weight: number;
  readonly limits: LimitsConfig;
  /** null: all that are not private to others. */
  readonly models: readonly string[] | null;
  readonly isolation: 'strict' | 'shared';
  readonly disabled: boolean;
}

export const UNLIMITED: LimitsConfig = {
  requestsPerMinute: null,
  tokensPerMinute: null,
  concurrency: null,
  queue: null,
  budget: null,
};

/** As the admin API has it too. */
export const TENANT_ID = /^[a-z0-9][a-z0-9_-]{0,62}$/;
export const TENANT_ID_EXPECTED = 'a short name of lower-case letters, digits, - and _';

const COUNT_UNITS: Readonly<Record<string, number>> = { '': 1, k: 1e3, m: 1e6, g: 1e9, b: 1e9 };
const COUNT = /^\s*(\d+(?:\.\d+)?)\s*([kmgb]?)\s*$/i;

/** “500K”, “1.5M”, or a whole number. undefined: none of these. */
export function parseCount(value: unknown): number | undefined {
  if (typeof value === 'number') return Number.isSafeInteger(value) && value >= 0 ? value : undefined;
  const [, amount, unit] = (typeof value === 'string' && COUNT.exec(value)) || [];
  const count = Math.round(Number(amount) * (COUNT_UNITS[unit?.toLowerCase() ?? '?'] ?? Number.NaN));
  return Number.isSafeInteger(count) ? count : undefined;
}

/** “5M/month”. undefined: it isn't one. */
export function parseBudget(value: unknown): BudgetConfig | undefined {
  const [, count, window] = (typeof value === 'string' && /^(.*)\/\s*(day|month|total)\s*$/i.exec(value)) || [];
  const tokens = parseCount(count);
  return tokens === undefined ? undefined : { tokens, window: window?.toLowerCase() as BudgetConfig['window'] };
}

export const showBudget = ({ tokens, window }: BudgetConfig): string => `${tokens}/${window}`;

const budget: Kind<BudgetConfig> = {
  expected: 'a number of tokens and a window, such as 500K/day, 5M/month or 1M/total',
  read: parseBudget,
  show: showBudget,
};

/** A count with a unit: “60”, “10K”. */
const count = (least: number, most: number): Kind<number> => ({
  expected: `a whole number from ${least} to ${most}`,
  read: (value) => {
    const read = parseCount(value);
    return read === undefined || read < least || read > most ? undefined : read;
  },
  show: String,
});

/** A mapping whose fields have kinds of their own. */
export function mapping<Value extends object>(
  expected: string,
  fields: { readonly [Name in keyof Value]: Kind<NonNullable<Value[Name]>> },
  usual: Value | null,
): Kind<Value> {
  const names = Object.keys(fields) as (keyof Value & string)[];
  return {
    expected,
    read: (value, origin) => {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
      const written = value as Record<string, unknown>;
      if (Object.keys(written).some((name) => !Object.hasOwn(fields, name))) return undefined;
      const read: Record<string, unknown> = {};
      for (const name of names) {
        const given = written[name];
        const known =
          given === undefined || given === null ? (usual?.[name] ?? null) : fields[name].read(given, origin);
        if (known === undefined || (known === null && usual === null)) return undefined;
        read[name] = known;
      }
      return read as Value;
    },
    show: (value) =>
      `{${names.flatMap((name) => (value[name] === null ? [] : [`${name}: ${fields[name].show(value[name] as NonNullable<Value[typeof name]>)}`])).join(', ')}}`,
  };
}

/** Beyond it the rates' integers would not be exact. */
const MOST_PER_MINUTE = 100_000_000;
const MOST_REQUESTS = 1_000_000;

export const limits: Kind<LimitsConfig> = mapping<LimitsConfig>(
  'a mapping of requestsPerMinute, tokensPerMinute, concurrency, queue (whole numbers) and budget (such as 5M/month)',
  {
    requestsPerMinute: count(1, MOST_PER_MINUTE),
    tokensPerMinute: count(1, MOST_PER_MINUTE),
    concurrency: whole(1, MOST_REQUESTS),
    queue: whole(0, MOST_REQUESTS),
    budget,
  },
  UNLIMITED,
);

const amount: Kind<number> = {
  expected: 'a number, at least 0',
  read: (value) => (typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : undefined),
  show: String,
};

const wholePrice = mapping<PriceConfig>(
  'a mapping of input, cached and output (numbers)',
  { input: amount, cached: amount, output: amount },
  null,
);

/** `cached` costs what other input costs, where it isn't named. */
export const price: Kind<PriceConfig> = {
  ...wholePrice,
  read: (value, origin) => {
    const written = typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
    return wholePrice.read({ ...written, cached: written['cached'] ?? written['input'] }, origin);
  },
};

export const MODEL_PATTERNS = texts('a list of names of models, * for any part');

/** What a tenant may say in berth.yaml. The same fields as of a setting: see options.ts. */
export const TENANT_OPTIONS = {
  name: {
    kind: text('a name'),
    default: null,
    otherwise: 'its id',
    about: 'What people call it.',
  },
  weight: {
    kind: whole(1, 1_000),
    default: 1,
    about: 'Its share of the device while others want it too: 2 gets twice what 1 gets.',
  },
  models: {
    kind: MODEL_PATTERNS,
    default: null,
    otherwise: 'all that are not private to others',
    about: 'The models that it sees: ids or aliases, `*` for any part.',
  },
  limits: {
    kind: limits,
    default: null,
    otherwise: 'none',
    about: 'What it may use. See [tenants](tenants.md).',
  },
  isolation: {
    kind: choice('strict', 'shared'),
    default: 'strict' as const,
    about: 'See [security](security.md).',
  },
  disabled: {
    kind: yesNo,
    default: false,
    about: 'Its keys are refused.',
  },
} as const;

export type TenantOptionValues = {
  readonly [Name in keyof typeof TENANT_OPTIONS]: (typeof TENANT_OPTIONS)[Name]['kind'] extends Kind<infer Value>
    ? Value
    : never;
};

export interface TenantEntry {
  readonly id: string;
  readonly values: Partial<TenantOptionValues>;
}

export const tenantFrom = ({ id, values }: TenantEntry): TenantConfig => ({
  id: tenantId(id),
  name: values.name ?? (id === DEFAULT_TENANT ? 'Default' : id),
  weight: values.weight ?? 1,
  limits: values.limits ?? UNLIMITED,
  models: values.models ?? null,
  isolation: values.isolation ?? 'strict',
  disabled: values.disabled ?? false,
});
