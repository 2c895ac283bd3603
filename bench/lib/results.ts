/**
 * The README's table of results, from the published files `bench/results/NAME.json` (what `npm run bench -- NAME --json FILE`
 * writes). Missed bars are shown like kept ones, and what was not measured is named. `scripts/results.mjs` writes the table; a
 * test holds the README equal to the files.
 */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { shortNumber } from '../harness.ts';

/** In the table's order, others after them. Of each benchmark the rows with a bar are shown, and those whose metric is named here. */
interface Publication {
  readonly name: string;
  /** `case: metric` of the row that stands for it in the README. */
  readonly first: string;
  /** Metrics that are shown though they have no bar; or `case: metric` of one row. */
  readonly also?: readonly string[];
}

const PUBLISHED: readonly Publication[] = [
  { name: 'headline', first: '90 % of capacity: good requests, better of the peers' },
  { name: 'overcommit', first: '12 models, memory for 4: requests answered', also: ['TTFT p50', 'TTFT p95'] },
  { name: 'hot-models', first: '4 busy models: in all, better of the two' },
  { name: 'concurrency', first: 'smollm2, 8 in flight: in all' },
  {
    name: 'neighbours',
    first: 'three saturated neighbours: TTFT p99, peer router -t 1',
    also: ['TTFT p99, peer router -t 1', 'TTFT p99, peer router -t 2'],
  },
  { name: 'embeddings', first: '64 in flight: embeddings' },
  { name: 'coldstart', first: 'gemma, cold, file in page cache: first token' },
  { name: 'kv-return', first: 'Gemma, 2,048 tokens: restore, KV in host memory: of the TTFT computed again' },
  {
    name: 'conversations',
    first: '200 conversations: prefill saved, of the possible',
    also: ['TTFT p50', 'TTFT p95'].flatMap((what) =>
      ['Berth without KV tiers', 'router -t 1'].map((peer) => `${what}, peer ${peer}`),
    ),
  },
  { name: 'kv-exact', first: 'Gemma, equal batch shapes: histories with identical texts' },
  {
    name: 'fairness',
    first: 'a neighbour with 64 in flight on three models: interactive TTFT p50, peer: beside three in flight',
  },
  { name: 'isolation', first: '' },
  { name: 'ledger', first: 'runners killed: device time in the books, of wall time × lanes' },
  { name: 'survive', first: 'Gemma, 100 kills: tokens lost', also: ['time until the stream goes on p50'] },
  {
    name: 'mixed',
    first: 'vLLM, SmolLM2: tokens a second together, peer: alone',
    also: ['tokens a second together, peer: alone'],
  },
  { name: 'cross-check', first: '1 in flight: TTFT mean, peer aiperf' },
  {
    name: 'simulate-aegaeon',
    first: '80-0.1, targets × 1: requests all in time (bound: 5 GPUs)',
    also: ['time-QoS', 'requests all in time, peer: with spill'],
  },
  {
    name: 'simulate-honest',
    first: '80-0.5, honest: requests all in time, peer lru-by-count',
    also: [
      'all in time, peer aegaeon-2s',
      'all in time, peer lru-by-count',
      'requests lost to them',
      ...['requests all in time', 'time-QoS', 'goodput', 'fairness gap'].flatMap((what) =>
        ['lru-by-count', 'aegaeon-2s'].map((peer) => `Azure, 200 models, resident: ${what}, peer ${peer}`),
      ),
    ],
  },
  {
    name: 'simulate-prefixes',
    first: 'room for 20000 blocks of 512 tokens: blocks at hand (at most 64.0 %), peer LRU',
    also: ['blocks at hand (at most 64.0 %), peer LRU'],
  },
  { name: 'simulate-predict', first: '12 models, memory for 4, predicted: TTFT p50, peer measured' },
  { name: 'simulate-speed', first: '1000000 requests: CPU time' },
  { name: 'gateway', first: '32 in flight: added latency p50', also: ['node CPU per chunk'] },
  { name: 'core', first: '1000 models, overload: handle, per event' },
];

const START = '<!-- results -->';
const END = '<!-- /results -->';

/** A value that could not be measured is `null` in JSON. */
const measured = z.number().nullable();
const resultSchema = z.strictObject({
  name: z.string(),
  machine: z.string(),
  commit: z.string(),
  builds: z.record(z.string(), z.union([z.string(), z.number(), z.null()])),
  rows: z.array(
    z.strictObject({
      case: z.string(),
      metric: z.string(),
      unit: z.string(),
      berth: measured,
      peer: measured.optional(),
      ratio: measured.optional(),
      bar: z.string().optional(),
      pass: z.boolean().optional(),
    }),
  ),
});

export type Published = z.infer<typeof resultSchema>;
type Row = Published['rows'][number];

const filesOf = (folder: string): string[] =>
  globSync('*.json', { cwd: folder }).map((file) => file.slice(0, -'.json'.length));

/** All benchmarks whose results are published: a published one that has no place in the order yet comes after those that have. */
export function inOrder(folder: string): string[] {
  const listed = PUBLISHED.map(({ name }) => name);
  const others = filesOf(folder).filter((name) => !listed.includes(name));
  return [...listed, ...others.toSorted((a, b) => (a < b ? -1 : 1))];
}

/** The published results that are there. Throws on a file that is not what a benchmark writes, or that is no measurement. */
export function readResults(folder: string): Published[] {
  const there = filesOf(folder);
  return inOrder(folder)
    .filter((name) => there.includes(name))
    .map((name) => ({ name, file: join(folder, `${name}.json`) }))
    .map(({ name, file }) => {
      const parsed = resultSchema.safeParse(JSON.parse(readFileSync(file, 'utf8')));
      if (!parsed.success) throw new Error(`${file}: ${z.prettifyError(parsed.error)}`);
      if (parsed.data.name !== name) throw new Error(`${file} holds the results of ${parsed.data.name}`);
      if (parsed.data.builds['quick'] !== undefined) throw new Error(`${file} was measured with --quick: run it whole`);
      return parsed.data;
    });
}

/** A line for each benchmark: one of its rows, and how many of its bars were kept. For the README. */
export function summaryBlock(results: readonly Published[]): string {
  const rows = results.map(({ name, rows: all }) => {
    const first = PUBLISHED.find((one) => one.name === name)?.first;
    const row = all.find((one) => `${one.case}: ${one.metric}` === first) ?? all.find(({ bar }) => bar !== undefined);
    const barred = all.filter(({ pass }) => pass !== undefined);
    const kept = `${barred.filter(({ pass }) => pass === true).length} of ${barred.length}`;
    return row === undefined
      ? cellsOf([`\`${name}\``, '', '', '', '', kept])
      : cellsOf([`\`${name}\``, ...numbersOf(row), kept]);
  });
  return ['| | for example | Berth | peer | ratio | bars kept |', '|---|---|--:|--:|--:|--:|', ...rows].join('\n');
}

/** All rows with a bar, what they were measured on, and what is missing. For docs/results.md. */
export function resultsBlock(results: readonly Published[]): string {
  const missing = PUBLISHED.filter(({ name }) => !results.some((result) => result.name === name)).map(
    ({ name }) => `\`${name}\``,
  );
  const parts: string[] = [];
  if (results.length > 0) {
    const rows = results.flatMap((result) => shownRows(result).map((row) => line(result.name, row)));
    parts.push(['| | what | Berth | peer | ratio | bar | |', '|---|---|--:|--:|--:|---|---|', ...rows].join('\n'));
    parts.push(origin(results));
  }
  if (missing.length > 0) parts.push(`Not measured yet: ${missing.join(', ')} (\`npm run bench -- NAME\`).`);
  return parts.join('\n\n');
}

function shownRows({ name, rows }: Published): readonly Row[] {
  const also = PUBLISHED.find((one) => one.name === name)?.also ?? [];
  const isNamed = (row: Row): boolean => also.includes(row.metric) || also.includes(`${row.case}: ${row.metric}`);
  return rows.filter((row) => row.bar !== undefined || isNamed(row));
}

function line(name: string, row: Row): string {
  const verdict = row.pass === undefined ? '' : row.pass ? 'kept' : '**missed**';
  return cellsOf([`\`${name}\``, ...numbersOf(row), row.bar ?? '', verdict]);
}

const numbersOf = (row: Row): string[] => [
  `${row.case}: ${row.metric}`,
  amount(row.berth, row.unit),
  row.peer === undefined ? '' : amount(row.peer, row.unit),
  row.ratio === undefined ? '' : amount(row.ratio, ''),
];

const cellsOf = (cells: readonly string[]): string =>
  `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;

const amount = (value: number | null, unit: string): string =>
  `${value === null ? '–' : shortNumber(value)} ${value === null ? '' : unit}`.trim();

/** Where the numbers come from: machines, commits, peers. */
function origin(results: readonly Published[]): string {
  const machines = Map.groupBy(results, ({ machine }) => machine);
  const where = [...machines].map(([machine, there]) => {
    const commits = Map.groupBy(there, ({ commit }) => commit);
    if (machines.size === 1 && commits.size === 1) return `${machine}, at commit ${there[0]?.commit}`;
    const names = [...commits].map(
      ([commit, ones]) => `${ones.map(({ name }) => `\`${name}\``).join(', ')} (${commit})`,
    );
    return `${machine}: ${names.join(', ')}`;
  });
  const peers = [
    ...new Set(results.flatMap(({ builds }) => (typeof builds['peer'] === 'string' ? [builds['peer']] : []))),
  ];
  const peer = peers.length === 0 ? '' : ` The peer is ${peers.join(' and ')}, measured in the same run.`;
  return `Measured on ${where.join('; on ')}.${peer}`;
}

/** The page with its block replaced. Throws if the markers are not there. */
export function withBlock(readme: string, block: string): string {
  const from = readme.indexOf(START);
  const to = readme.indexOf(END);
  if (from < 0 || to < from) throw new Error(`the markers ${START} and ${END} are missing in the page`);
  return `${readme.slice(0, from + START.length)}\n\n${block}\n\n${readme.slice(to)}`;
}
