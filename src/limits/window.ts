/** The windows of budgets, in UTC. */
import type { Micros } from '../core/ids.ts';
import { MILLI } from '../core/ids.ts';
import type { BudgetWindow } from './spec.ts';

export interface WindowSpan {
  /** Unix day. */
  readonly sinceDay: number;
  /** Unix micros; null: never. */
  readonly endsAt: Micros | null;
}

const DAY: Micros = 86_400_000_000;

/** The window that `now` (Unix micros) lies in. */
export function windowAt(window: BudgetWindow, now: Micros): WindowSpan {
  if (window === 'total') return { sinceDay: 0, endsAt: null };
  const day = Math.floor(now / DAY);
  if (window === 'day') return { sinceDay: day, endsAt: (day + 1) * DAY };
  const date = new Date(Math.floor(now / MILLI));
  const monthAt = (offset: number): Micros => Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + offset) * MILLI;
  return { sinceDay: monthAt(0) / DAY, endsAt: monthAt(1) };
}
