/**
 * The results of a batch while it runs: two files of JSON lines that are only ever added to, a whole line at a time. They are the
 * memory of what is done: a line is done when its `custom_id` is in one of them. A node that was killed in mid-line has left a torn
 * end, which is cut away, and that line is run again; so each line is in the results exactly once.
 */
import { mkdir, open, rename, stat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { rawLines } from './input.ts';

export interface LineResult {
  readonly id: string;
  readonly custom_id: string;
  readonly response: { readonly status_code: number; readonly request_id: string; readonly body: unknown } | null;
  readonly error: { readonly code: string; readonly message: string } | null;
}

export type ResultKind = 'output' | 'errors';
const KINDS: readonly ResultKind[] = ['output', 'errors'];

export class BatchResults {
  readonly done = new Set<string>();
  readonly counts: Record<ResultKind, number> = { output: 0, errors: 0 };
  readonly #stem: string;
  readonly #handles = new Map<ResultKind, FileHandle>();
  #last: Promise<void> = Promise.resolve();

  private constructor(stem: string) {
    this.#stem = stem;
  }

  /** Opens what is there of the batch's results, and cuts off a torn end. */
  static async open(folder: string, batchId: string): Promise<BatchResults> {
    const results = new BatchResults(join(folder, batchId));
    await mkdir(folder, { recursive: true, mode: 0o700 });
    for (const kind of KINDS) await results.#recover(kind);
    return results;
  }

  async #recover(kind: ResultKind): Promise<void> {
    const path = this.pathOf(kind);
    const handle = await open(path, 'r+').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return null;
      throw error;
    });
    if (handle === null) return;
    try {
      for await (const { offset, bytes, ended } of rawLines(handle)) {
        if (ended) {
          this.done.add((JSON.parse(bytes.toString('utf8')) as LineResult).custom_id);
          this.counts[kind] += 1;
        } else await handle.truncate(offset);
      }
    } finally {
      await handle.close();
    }
  }

  pathOf(kind: ResultKind): string {
    return `${this.#stem}.${kind}.jsonl`;
  }

  /** One after the other: two lines must not be written into each other. */
  add(kind: ResultKind, result: LineResult): Promise<void> {
    const added = this.#last.then(() => this.#append(kind, result));
    this.#last = added.catch(() => undefined);
    return added;
  }

  async #append(kind: ResultKind, result: LineResult): Promise<void> {
    if (this.done.has(result.custom_id)) return;
    let handle = this.#handles.get(kind);
    if (handle === undefined) {
      handle = await open(this.pathOf(kind), 'a', 0o600);
      this.#handles.set(kind, handle);
    }
    await handle.appendFile(`${JSON.stringify(result)}\n`);
    this.done.add(result.custom_id);
    this.counts[kind] += 1;
  }

  /** On the disk, and closed. */
  async close(): Promise<void> {
    await this.#last;
    for (const handle of this.#handles.values()) {
      await handle.sync();
      await handle.close();
    }
    this.#handles.clear();
  }

  /** Moves a result file to where it is served from. Done before a kill, it is not done again. @returns its bytes; null: there is none. */
  async handOver(kind: ResultKind, path: string): Promise<number | null> {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await rename(this.pathOf(kind), path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error;
    });
    return stat(path).then(
      ({ size }) => size,
      () => null,
    );
  }
}
