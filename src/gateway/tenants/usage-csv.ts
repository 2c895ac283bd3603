/** Usage as CSV (RFC 4180), for spreadsheets and billing. */
import type { UsageGroup, UsageSum } from '../../store/usage.ts';

const COLUMNS = [
  ['requests', 'requests'],
  ['input_tokens', 'inputTokens'],
  ['cached_tokens', 'cachedTokens'],
  ['output_tokens', 'outputTokens'],
  ['queue_micros', 'queueMicros'],
  ['load_micros', 'loadMicros'],
  ['restore_micros', 'restoreMicros'],
  ['prefill_micros', 'prefillMicros'],
  ['decode_micros', 'decodeMicros'],
  ['lane_micros', 'laneMicros'],
] as const satisfies readonly (readonly [string, keyof UsageSum])[];

/** A cell that a spreadsheet would take for a formula is made text. */
const cell = (value: string): string => {
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};

/** Billionths as a decimal, exact. */
export function costText(nanos: number): string {
  const whole = Math.floor(nanos / 1e9);
  const rest = String(nanos - whole * 1e9)
    .padStart(9, '0')
    .replace(/0+$/, '');
  return rest === '' ? String(whole) : `${whole}.${rest}`;
}

export function usageCsv(by: readonly UsageGroup[], sums: readonly UsageSum[]): string {
  const head = [...by, ...COLUMNS.map(([name]) => name), 'cost'];
  const lines = sums.map((sum) => [
    ...by.map((group) => cell(sum[group] ?? '')),
    ...COLUMNS.map(([, field]) => String(sum[field])),
    costText(sum.costNanos),
  ]);
  return [head, ...lines].map((line) => `${line.join(',')}\r\n`).join('');
}
