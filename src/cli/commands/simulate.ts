/** `berth simulate`: a trace on a cluster that is not there, under Berth's own core and under other policies. */
import { writeFileSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { BerthError } from '../../errors.ts';
import type { Arrival, Mapping } from '../../sim/arrivals.ts';
import type { Column } from '../../sim/columns.ts';
import { COLUMNS, sloOf } from '../../sim/columns.ts';
import type { PolicyName, Workload } from '../../sim/compare.ts';
import { runPolicy, workload } from '../../sim/compare.ts';
import { asCluster, readJson } from '../../sim/costs.ts';
import type { FaultSpec } from '../../sim/faults.ts';
import type { Shape } from '../../sim/generate.ts';
import { generate } from '../../sim/generate.ts';
import { isPeer, PEERS } from '../../sim/peers/all.ts';
import { plotTtft } from '../../sim/plot.ts';
import type { Profile } from '../../sim/profile.ts';
import { asProfile, profileSetting } from '../../sim/profile.ts';
import type { Report } from '../../sim/report.ts';
import type { Slo } from '../../sim/recorder.ts';
import { simulate } from '../../sim/simulate.ts';
import { readTrace } from '../../sim/traces.ts';
import type { Io } from '../io.ts';
import { humanBytes, humanDuration, json, table } from '../output.ts';

export interface SimulateOptions {
  readonly trace?: string;
  readonly generate?: string;
  readonly cluster: string;
  readonly policy: string;
  /** Of a cluster, as is the next one; else `resident`. */
  readonly column?: string;
  readonly gpus?: string;
  readonly sloScale: string;
  readonly models: string;
  readonly tenants: string;
  readonly zipf: string;
  readonly seed: string;
  readonly requests: string;
  readonly rate: string;
  /** `SEED` or `SEED,RATE`. */
  readonly faults?: string;
  readonly plot?: string;
  readonly json?: boolean;
}

const PATTERNS: readonly Shape['pattern'][] = ['poisson', 'gamma', 'on-off', 'diurnal'];
/** Means of ShareGPT's conversations, as in Aegaeon's traces. */
const [MEAN_PROMPT_TOKENS, MEAN_OUTPUT_TOKENS] = [700, 300];

const USUAL_COLUMN: Column = 'resident';
const ALL = 'all';

export function simulateTrace(io: Io, options: SimulateOptions): Promise<void> {
  const path = resolve(io.cwd, options.cluster);
  const file = readJson(path);
  const profile = asProfile(file);
  const outcomes: readonly Outcome[] =
    profile === null ? onCluster(io, options, file, path) : [onProfile(io, options, profile)];
  const [first] = outcomes as readonly [Outcome];
  if (options.plot !== undefined) {
    const curves = first.results.map(({ policy, report }) => ({ name: policy, ttftByPercent: report.ttftByPercent }));
    const plot = plotTtft(`${nameOf(options)} on ${first.where}`, first.slo.ttftMicros, curves);
    writeFileSync(resolve(io.cwd, options.plot), plot);
  }
  if (options.json === true) io.out(json(plainly(outcomes, options)));
  else io.out(inTables(outcomes, io.stdoutIsTty));
  return Promise.resolve();
}

/** All policies in one column. */
interface Outcome {
  /** null: a profiled node has none. */
  readonly column: Column | null;
  readonly where: string;
  readonly slo: Slo;
  readonly results: readonly Result[];
}

/** One for each column that was asked for, in the order of `COLUMNS`. */
function onCluster(io: Io, options: SimulateOptions, file: unknown, path: string): Outcome[] {
  const cluster = asCluster(file, path);
  const columns = columnsOf(options);
  const gpus = options.gpus === undefined ? cluster.cluster.gpus : whole(options.gpus, '--gpus', 1);
  const sloScale = above(options.sloScale, '--slo-scale');
  const faults = faultsOf(options);
  const work = workOf(io, options);
  const policies = policiesOf(options.policy);
  return columns.map((column) => {
    const results = policies.map((policy) => {
      io.err(columns.length === 1 ? `${policy} …\n` : `${policy}, ${column} …\n`);
      return { policy, report: runPolicy(policy, work, { cluster, column, gpus, sloScale, ...faults }) };
    });
    return { column, where: `${gpus} GPUs, ${column}`, slo: sloOf(cluster, sloScale), results };
  });
}

function columnsOf({ column: text = USUAL_COLUMN, plot }: SimulateOptions): readonly Column[] {
  const column = oneOf<Column | typeof ALL>([...COLUMNS, ALL], text, '--column');
  if (column !== ALL) return [column];
  if (plot !== undefined)
    throw new BerthError('invalid_request', `--plot draws one column: name it, as in --column ${USUAL_COLUMN}`);
  return COLUMNS;
}

/** The node that was profiled, with its own models: those of the trace stand for them, one after the other. */
function onProfile(io: Io, options: SimulateOptions, profile: Profile): Outcome {
  const { cluster, gpus, column } = options;
  const misplaced = gpus !== undefined ? '--gpus' : column !== undefined ? '--column' : null;
  if (misplaced !== null)
    throw new BerthError(
      'invalid_request',
      `${misplaced}: ${cluster} is the profile of one device as it was measured; leave ${misplaced} out, or name a cluster.json with --cluster`,
    );
  if (options.policy !== 'berth')
    throw new BerthError('invalid_request', '--policy: a profiled node runs berth; peers need a cluster.json');
  const sloScale = above(options.sloScale, '--slo-scale');
  const { spec } = profile.models[0] as Profile['models'][number];
  const slo: Slo = {
    ttftMicros: Math.round(spec.ttftGoalMicros * sloScale),
    tpotMicros: Math.round(spec.interTokenGoalMicros * sloScale),
  };
  const { models, arrivals } = workOf(io, options);
  const own = new Map(models.map((name, index) => [name, profile.models[index % profile.models.length]?.spec.modelId]));
  const renamed = function* (): Generator<Arrival> {
    for (const arrival of arrivals()) yield { ...arrival, model: own.get(arrival.model) ?? arrival.model };
  };
  const report = simulate(renamed(), { ...profileSetting(profile, slo), ...faultsOf(options) });
  return { column: null, where: 'the profiled node', slo, results: [{ policy: 'berth', report }] };
}

interface Result {
  readonly policy: PolicyName;
  readonly report: Report;
}

const nameOf = ({ trace, generate: pattern }: SimulateOptions): string =>
  trace === undefined ? (pattern ?? '') : basename(trace);

function workOf(io: Io, options: SimulateOptions): Workload {
  const mapping: Mapping = {
    models: whole(options.models, '--models', 1),
    tenants: whole(options.tenants, '--tenants', 1),
    zipf: atLeast(options.zipf, '--zipf', 0),
    seed: whole(options.seed, '--seed', 0),
  };
  if ((options.trace === undefined) === (options.generate === undefined))
    throw new BerthError('invalid_request', 'name a trace with --trace FILE, or have one made with --generate PATTERN');
  if (options.trace !== undefined) {
    const file = resolve(io.cwd, options.trace);
    return workload(() => readTrace(file, mapping));
  }
  const shape: Shape = {
    ...mapping,
    pattern: oneOf(PATTERNS, options.generate ?? '', '--generate'),
    requests: whole(options.requests, '--requests', 1),
    perSecond: above(options.rate, '--rate'),
    meanPromptTokens: MEAN_PROMPT_TOKENS,
    meanOutputTokens: MEAN_OUTPUT_TOKENS,
  };
  return workload(() => generate(shape));
}

/** How the seed and the rate are written: docs/simulator.md. */
function faultsOf({ faults: text }: SimulateOptions): { readonly faults?: FaultSpec } {
  if (text === undefined) return {};
  const [seed = '', rate = '1', ...more] = text.split(',');
  if (more.length > 0)
    throw new BerthError('invalid_request', `--faults: expected SEED or SEED,RATE, received ${JSON.stringify(text)}`);
  return { faults: { seed: whole(seed, '--faults SEED', 0), rate: above(rate, '--faults SEED,RATE') } };
}

function policiesOf(text: string): PolicyName[] {
  if (text === 'all') return ['berth', ...PEERS];
  return text.split(',').map((name) => {
    if (name === 'berth' || isPeer(name)) return name;
    throw new BerthError(
      'invalid_request',
      `--policy: ${JSON.stringify(name)} is none of berth, ${PEERS.join(', ')}, all`,
    );
  });
}

function oneOf<T extends string>(choices: readonly T[], text: string, option: string): T {
  const found = choices.find((choice) => choice === text);
  if (found === undefined)
    throw new BerthError('invalid_request', `${option}: ${JSON.stringify(text)} is none of ${choices.join(', ')}`);
  return found;
}

function whole(text: string, option: string, least: number): number {
  const value = Number(text);
  if (text.trim() !== '' && Number.isSafeInteger(value) && value >= least) return value;
  throw new BerthError('invalid_request', `${option}: expected a whole number from ${least} on, received ${text}`);
}

function atLeast(text: string, option: string, least: number): number {
  const value = Number(text);
  if (text.trim() !== '' && Number.isFinite(value) && value >= least) return value;
  throw new BerthError('invalid_request', `${option}: expected a number from ${least} on, received ${text}`);
}

function above(text: string, option: string): number {
  const value = Number(text);
  if (Number.isFinite(value) && value > 0) return value;
  throw new BerthError('invalid_request', `${option}: expected a number above 0, received ${text}`);
}

const plain = ({ policy, report }: Result): object => ({ policy, ...report, ttftByPercent: undefined });

/** What `--json` prints: of `--column all` an object by column. */
function plainly(outcomes: readonly Outcome[], options: SimulateOptions): object {
  const trace = nameOf(options);
  const [{ where, slo, results }] = outcomes as readonly [Outcome];
  if (outcomes.length === 1) return { trace, where, slo, policies: results.map(plain) };
  const columns = outcomes.map((one) => [one.column, { where: one.where, policies: one.results.map(plain) }]);
  return { trace, slo, columns: Object.fromEntries(columns) };
}

const percent = (share: number): string => (100 * share).toFixed(2);
const time = (micros: number): string => (Number.isFinite(micros) ? humanDuration(Math.round(micros)) : 'never');

const COLUMN_HEADERS = [
  'POLICY',
  'STRICT %',
  'TOKENS %',
  'TIME-QOS %',
  'TTFT P50',
  'TTFT P99',
  'TPOT P50',
  'TOKENS/S',
  'GAP %',
  'SWITCHES',
  'LINK',
  'DROPPED',
];

/** Several columns have their names above them. */
function inTables(outcomes: readonly Outcome[], styled: boolean): string {
  const tables = outcomes.map(({ results }) => shown(results, styled));
  if (outcomes.length === 1) return tables.join('');
  return outcomes.map(({ where }, index) => `${where}\n${tables[index]}`).join('\n');
}

function shown(results: readonly Result[], styled: boolean): string {
  const rows = results.map(({ policy, report }) => [
    policy,
    percent(report.strict),
    percent(report.tokensOnTime),
    percent(report.timeQos),
    time(report.ttft.p50),
    time(report.ttft.p99),
    time(report.tpot.p50),
    report.goodput.toFixed(0),
    percent(report.fairnessGap),
    String(report.switches),
    humanBytes(report.linkBytes),
    String(report.dropped),
  ]);
  return table({ headers: COLUMN_HEADERS, rows, right: COLUMN_HEADERS.slice(1), styled }) + ends(results, styled);
}

const END_HEADERS = [
  'POLICY',
  'CRASHES',
  'HANGS',
  'BAD LOADS',
  'SLOW LOADS',
  'FINISHED',
  'CANCELLED',
  'REFUSED',
  'FAILED',
  'OF THEM LOST',
  'RECOMPUTED',
];

/** Where something was to go wrong: what did, how each request ended, what the faults cost. No request is left, else there were no result. */
function ends(results: readonly Result[], styled: boolean): string {
  const rows = results.flatMap(({ policy, report: { faults, outcomes } }) => {
    if (faults === null) return [];
    const { finished, cancelled, refused, failed } = outcomes;
    const { crashes, hangs, failedLoads, slowLoads, requestsLost, recomputedTokens } = faults;
    const struck = [crashes, hangs, failedLoads, slowLoads];
    return [[policy, ...[...struck, finished, cancelled, refused, failed, requestsLost, recomputedTokens].map(String)]];
  });
  return rows.length === 0 ? '' : `\n${table({ headers: END_HEADERS, rows, right: END_HEADERS.slice(1), styled })}`;
}
