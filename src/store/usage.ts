/** The ledger: rows that are only ever added, and their sums by day. */
import type { SQLOutputValue } from 'node:sqlite';
import type { Micros, TenantId } from '../core/ids.ts';
import type { Database } from './database.ts';

export const DAY_MILLIS = 86_400_000;

/** One request, with its tokens; or a stretch of the device's time: computed, a switch of models, idle, Berth's own work. */
export type UsageKind = 'request' | 'compute' | 'switch' | 'idle' | 'overhead';

export interface UsageAmounts {
  readonly inputTokens: number;
  /** Of the input tokens, those whose KV was there already. */
  readonly cachedTokens: number;
  readonly outputTokens: number;
  readonly queueMicros: Micros;
  readonly loadMicros: Micros;
  readonly restoreMicros: Micros;
  readonly prefillMicros: Micros;
  readonly decodeMicros: Micros;
  /** Micros of one lane of the device. */
  readonly laneMicros: Micros;
  /** Billionths of the currency that prices are in. */
  readonly costNanos: number;
}

export interface UsageRow extends UsageAmounts {
  /** When it ended; Unix milliseconds. */
  readonly at: number;
  readonly kind: UsageKind;
  readonly tenantId: TenantId;
  /** null: the request had no key. */
  readonly keyId: string | null;
  readonly modelId: string | null;
  readonly requestId: string | null;
  /** `stop`, `length`, `tool_calls`, `embedded`, `budget`, `cancelled`, or a code of an error. */
  readonly outcome: string;
}

export type UsageGroup = 'tenant' | 'key' | 'model' | 'day' | 'kind';

export interface UsageQuery {
  /** Nothing: one sum. */
  readonly by: readonly UsageGroup[];
  /** Unix milliseconds: from (inclusive), to (exclusive). null: the beginning, now. */
  readonly since: number | null;
  readonly until: number | null;
  readonly tenantId: TenantId | null;
}

export interface UsageSum extends UsageAmounts {
  readonly tenant: string | null;
  readonly key: string | null;
  readonly model: string | null;
  /** `2026-01-31`, UTC. */
  readonly day: string | null;
  readonly kind: string | null;
  /** Rows of requests; those of device time have none. */
  readonly requests: number;
}

/** What a budget counts, and for whom: any field that is null is summed over. */
export interface SpentQuery {
  readonly tenantId: TenantId;
  readonly keyId: string | null;
  readonly modelId: string | null;
  /** From the beginning of this Unix day (UTC). */
  readonly sinceDay: number;
}

export interface UsageStore {
  append(rows: readonly UsageRow[]): void;
  sums(query: UsageQuery): UsageSum[];
  /** Tokens in and out of requests. */
  spentTokens(query: SpentQuery): number;
}

const AMOUNTS = [
  ['inputTokens', 'input_tokens'],
  ['cachedTokens', 'cached_tokens'],
  ['outputTokens', 'output_tokens'],
  ['queueMicros', 'queue_micros'],
  ['loadMicros', 'load_micros'],
  ['restoreMicros', 'restore_micros'],
  ['prefillMicros', 'prefill_micros'],
  ['decodeMicros', 'decode_micros'],
  ['laneMicros', 'lane_micros'],
  ['costNanos', 'cost_nanos'],
] as const satisfies readonly (readonly [keyof UsageAmounts, string])[];
const AMOUNT_COLUMNS = AMOUNTS.map(([, column]) => column);
const GROUP_COLUMNS: Readonly<Record<UsageGroup, string>> = {
  tenant: 'tenant',
  key: 'key_id',
  model: 'model',
  day: 'day',
  kind: 'kind',
};

/** So many rows are added to the days' sums at once, if nobody asks for them before. */
const MOST_UNSUMMED = 200;

const dayOf = (at: number): number => Math.floor(at / DAY_MILLIS);
export const dayName = (day: number): string => new Date(day * DAY_MILLIS).toISOString().slice(0, 10);

export function createUsageStore(database: Database): UsageStore {
  const insert = database.prepare(
    `INSERT INTO usage (at, kind, tenant, key_id, model, request, outcome, ${AMOUNT_COLUMNS.join(', ')}) VALUES (${'?, '.repeat(6 + AMOUNTS.length)}?)`,
  );
  const newest = database.prepare('SELECT (SELECT max(id) FROM usage) AS last, id AS summed FROM usage_summed');
  const sumUp = database.prepare(
    `INSERT INTO usage_days (day, tenant, key_id, model, kind, first_id, rows, ${AMOUNT_COLUMNS.join(', ')})
     SELECT at / ${DAY_MILLIS} AS day, tenant, key_id, model, kind, min(id), count(*), ${AMOUNT_COLUMNS.map((name) => `sum(${name})`).join(', ')}
     FROM usage WHERE id > ? AND id <= ? GROUP BY day, tenant, key_id, model, kind
     ON CONFLICT DO UPDATE SET rows = rows + excluded.rows, ${AMOUNT_COLUMNS.map((name) => `${name} = ${name} + excluded.${name}`).join(', ')}`,
  );
  const summed = database.prepare('UPDATE usage_summed SET id = ?');
  let unsummed = 0;
  /** Brings the days' sums up to the last row, also to those of a process that died before it did. */
  const sumDays = (): void => {
    const behind = (): { last: number; from: number } => {
      const row = newest.get();
      return { last: Number(row?.['last'] ?? 0), from: Number(row?.['summed'] ?? 0) };
    };
    unsummed = 0;
    const { last: newestId, from: summedId } = behind();
    if (newestId <= summedId) return;
    database.transaction(() => {
      // Again: another process may have done it meanwhile.
      const { last, from } = behind();
      sumUp.run(from, last);
      summed.run(last);
    });
  };
  const spent = database.prepare(
    `SELECT sum(input_tokens + output_tokens) AS tokens FROM usage_days WHERE tenant = ? AND day >= ? AND kind = 'request'
           AND (? IS NULL OR key_id = ?) AND (? IS NULL OR model = ?)`,
  );
  return {
    append(rows) {
      const insertAll = (): void => {
        for (const row of rows) {
          const { at, kind, tenantId, keyId, modelId, requestId, outcome } = row;
          const amounts = AMOUNTS.map(([name]) => row[name]);
          insert.run(at, kind, tenantId, keyId ?? '', modelId ?? '', requestId ?? '', outcome, ...amounts);
        }
      };
      // One statement is a transaction by itself, and cheaper.
      if (rows.length === 1) insertAll();
      else database.transaction(insertAll);
      unsummed += rows.length;
      if (unsummed < MOST_UNSUMMED) return;
      try {
        sumDays();
      } catch {
        // The rows are written, and must not be written again: whoever asks for sums tries again, and is told.
      }
    },
    sums(query) {
      sumDays();
      const { sql, values } = sumsSql(query);
      return database
        .prepare(sql)
        .all(...values)
        .map((row) => fromRow(row, query.by));
    },
    spentTokens({ tenantId, keyId, modelId, sinceDay }) {
      sumDays();
      const row = spent.get(tenantId, sinceDay, keyId, keyId, modelId, modelId);
      return Number(row?.['tokens'] ?? 0);
    },
  };
}

/** Whole days are read from their sums; a day that is asked for in part, row by row. */
function sumsSql({ by, since, until, tenantId }: UsageQuery): { sql: string; values: (number | string)[] } {
  const wholeDays = [since, until].every((at) => at === null || at % DAY_MILLIS === 0);
  const time = wholeDays ? 'day' : 'at';
  const unit = wholeDays ? DAY_MILLIS : 1;
  const where: string[] = [];
  const values: (number | string)[] = [];
  const only = (condition: string, value: number | string): void => {
    where.push(condition);
    values.push(value);
  };
  if (since !== null) only(`${time} >= ?`, since / unit);
  // No index by time: it would have to be written with each row.
  if (since !== null && !wholeDays)
    only('id >= (SELECT coalesce(min(first_id), 0) FROM usage_days WHERE day >= ?)', dayOf(since));
  if (until !== null) only(`${time} < ?`, until / unit);
  if (tenantId !== null) only('tenant = ?', tenantId);
  const day = wholeDays ? 'day' : `at / ${DAY_MILLIS} AS day`;
  const groups = [...new Set(by)];
  const columns = groups.map((group) => (group === 'day' ? day : GROUP_COLUMNS[group]));
  const names = groups.map((group) => GROUP_COLUMNS[group]).join(', ');
  const sums = AMOUNT_COLUMNS.map((name) => `sum(${name}) AS ${name}`);
  const select = [
    ...columns,
    `sum(CASE kind WHEN 'request' THEN ${wholeDays ? 'rows' : '1'} ELSE 0 END) AS requests`,
    ...sums,
  ].join(', ');
  const tail = names === '' ? '' : ` GROUP BY ${names} ORDER BY ${names}`;
  const condition = where.length === 0 ? '' : ` WHERE ${where.join(' AND ')}`;
  return { sql: `SELECT ${select} FROM ${wholeDays ? 'usage_days' : 'usage'}${condition}${tail}`, values };
}

function fromRow(row: Record<string, SQLOutputValue>, by: readonly UsageGroup[]): UsageSum {
  const amounts = Object.fromEntries(AMOUNTS.map(([name, column]) => [name, Number(row[column] ?? 0)]));
  const text = (group: UsageGroup): string | null =>
    by.includes(group) ? String(row[GROUP_COLUMNS[group]] ?? '') : null;
  return {
    tenant: text('tenant'),
    key: text('key'),
    model: text('model'),
    day: by.includes('day') ? dayName(Number(row['day'])) : null,
    kind: text('kind'),
    requests: Number(row['requests'] ?? 0),
    ...(amounts as unknown as UsageAmounts),
  };
}
