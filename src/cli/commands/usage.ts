/** `berth usage`: what was used, by whom, and what it cost. */
import { parseDuration } from '../../config/kinds.ts';
import { BerthError } from '../../errors.ts';
import type { UsageResponse, UsageSum } from '../../gateway/admin-types.ts';
import { costText } from '../../gateway/tenants/usage-csv.ts';
import { adminClient } from '../client.ts';
import type { NodeOptions } from '../client.ts';
import type { Io } from '../io.ts';
import { humanDuration, json, table } from '../output.ts';

export interface UsageOptions extends NodeOptions {
  readonly by?: string;
  readonly since?: string;
  readonly until?: string;
  readonly tenant?: string;
  readonly csv?: boolean;
}

const NUMBERS = ['REQUESTS', 'INPUT', 'CACHED', 'OUTPUT', 'COMPUTE', 'LOADS', 'LANES', 'COST'];

export async function usage(io: Io, options: UsageOptions): Promise<void> {
  const query = new URLSearchParams();
  query.set('by', options.by ?? 'tenant,model');
  if (options.since !== undefined) query.set('since', timeOf('--since', options.since));
  if (options.until !== undefined) query.set('until', timeOf('--until', options.until));
  if (options.tenant !== undefined) query.set('tenant', options.tenant);
  if (options.csv === true) query.set('format', 'csv');
  const client = adminClient(options, io.env);
  const path = `/api/admin/usage?${query.toString()}`;
  if (options.csv === true) {
    const body = await client.stream(path);
    for await (const part of body.pipeThrough(new TextDecoderStream())) io.out(part);
    return;
  }
  const answer = (await client.json(path)) as UsageResponse;
  if (options.json === true) return io.out(json(answer.usage));
  const headers = [...answer.by.map((group) => group.toUpperCase()), ...NUMBERS];
  const rows = answer.usage.map((sum) => [...answer.by.map((group) => sum[group] || '-'), ...numbersOf(sum)]);
  io.out(table({ headers, rows, styled: io.stdoutIsTty, right: NUMBERS }));
}

const numbersOf = (sum: UsageSum): string[] => [
  String(sum.requests),
  String(sum.inputTokens),
  String(sum.cachedTokens),
  String(sum.outputTokens),
  humanDuration(sum.prefillMicros + sum.decodeMicros),
  humanDuration(sum.loadMicros),
  humanDuration(sum.laneMicros),
  costText(sum.costNanos),
];

/** A day or time as it is; `7d` is so long ago, from midnight UTC where it is whole days. */
function timeOf(flag: string, text: string): string {
  const micros = parseDuration(text);
  if (micros !== undefined && micros > 0 && !/^\d+$/.test(text)) {
    const at = Date.now() - micros / 1_000;
    return new Date(micros % DAY_MICROS === 0 ? Math.floor(at / DAY_MILLIS) * DAY_MILLIS : at).toISOString();
  }
  if (Number.isFinite(Date.parse(text))) return text;
  const message = `${flag}: expected a day such as 2026-01-31, or how long ago such as 7d, received ${JSON.stringify(text)}`;
  throw new BerthError('invalid_request', message);
}

const DAY_MICROS = 86_400e6;
const DAY_MILLIS = 86_400e3;
