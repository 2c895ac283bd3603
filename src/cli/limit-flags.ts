/** Flags of `berth tenants` and `berth keys` → fields of the admin API. */
import { parseBudget, parseCount, showBudget } from '../config/tenants.ts';
import { BerthError } from '../errors.ts';
import type { LimitSpec } from '../gateway/admin-types.ts';

export interface LimitFlags {
  readonly requestsPerMinute?: string;
  readonly tokensPerMinute?: string;
  readonly concurrency?: string;
  readonly queue?: string;
  /** `5M/month` */
  readonly budget?: string;
}

/** What takes a limit back. */
const NONE = 'none';
const COUNTS = ['requestsPerMinute', 'tokensPerMinute', 'concurrency', 'queue'] as const;

const wrong = (flag: string, expected: string, value: string): never => {
  throw new BerthError(
    'invalid_request',
    `${flag}: expected ${expected} or ${NONE}, received ${JSON.stringify(value)}`,
  );
};
const flagOf = (name: string): string => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;

/** The limits that were named, by flags. */
export function limitsFrom(flags: LimitFlags): Partial<LimitSpec> {
  const limits: Partial<Record<keyof LimitSpec, unknown>> = {};
  for (const name of COUNTS) {
    const text = flags[name];
    if (text !== undefined) {
      limits[name] =
        text === NONE ? null : (parseCount(text) ?? wrong(flagOf(name), 'a number such as 60 or 10K', text));
    }
  }
  const { budget } = flags;
  if (budget !== undefined) {
    limits.budget = budget === NONE ? null : (parseBudget(budget) ?? wrong('--budget', 'such as 5M/month', budget));
  }
  return limits as Partial<LimitSpec>;
}

/** `smol*,tiny` → patterns; `all` → null: every model. */
export const patternsFrom = (text: string): string[] | null =>
  text === 'all'
    ? null
    : text
        .split(',')
        .map((pattern) => pattern.trim())
        .filter((pattern) => pattern !== '');

/** `60 req/min, 10000 tok/min, 4 at once, 5000000/month`; `-` for none. */
export function limitsText(limits: LimitSpec): string {
  const { requestsPerMinute, tokensPerMinute, concurrency, budget } = limits;
  const parts = [
    requestsPerMinute === null ? '' : `${requestsPerMinute} req/min`,
    tokensPerMinute === null ? '' : `${tokensPerMinute} tok/min`,
    concurrency === null ? '' : `${concurrency} at once`,
    budget === null ? '' : `${showBudget(budget)} tokens`,
  ].filter((part) => part !== '');
  return parts.length === 0 ? '-' : parts.join(', ');
}
