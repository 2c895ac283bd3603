/**
 * Runs batches: of all tenants' batches in turn, a few lines at a time, each as a request of its tenant with the priority `batch`. One
 * process runs the batches of a database; a second node on it takes over when the first one ends.
 */
import { asBerthError } from '../../errors.ts';
import type { FileRow, BatchStore } from '../../store/files.ts';
import type { GatewayLog } from '../options.ts';
import type { BatchRequest, InputLine } from './input.ts';
import type { LineAnswer } from './job.ts';
import { BatchJob } from './job.ts';
import type { BatchRecord } from './record.ts';
import { fromRow, toRow, UNDONE } from './record.ts';
import type { FileVault } from './vault.ts';

export type RunLine = (batch: BatchRecord, request: BatchRequest) => Promise<LineAnswer>;

export interface RunnerOptions {
  readonly store: BatchStore;
  readonly vault: FileVault;
  /** Where results grow. */
  readonly folder: string;
  /** Takes the right to run batches; null: another process has it. */
  readonly claim: () => (() => void) | null;
  readonly log?: GatewayLog;
  /** Most lines at once, of all batches together. */
  readonly inFlight?: number;
  readonly lookMillis?: number;
  /** Lines that run when the node stops may end within it. */
  readonly stopMillis?: number;
}

const IN_FLIGHT = 8;
/** How often it is looked for batches that another process has taken in, for a claim that is free, and for the clock. */
const LOOK_MILLIS = 1_000;
const STOP_MILLIS = 12_000;

export class BatchRunner {
  readonly #options: RunnerOptions;
  readonly #jobs = new Map<string, BatchJob>();
  readonly #busy = new Set<Promise<void>>();
  readonly #opening = new Set<string>();
  #release: (() => void) | null = null;
  #run: RunLine | null = null;
  #timer: NodeJS.Timeout | null = null;
  #inFlight = 0;
  #turn = 0;
  #stopping = false;
  #stopped = false;

  constructor(options: RunnerOptions) {
    this.#options = options;
  }

  /** Goes on with what was left, and with what comes. */
  start(run: RunLine): void {
    this.#run = run;
    this.#timer = setInterval(() => this.look(), this.#options.lookMillis ?? LOOK_MILLIS);
    this.#timer.unref();
    this.look();
  }

  /** A batch that runs here, with its counts of this moment. */
  live(id: string): BatchRecord | null {
    return this.#jobs.get(id)?.batch ?? null;
  }

  /** Looks at the store and the clock. Whoever has changed something there may call it, to save the wait. */
  look(): void {
    if (this.#stopping || this.#run === null) return;
    try {
      if (this.#release === null) this.#claim();
      if (this.#release === null) return;
      for (const row of this.#options.store.inStates(UNDONE)) this.#meet(fromRow(row));
    } catch (error) {
      this.#options.log?.error({ reason: asBerthError(error).message }, 'batches can’t be looked after');
      return;
    }
    this.#fill();
  }

  #claim(): void {
    this.#release = this.#options.claim();
    if (this.#release === null) return;
    // Results that are to become files have no rows yet.
    const keep = new Set(
      this.#options.store.inStates(UNDONE).flatMap((row) => {
        const { outputFileId, errorFileId } = fromRow(row);
        return [outputFileId, errorFileId];
      }),
    );
    this.#track(this.#options.vault.sweep(keep));
  }

  #meet(batch: BatchRecord): void {
    const job = this.#jobs.get(batch.id);
    if (job !== undefined) {
      if (batch.state === 'cancelling' && job.batch.state === 'in_progress') {
        job.batch.state = 'cancelling';
        job.batch.cancellingAt = batch.cancellingAt;
      }
      return;
    }
    if (this.#opening.has(batch.id)) return;
    this.#opening.add(batch.id);
    const { vault, folder, store } = this.#options;
    const parts = {
      folder,
      vault,
      now: Date.now,
      save: (record: BatchRecord, files: readonly FileRow[] = []) => {
        // It may have been cancelled since it was read.
        const stored = store.get(record.id, record.tenantId);
        if (stored?.state === 'cancelling' && record.state === 'in_progress') {
          record.state = 'cancelling';
          record.cancellingAt = fromRow(stored).cancellingAt;
        }
        store.put(toRow(record), files);
      },
    };
    this.#track(
      BatchJob.open(batch, parts)
        .then((opened) => {
          if (opened !== null) this.#jobs.set(batch.id, opened);
          this.#fill();
        })
        .finally(() => this.#opening.delete(batch.id)),
    );
  }

  /** A line of each batch in turn, until as many run as may. */
  #fill(): void {
    if (this.#stopping) return;
    const now = Date.now();
    for (const job of this.#jobs.values()) if (job.isOver(now)) this.#finish(job);
    const most = this.#options.inFlight ?? IN_FLIGHT;
    for (let misses = 0; this.#inFlight < most && misses < this.#jobs.size; ) {
      const jobs = [...this.#jobs.values()];
      const job = jobs[this.#turn++ % jobs.length];
      const line = job?.take(now) ?? null;
      if (job === undefined || line === null) misses += 1;
      else {
        misses = 0;
        this.#begin(job, line);
      }
    }
  }

  #begin(job: BatchJob, line: InputLine): void {
    const run = this.#run;
    if (run === null) return;
    this.#inFlight += 1;
    const work = async (): Promise<void> => {
      try {
        const answer = await run(job.batch, await job.read(line));
        if (this.#stopped) return;
        // What a stopping node has refused is run by the next one.
        if (this.#stopping && answer.retryMillis !== null) job.putBack(line);
        else await job.answered(line, answer);
      } catch (error) {
        job.putBack(line);
        throw error;
      } finally {
        this.#inFlight -= 1;
      }
    };
    this.#track(work().then(() => this.#fill()));
  }

  #finish(job: BatchJob): void {
    this.#jobs.delete(job.batch.id);
    this.#opening.add(job.batch.id);
    this.#track(
      job
        .finish()
        .then(() => this.#options.log?.info({ batch: job.batch.id, state: job.batch.state }, 'a batch has ended'))
        .finally(() => this.#opening.delete(job.batch.id)),
    );
  }

  #track(work: Promise<unknown>): void {
    const tracked = work.then(
      () => undefined,
      (error: unknown) => {
        this.#options.log?.error({ reason: asBerthError(error).message }, 'a batch could not go on; it is tried again');
      },
    );
    this.#busy.add(tracked);
    void tracked.finally(() => this.#busy.delete(tracked));
  }

  /** Begins nothing more, and waits for what runs; what isn't done is left for the next start. */
  async stop(): Promise<void> {
    this.#stopping = true;
    if (this.#timer !== null) clearInterval(this.#timer);
    const deadline = Promise.withResolvers<void>();
    const timer = setTimeout(deadline.resolve, this.#options.stopMillis ?? STOP_MILLIS);
    const idle = async (): Promise<void> => {
      while (this.#busy.size > 0 && !this.#stopped) await Promise.all(this.#busy);
    };
    await Promise.race([idle(), deadline.promise]);
    clearTimeout(timer);
    this.#stopped = true;
    for (const job of this.#jobs.values()) await job.close();
    this.#jobs.clear();
    this.#release?.();
    this.#release = null;
  }
}
