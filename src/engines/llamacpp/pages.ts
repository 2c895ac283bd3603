/**
 * The model's file as this process maps it. A mapped page that was once read stays in the process' page table, and counts as held
 * (RSS, PSS) though it is page cache. A sleeping model lets go of those entries: `madvise(2)` on shared read-only mappings of
 * a file only, where dropping entries loses nothing. Linux alone; elsewhere there is nothing to find, and nothing is done.
 */
import { readFileSync } from 'node:fs';

/** `madvise(2)`: drop the entries; map in all pages now, in one call (Linux ≥ 5.14; an error before). */
const MADV_DONTNEED = 4;
const MADV_POPULATE_READ = 22;

export interface FileRange {
  readonly address: bigint;
  readonly bytes: number;
  readonly path: string;
}

/** What of the C library is needed here. 0: done. */
export interface Advisor {
  advise(address: bigint, bytes: number, advice: number): number;
}

/** The shared mappings of files that can't be written through, of `proc_pid_maps(5)`: nothing in them belongs to this process. */
export function parseMaps(maps: string): FileRange[] {
  return [...maps.matchAll(/^([\da-f]+)-([\da-f]+) r--s [\da-f]+ \S+ [1-9]\d* +(\/.*)$/gm)].map((match) => {
    const [, start = '', end = '', path = ''] = match;
    const address = BigInt(`0x${start}`);
    return { address, bytes: Number(BigInt(`0x${end}`) - address), path };
  });
}

/** Those of this process; none where there is no procfs. */
export function mappedFiles(): FileRange[] {
  try {
    return parseMaps(readFileSync('/proc/self/maps', 'utf8'));
  } catch {
    return [];
  }
}

/** The files that `after` has and `before` had not. */
export function newFiles(before: readonly FileRange[], after: readonly FileRange[]): ReadonlySet<string> {
  const known = new Set(before.map(({ path }) => path));
  return new Set(after.map(({ path }) => path).filter((path) => !known.has(path)));
}

/** Looked up anew each time: a range that has gone since could be another's memory by now. */
const rangesOf = (files: ReadonlySet<string>): FileRange[] =>
  files.size === 0 ? [] : mappedFiles().filter(({ path }) => files.has(path));

/** Takes the files' pages out of this process; they stay in the page cache. Returns the bytes of address space concerned. */
export function releasePages(advisor: Advisor, files: ReadonlySet<string>): number {
  return rangesOf(files)
    .filter(({ address, bytes }) => advisor.advise(address, bytes, MADV_DONTNEED) === 0)
    .reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Maps the files' pages in at once, instead of by one fault each in the first step. An older kernel refuses; then faults do it. */
export function populatePages(advisor: Advisor, files: ReadonlySet<string>): void {
  for (const { address, bytes } of rangesOf(files)) advisor.advise(address, bytes, MADV_POPULATE_READ);
}
