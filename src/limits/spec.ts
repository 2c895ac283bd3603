/** What can be limited, for a tenant, a key, or a tenant's use of a model. */

export const BUDGET_WINDOWS = ['day', 'month', 'total'] as const;
/** A day and a month begin at midnight UTC. */
export type BudgetWindow = (typeof BUDGET_WINDOWS)[number];

/** null: no limit. Tokens are those of the prompt, cached or not, and those of the output. */
export interface LimitSpec {
  readonly requestsPerMinute: number | null;
  readonly tokensPerMinute: number | null;
  /** Requests at the node at once, computing or waiting there. */
  readonly concurrency: number | null;
  /** Requests that wait until `concurrency` has room; null: `USUAL_QUEUE`. Means nothing without `concurrency`. */
  readonly queue: number | null;
  readonly budget: { readonly tokens: number; readonly window: BudgetWindow } | null;
}

export const NO_LIMITS: LimitSpec = {
  requestsPerMinute: null,
  tokensPerMinute: null,
  concurrency: null,
  queue: null,
  budget: null,
};

/** The largest number of a limit per minute: beyond it the bucket's integers would not be exact. */
export const MOST_PER_MINUTE = 100_000_000;
export const USUAL_QUEUE = 100;

export const isUnlimited = (spec: LimitSpec): boolean =>
  spec.requestsPerMinute === null && spec.tokensPerMinute === null && spec.concurrency === null && spec.budget === null;
