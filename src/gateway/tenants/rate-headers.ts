/** `x-ratelimit-…` as OpenAI sends them. https://platform.openai.com/docs/guides/rate-limits */
import type { Micros } from '../../core/ids.ts';
import type { MeterView, RateView } from '../../limits/meter.ts';

/** Of the tightest meter: what a client has to go by. */
export function rateHeaders(views: readonly MeterView[]): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const kind of ['requests', 'tokens'] as const) {
    let tightest: RateView | null = null;
    for (const view of views) {
      const rate = view[kind];
      if (rate !== null && (tightest === null || rate.remaining < tightest.remaining)) tightest = rate;
    }
    if (tightest === null) continue;
    headers[`x-ratelimit-limit-${kind}`] = String(tightest.limit);
    headers[`x-ratelimit-remaining-${kind}`] = String(tightest.remaining);
    headers[`x-ratelimit-reset-${kind}`] = duration(tightest.resetMicros);
  }
  return headers;
}

/** `250ms`, `6s`, `1m30s`: rounded up, so that who comes back then is not early. */
export function duration(micros: Micros): string {
  const millis = Math.ceil(micros / 1_000);
  if (millis < 1_000) return `${millis}ms`;
  const seconds = Math.ceil(millis / 1_000);
  const minutes = Math.floor(seconds / 60);
  return minutes === 0 ? `${seconds}s` : `${minutes}m${seconds % 60}s`;
}
