/** How a load's report looks on a terminal. Pure. */
import type { Micros } from '../core/ids.ts';
import type { Progress } from '../load/driver.ts';
import type { Figures, LoadReport, Named, Percentiles, Slo } from '../load/report.ts';
import { serviceOf } from '../load/report.ts';
import { humanDuration, table } from './output.ts';

/** So many models are listed; the rest is summed up in the line of all. */
const MOST_LISTED = 30;

const HEADERS = ['', 'REQ', 'ERR', 'TTFT P50', 'P95', 'P99', 'ITL P50', 'P95', 'P99', 'E2E P50', 'P95', 'P99'];
const LAST_HEADERS = ['TOK/S', 'GOOD %'];

export interface Shown {
  readonly report: LoadReport;
  readonly slo: Slo;
  /** null: the server doesn't tell. */
  readonly switches: number | null;
  readonly styled: boolean;
}

export function showReport({ report, slo, switches, styled }: Shown): string {
  const { all, models, tenants, priorities, overhead, unsent } = report;
  const parts = [tableOf('MODEL', [...models.slice(0, MOST_LISTED), { name: 'all', ...all }], styled)];
  if (models.length > MOST_LISTED) parts.push(`… and ${models.length - MOST_LISTED} more models: --json has them\n`);
  if (tenants.length > 1) parts.push('\n', tableOf('TENANT', tenants, styled));
  if (priorities.length > 1) parts.push('\n', tableOf('PRIORITY', priorities, styled));
  parts.push('\n', ...factsOf(report, slo, switches).map(([name, text]) => `${name.padEnd(10)}${text}\n`));
  if (unsent > 0) parts.push(`${'not sent'.padEnd(10)}${unsent} later turns: the one before failed, or time was up\n`);
  const { lagP99Micros, lagMostMicros, loopDelayP99Micros, loopDelayMostMicros, cpuShare } = overhead;
  parts.push(
    `${'own cost'.padEnd(10)}sent ${time(lagP99Micros)} late (p99; at most ${time(lagMostMicros)}), ` +
      `event loop ${time(loopDelayP99Micros)} late (p99; at most ${time(loopDelayMostMicros)}), ${(100 * cpuShare).toFixed(0)} % of a core\n`,
  );
  return parts.join('');
}

function factsOf({ all, tenants, fairnessGap, elapsedMicros }: LoadReport, slo: Slo, switches: number | null) {
  const facts: (readonly [string, string])[] = [
    [
      'total',
      `${all.done} of ${all.requests} answered in ${time(elapsedMicros)}, ${all.cancelled} hung up on as planned`,
    ],
    [
      'tokens',
      `${all.promptTokens} in (${all.cachedTokens} cached), ${all.outputTokens} out: ${all.outputTokensPerSecond.toFixed(1)} tokens/s`,
    ],
    ['goodput', `${(100 * all.goodShare).toFixed(1)} %, ${all.goodPerSecond.toFixed(2)} requests/s (${sloWords(slo)})`],
    ['switches', switches === null ? 'not told by this server' : String(switches)],
  ];
  const errors = Object.entries(all.errors).map(([code, count]) => `${code} ${count}`);
  if (errors.length > 0) facts.push(['errors', errors.join(', ')]);
  if (fairnessGap !== null) {
    const services = tenants.map(serviceOf);
    facts.push([
      'gap',
      `${fairnessGap} weighted tokens between the tenants that got most (${Math.max(...services)}) and least (${Math.min(...services)})`,
    ]);
  }
  return facts;
}

function tableOf(what: string, all: readonly Named[], styled: boolean): string {
  const headers = [what, ...HEADERS.slice(1), ...LAST_HEADERS];
  return table({ headers, rows: all.map(rowOf), right: headers.slice(1), styled });
}

const rowOf = (figures: Named): string[] => [
  figures.name,
  String(figures.requests),
  String(errorsOf(figures)),
  ...timesOf(figures.ttft),
  ...timesOf(figures.interToken),
  ...timesOf(figures.endToEnd),
  figures.outputTokensPerSecond.toFixed(1),
  (100 * figures.goodShare).toFixed(1),
];

const errorsOf = ({ errors }: Figures): number => Object.values(errors).reduce((sum, count) => sum + count, 0);
const timesOf = ({ p50, p95, p99 }: Percentiles): string[] => [p50, p95, p99].map(time);
const time = (micros: Micros): string => (Number.isFinite(micros) ? humanDuration(Math.round(micros)) : '-');

function sloWords({ ttftMicros, tpotMicros, gapMicros }: Slo): string {
  const words = [
    ...(ttftMicros === null ? [] : [`first token in ${time(ttftMicros)}`]),
    ...(tpotMicros === null ? [] : [`${time(tpotMicros)} a token on average`]),
    ...(gapMicros === null ? [] : [`no gap over ${time(gapMicros)}`]),
  ];
  return words.join(', ') || 'answered whole';
}

/** What ends a load; null: not that. */
export interface Planned {
  readonly durationMicros: Micros | null;
  /** All turns counted. */
  readonly requests: number | null;
}

export function showProgress({ sent, running, ended, failed, elapsedMicros }: Progress, planned: Planned): string {
  const { durationMicros, requests } = planned;
  // Whichever comes first ends it. A trace without limits says nothing of its end.
  const share = Math.max(elapsedMicros / (durationMicros ?? Infinity), ended / (requests ?? Infinity));
  const isLimited = durationMicros !== null || requests !== null;
  // Past its time it waits for the last answers.
  const percent = isLimited ? ` · ${Math.floor(100 * Math.min(1, share))} %` : '';
  return `${Math.round(elapsedMicros / 1e6)} s${percent} · ${sent} sent · ${running} running · ${failed} failed`;
}
