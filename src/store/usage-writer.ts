/**
 * Usage rows on their way into the store. Those of requests are written before the client is told the end (`commit`), so what a
 * client knows of is in the ledger, also after a kill -9; all that end in one step of a batch are written together. The device's time
 * waits a moment. While the store refuses, rows wait in a bounded queue; one that finds it full is counted, never silently lost.
 */
import { asBerthError } from '../errors.ts';
import type { UsageRow } from './usage.ts';

export interface UsageWriterOptions {
  readonly write: (rows: readonly UsageRow[]) => void;
  /** Told at the first of a series of failures; the rows wait for the next attempt. */
  readonly onError: (message: string) => void;
  /** Runs it once after so long; the returned function takes it back. */
  readonly after: (millis: number, run: () => void) => () => void;
  /** Runs it when what runs now is done, before anything else is begun. */
  readonly soon: (run: () => void) => void;
  readonly flushMillis?: number;
  readonly rowsPerFlush?: number;
  readonly mostRows?: number;
}

export interface UsageWriter {
  /** It is written soon. */
  add(row: UsageRow): void;
  /** `then` runs when it is written, with all that waits; or soon, if the store refuses and it waits. */
  commit(row: UsageRow, then: () => void): void;
  /** Writes all that waits. @returns false: the store refused. */
  flush(): boolean;
  /** Rows that wait; rows written; rows lost because the queue was full. */
  readonly counts: { readonly waiting: number; readonly written: number; readonly lost: number };
}

/** Soon enough that a row is written within a second of its request's end, also when a flush is split. */
const FLUSH_MILLIS = 250;
/** What one turn of the event loop writes: about a millisecond. */
const ROWS_PER_FLUSH = 100;
const MOST_ROWS = 50_000;
const RETRY_MILLIS = 2_000;

export function createUsageWriter(options: UsageWriterOptions): UsageWriter {
  const { flushMillis = FLUSH_MILLIS, rowsPerFlush = ROWS_PER_FLUSH, mostRows = MOST_ROWS } = options;
  let rows: UsageRow[] = [];
  let written = 0;
  let lost = 0;
  let failing = false;
  let cancel: (() => void) | null = null;

  const schedule = (millis: number): void => {
    cancel ??= options.after(millis, () => {
      cancel = null;
      writeSome();
      if (rows.length > 0) schedule(failing ? RETRY_MILLIS : 1);
    });
  };
  const writeSome = (): boolean => {
    const batch = rows.slice(0, rowsPerFlush);
    try {
      options.write(batch);
    } catch (error) {
      if (!failing) options.onError(asBerthError(error).message);
      failing = true;
      return false;
    }
    failing = false;
    written += batch.length;
    rows = rows.slice(batch.length);
    return true;
  };
  const add = (row: UsageRow): void => {
    if (rows.length >= mostRows) lost += 1;
    else rows.push(row);
    schedule(flushMillis);
  };
  const flush = (): boolean => {
    cancel?.();
    cancel = null;
    while (rows.length > 0) {
      if (writeSome()) continue;
      schedule(RETRY_MILLIS);
      return false;
    }
    return true;
  };
  let told: (() => void)[] = [];
  const tellAll = (): void => {
    // No request waits for a store that refuses: the next attempt is the timer's.
    if (!failing) flush();
    const due = told;
    told = [];
    for (const tell of due) {
      try {
        tell();
      } catch (error) {
        // It is somebody's bug, and must not keep the others from being told.
        options.soon(() => {
          throw error;
        });
      }
    }
  };
  return {
    add,
    commit(row, then) {
      add(row);
      told.push(then);
      if (told.length === 1) options.soon(tellAll);
    },
    flush,
    get counts() {
      return { waiting: rows.length, written, lost };
    },
  };
}
