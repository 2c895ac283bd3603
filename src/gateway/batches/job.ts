/** One batch at work: which of its lines are to be done, and what has become of them. What runs a line, and when, is the runner's. */
import type { FileHandle } from 'node:fs/promises';
import { open } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import type { FileRow } from '../../store/files.ts';
import type { BatchRequest, InputLine } from './input.ts';
import { readLine, scanInput } from './input.ts';
import type { BatchRecord, BatchState } from './record.ts';
import { BatchResults } from './results.ts';
import type { FileVault } from './vault.ts';

/** What a line was answered. */
export interface LineAnswer {
  readonly status: number;
  readonly requestId: string;
  readonly body: unknown;
  /** Milliseconds until it is worth another try; null: this is the answer. */
  readonly retryMillis: number | null;
  /** The node was busy or stopping: such a try doesn't count. */
  readonly busy: boolean;
}

export interface JobParts {
  readonly folder: string;
  readonly vault: FileVault;
  /** Remembers the batch, and rows of its result files, in one step. */
  readonly save: (batch: BatchRecord, files?: readonly FileRow[]) => void;
  readonly now: () => number;
}

/** An answer that says "try again" is believed so often. */
const MOST_TRIES = 3;

export class BatchJob {
  readonly batch: BatchRecord;
  readonly #parts: JobParts;
  readonly #results: BatchResults;
  readonly #input: FileHandle | null;
  #waiting: readonly InputLine[];
  #next = 0;
  /** Lines that are to be tried again, with the number of tries so far. */
  readonly #again: InputLine[] = [];
  readonly #tries = new Map<string, number>();
  #running = 0;
  #pausedUntil = 0;

  private constructor(
    batch: BatchRecord,
    parts: JobParts,
    opened: { readonly results: BatchResults; readonly input: FileHandle | null; readonly lines: readonly InputLine[] },
  ) {
    this.batch = batch;
    this.#parts = parts;
    this.#results = opened.results;
    this.#input = opened.input;
    this.#waiting = opened.lines.filter(({ customId }) => !opened.results.done.has(customId));
  }

  /** Begins a batch, or goes on with one that a node has left. null: its input is wrong, and it has failed. */
  static async open(batch: BatchRecord, parts: JobParts): Promise<BatchJob | null> {
    const results = await BatchResults.open(parts.folder, batch.id);
    if (batch.state === 'finalizing') return new BatchJob(batch, parts, { results, input: null, lines: [] });
    const path = parts.vault.pathOf(batch.inputFileId);
    const scanned = await scanInput(path, batch.endpoint).catch(() => null);
    const errors = scanned?.errors ?? [
      { code: 'input_missing', message: 'The input file is gone.', line: null, param: 'input_file_id' },
    ];
    if (scanned === null || errors.length > 0) {
      batch.errors = errors;
      batch.state = 'failed';
      batch.failedAt = parts.now();
      parts.save(batch);
      return null;
    }
    batch.total = scanned.lines.length;
    batch.completed = results.counts.output;
    batch.failed = results.counts.errors;
    if (batch.state === 'validating') {
      batch.state = 'in_progress';
      batch.inProgressAt = parts.now();
    }
    parts.save(batch);
    return new BatchJob(batch, parts, { results, input: await open(path, 'r'), lines: scanned.lines });
  }

  /** A line to run now; null: none, for the time being or at all. */
  take(now: number): InputLine | null {
    const { state, expiresAt } = this.batch;
    if (state !== 'in_progress' || now < this.#pausedUntil || now >= expiresAt) return null;
    const line = this.#again.shift() ?? this.#waiting[this.#next++] ?? null;
    if (line !== null) this.#running += 1;
    return line;
  }

  read(line: InputLine): Promise<BatchRequest> {
    if (this.#input === null) throw new Error('the batch has no lines left');
    return readLine(this.#input, line);
  }

  async answered(line: InputLine, answer: LineAnswer): Promise<void> {
    this.#running -= 1;
    const { retryMillis, busy, status } = answer;
    const tries = (this.#tries.get(line.customId) ?? 0) + (busy ? 0 : 1);
    this.#tries.set(line.customId, tries);
    if (retryMillis !== null && tries < MOST_TRIES && this.#undecided()) {
      this.#again.push(line);
      this.#pausedUntil = Math.max(this.#pausedUntil, this.#parts.now() + retryMillis);
      return;
    }
    this.#tries.delete(line.customId);
    const kind = status >= 200 && status < 300 ? 'output' : 'errors';
    await this.#add(kind, line, {
      response: { status_code: status, request_id: answer.requestId, body: answer.body },
      error: null,
    });
  }

  /** It could not even be tried: it is tried again. */
  putBack(line: InputLine): void {
    this.#running -= 1;
    this.#again.push(line);
  }

  #undecided(): boolean {
    return this.batch.state === 'in_progress' && this.#parts.now() < this.batch.expiresAt;
  }

  async #add(
    kind: 'output' | 'errors',
    { customId }: InputLine,
    what: Pick<Result, 'response' | 'error'>,
  ): Promise<void> {
    await this.#results.add(kind, { id: `batch_req_${randomBytes(12).toString('hex')}`, custom_id: customId, ...what });
    this.batch.completed = this.#results.counts.output;
    this.batch.failed = this.#results.counts.errors;
  }

  get isIdle(): boolean {
    return this.#running === 0;
  }

  /** Nothing runs, and nothing is to be run any more. */
  isOver(now: number): boolean {
    if (!this.isIdle) return false;
    const { state, expiresAt } = this.batch;
    return (
      state !== 'in_progress' || now >= expiresAt || (this.#again.length === 0 && this.#next >= this.#waiting.length)
    );
  }

  /** Ends it: what is left over is told, results become files, and that is remembered in one step. Can be done again after a kill. */
  async finish(): Promise<void> {
    const { batch } = this;
    const { now, save, vault } = this.#parts;
    const left = [...this.#again, ...this.#waiting.slice(this.#next)];
    const cancelled = batch.cancellingAt !== null;
    const expired = !cancelled && left.length > 0;
    if (expired) {
      for (const line of left) {
        const error = { code: 'batch_expired', message: 'The batch expired before this line was run.' };
        await this.#add('errors', line, { response: null, error });
      }
      batch.expiredAt = now();
    }
    await this.close();
    if (batch.state !== 'finalizing') {
      batch.state = 'finalizing';
      batch.finalizingAt = now();
      save(batch);
    }
    const files: FileRow[] = [];
    const hand = async (kind: 'output' | 'errors', id: string): Promise<boolean> => {
      const bytes = await this.#results.handOver(kind, vault.pathOf(id));
      if (bytes === null) return false;
      const filename = `${batch.id}_${kind === 'output' ? 'output' : 'error'}.jsonl`;
      files.push({ id, tenantId: batch.tenantId, purpose: 'batch_output', filename, bytes, createdAt: now() });
      return true;
    };
    batch.hasOutput = await hand('output', batch.outputFileId);
    batch.hasErrors = await hand('errors', batch.errorFileId);
    const state: BatchState = cancelled ? 'cancelled' : batch.expiredAt === null ? 'completed' : 'expired';
    batch.state = state;
    if (state === 'cancelled') batch.cancelledAt = now();
    if (state === 'completed') batch.completedAt = now();
    save(batch, files);
  }

  async close(): Promise<void> {
    await this.#results.close();
    await this.#input?.close().catch(() => undefined);
  }
}

type Result = Parameters<BatchResults['add']>[1];
