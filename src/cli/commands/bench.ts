/** `berth bench`: puts a load on any OpenAI-compatible server, and tells what its clients noticed. */
import { writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { BerthError, ERRORS } from '../../errors.ts';
import type { ErrorCode } from '../../errors.ts';
import type { Driven, Progress } from '../../load/driver.ts';
import { drive } from '../../load/driver.ts';
import type { Weighted } from '../../load/plan.ts';
import { plan } from '../../load/plan.ts';
import type { Figures, LoadReport } from '../../load/report.ts';
import { report, ttftByPercent } from '../../load/report.ts';
import { modelNames, switchesSoFar } from '../../load/server.ts';
import { plotTtft } from '../../sim/plot.ts';
import type { Asked, BenchOptions } from '../bench-options.ts';
import { namedModels, readBench, weightsOf } from '../bench-options.ts';
import { showProgress, showReport } from '../bench-report.ts';
import type { ChildNode } from '../child-node.ts';
import { startChildNode } from '../child-node.ts';
import type { Client } from '../client.ts';
import { adminClient, publicClient } from '../client.ts';
import type { Io } from '../io.ts';
import { json } from '../output.ts';

/** After the load's end running requests may end for so long; then they are cut off and counted so. */
const GRACE_MICROS = 60e6;
/** Models that have a curve of their own in the picture. */
const MOST_CURVES = 8;

export async function bench(io: Io, url: string | undefined, options: BenchOptions): Promise<void> {
  if (url !== undefined && options.start === true)
    throw new BerthError('invalid_request', '--start starts a node itself: name no URL');
  const base = url?.replace(/\/(v1\/?)?$/, '');
  const asked = readBench(options, io.cwd, options.apiKey ?? io.env['BERTH_API_KEY']);
  const named = namedModels(options);
  const over = new AbortController();
  const offSignal = io.onSignal(() => over.abort());
  let child: ChildNode | null = null;
  try {
    if (options.start === true) child = await startChildNode(io, startArgs(options));
    const clients = clientsOf(io, options, asked, child?.url ?? base, child?.adminUrl);
    const models = named ?? weightsOf(await askModels(clients.api), options.zipf);
    const before = await readSwitches(clients.metrics);
    const driven = await run(io, options, asked, models, clients.api.baseUrl, over.signal);
    const after = await readSwitches(clients.metrics);
    const switches = before === null || after === null ? null : after - before;
    const { all } = tell(io, options, asked, driven, switches);
    if (over.signal.aborted)
      throw new BerthError('request_cancelled', 'interrupted: the report covers what had been sent by then');
    refuseNothing(all);
  } finally {
    offSignal();
    await child?.stop();
  }
}

const startArgs = ({ config, engine }: BenchOptions): string[] => [
  // Its decisions belong in nobody's table of results.
  '--log-level',
  'warn',
  ...(config === undefined ? [] : ['--config', config]),
  ...(engine === undefined ? [] : ['--engine', engine]),
];

interface Clients {
  readonly api: Client;
  /** Where /metrics may be. */
  readonly metrics: Client;
}

function clientsOf(
  io: Io,
  options: BenchOptions,
  { tenants, keyOf }: Asked,
  url: string | undefined,
  adminUrl: string | undefined,
): Clients {
  const key = keyOf(tenants[0]?.name ?? '');
  const api = publicClient({ ...(url === undefined ? {} : { url }), ...(key === null ? {} : { apiKey: key }) }, io.env);
  const admin = adminUrl ?? options.adminUrl;
  // Others have their metrics beside their API.
  const isOther = url !== undefined && admin === undefined;
  const adminOptions = {
    ...(admin === undefined ? {} : { adminUrl: admin }),
    ...(options.adminKey === undefined ? {} : { adminKey: options.adminKey }),
  };
  return { api, metrics: isOther ? api : adminClient(adminOptions, io.env) };
}

async function askModels(api: Client): Promise<string[]> {
  const names = modelNames(await api.json('/v1/models'));
  if (names === null)
    throw new BerthError('invalid_request', `${api.baseUrl}/v1/models lists no models: name them with --models`);
  if (names.length === 0)
    throw new BerthError('model_not_found', `${api.baseUrl} has no model: add one, or name them with --models`);
  return names;
}

/** null: the server doesn't tell; a load can do without. */
async function readSwitches(client: Client): Promise<number | null> {
  try {
    return switchesSoFar(await new Response(await client.stream('/metrics')).text());
  } catch {
    return null;
  }
}

async function run(
  io: Io,
  options: BenchOptions,
  asked: Asked,
  models: readonly Weighted[],
  url: string,
  signal: AbortSignal,
): Promise<Driven> {
  const { arrivals } = asked;
  const onProgress = (progress: Progress): void => io.err(`\r\u001b[K${showProgress(progress, asked)}`);
  try {
    return await drive({
      url,
      api: options.api,
      keyOf: asked.keyOf,
      conversations: plan({ ...asked, models }),
      concurrency: arrivals.kind === 'closed' ? arrivals.concurrency : null,
      durationMicros: asked.durationMicros,
      graceMicros: GRACE_MICROS,
      timeoutMicros: asked.timeoutMicros,
      seed: asked.seed,
      fields: options.ignoreEos ? { ignore_eos: true } : {},
      signal,
      ...(io.stderrIsTty ? { onProgress } : {}),
    });
  } finally {
    if (io.stderrIsTty) io.err('\r\u001b[K');
  }
}

/** Prints, and writes files. */
function tell(
  io: Io,
  options: BenchOptions,
  { slo, seed }: Asked,
  driven: Driven,
  switches: number | null,
): LoadReport {
  const seen = report(driven, slo);
  const whole = { seed, slo, switches, ...seen };
  if (options.json !== '-') io.out(showReport({ report: seen, slo, switches, styled: io.stdoutIsTty }));
  if (options.json === '-') io.out(json(whole));
  else if (options.json !== undefined) writeFileSync(resolve(io.cwd, options.json), json(whole));
  if (options.plot !== undefined) writeFileSync(resolve(io.cwd, options.plot), pictureOf(driven, seen, slo.ttftMicros));
  return seen;
}

/** Where not one request was answered the numbers say nothing. */
function refuseNothing({ errors, done, cancelled, requests }: Figures): void {
  const [code] = Object.keys(errors);
  if (code === undefined || done + cancelled > 0) return;
  throw new BerthError(
    Object.hasOwn(ERRORS, code) ? (code as ErrorCode) : 'node_unreachable',
    `none of ${requests} requests was answered: ${code}`,
  );
}

function pictureOf({ records }: Driven, { models, all }: LoadReport, goalMicros: number | null): string {
  const named = models.slice(0, MOST_CURVES).map(({ name }) => ({
    name,
    ttftByPercent: ttftByPercent(records.filter(({ model }) => model === name)),
  }));
  const curves = [{ name: 'all', ttftByPercent: ttftByPercent(records) }, ...(named.length > 1 ? named : [])];
  return plotTtft(`${all.requests} requests`, goalMicros ?? 0, curves);
}
