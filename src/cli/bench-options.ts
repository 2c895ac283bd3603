/** What `berth bench` was asked for, from its options: units read, contradictions refused. */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseDuration } from '../config/kinds.ts';
import type { Micros } from '../core/ids.ts';
import { SECOND } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import { readArrivals, readKeys, readNumber, readRange, readShare, readWeights, readWhole } from '../load/parse.ts';
import type { Arrivals, LoadShape, Weighted } from '../load/plan.ts';
import { zipfWeights } from '../load/plan.ts';
import type { Slo } from '../load/report.ts';
import { readTrace } from '../sim/traces.ts';
import type { NodeOptions } from './client.ts';

export interface BenchOptions extends Omit<NodeOptions, 'json' | 'url'> {
  readonly concurrency?: string;
  readonly rate?: string;
  readonly arrivals?: string;
  readonly duration?: string;
  readonly requests?: string;
  readonly models?: string;
  readonly zipf?: string;
  readonly keys?: string;
  readonly turns: string;
  readonly think: string;
  readonly promptTokens?: string;
  readonly outputTokens?: string;
  readonly cancel: string;
  readonly batch: string;
  readonly sloTtft: string;
  readonly sloTpot: string;
  readonly sloGap?: string;
  readonly api: 'chat' | 'completions';
  /** false: `--no-ignore-eos`. */
  readonly ignoreEos: boolean;
  readonly timeout: string;
  readonly seed: string;
  readonly json?: string;
  readonly plot?: string;
  readonly start?: boolean;
  readonly config?: string;
  readonly engine?: string;
}

const USUAL_CONCURRENCY = 8;
const USUAL_DURATION = 30 * SECOND;
const USUAL_PROMPT_TOKENS = '128';
const USUAL_OUTPUT_TOKENS = '64';
/** A timer can't be set for more than 24 days. */
const LONGEST = 7 * 24 * 3_600 * SECOND;

/** All but the models, which the server may have to be asked for. */
export type Asked = Omit<LoadShape, 'models'> & {
  readonly slo: Slo;
  readonly timeoutMicros: Micros;
  readonly keyOf: (tenant: string) => string | null;
};

/** @throws BerthError invalid_request, naming the option */
export function readBench(options: BenchOptions, cwd: string, apiKey: string | undefined): Asked {
  const seed = readWhole('--seed', options.seed, 0, 2 ** 31 - 1);
  const arrivals = arrivalsOf(options, cwd, seed);
  const isTrace = arrivals.kind === 'trace';
  const turns = readRange('--turns', options.turns);
  if (isTrace && turns.most > 1)
    throw new BerthError('invalid_request', '--turns: a trace’s requests are conversations of one turn');
  const keys = options.keys === undefined ? null : readKeys('--keys', readText('--keys', resolve(cwd, options.keys)));
  const tokens = (option: string, text: string | undefined, usual: string) =>
    text === undefined && isTrace ? null : readRange(option, text ?? usual);
  const isEndless = options.duration === undefined && options.requests === undefined && !isTrace;
  return {
    seed,
    arrivals,
    tenants: [...(keys?.keys() ?? ['default'])].map((name) => ({ name, weight: 1 })),
    keyOf: (tenant) => (keys === null ? (apiKey ?? null) : (keys.get(tenant) ?? null)),
    durationMicros: isEndless ? USUAL_DURATION : durationOf('--duration', options.duration),
    requests: options.requests === undefined ? null : readWhole('--requests', options.requests, 1),
    turns,
    thinkMicros: durationOf('--think', options.think) ?? 0,
    promptTokens: tokens('--prompt-tokens', options.promptTokens, USUAL_PROMPT_TOKENS),
    outputTokens: tokens('--output-tokens', options.outputTokens, USUAL_OUTPUT_TOKENS),
    cancelShare: readShare('--cancel', options.cancel),
    batchShare: readShare('--batch', options.batch),
    slo: {
      ttftMicros: durationOf('--slo-ttft', options.sloTtft),
      tpotMicros: durationOf('--slo-tpot', options.sloTpot),
      gapMicros: durationOf('--slo-gap', options.sloGap),
    },
    timeoutMicros: durationOf('--timeout', options.timeout) ?? 0,
  };
}

/** null: the server is to be asked. */
export function namedModels({ models, zipf }: BenchOptions): Weighted[] | null {
  if (models === undefined) return null;
  const weights = readWeights('--models', models);
  if (zipf !== undefined && weights.some(({ weight }) => weight !== 1))
    throw new BerthError('invalid_request', '--zipf gives the models their weights: name them without');
  return weightsOf(
    weights.map(({ name }) => name),
    zipf,
    weights,
  );
}

/** Of these names in this order. */
export function weightsOf(
  names: readonly string[],
  zipf: string | undefined,
  else_: readonly Weighted[] = names.map((name) => ({ name, weight: 1 })),
): Weighted[] {
  if (zipf === undefined) return [...else_];
  // All alike is an exponent of 0.
  return zipfWeights(names, zipf.trim() === '0' ? 0 : readNumber('--zipf', zipf, 0));
}

function arrivalsOf({ concurrency, rate, arrivals }: BenchOptions, cwd: string, seed: number): Arrivals {
  const perSecond = rate === undefined ? null : readNumber('--rate', rate, 0);
  const asked = arrivals === undefined ? null : readArrivals('--arrivals', arrivals);
  if (concurrency !== undefined && (perSecond !== null || asked !== null))
    throw new BerthError(
      'invalid_request',
      '--concurrency is a closed loop, --rate and --arrivals are an open one: choose one of the two',
    );
  if (asked?.kind === 'trace') {
    const file = resolve(cwd, asked.file);
    return { kind: 'trace', perSecond, arrivals: () => readTrace(file, { models: 1, tenants: 1, zipf: 0, seed }) };
  }
  if (perSecond !== null) return { ...(asked ?? ({ kind: 'poisson' } as const)), perSecond };
  if (asked !== null) throw new BerthError('invalid_request', '--arrivals: say how many a second with --rate');
  return {
    kind: 'closed',
    concurrency: concurrency === undefined ? USUAL_CONCURRENCY : readWhole('--concurrency', concurrency, 1, 4_096),
  };
}

function durationOf(option: string, text: string | undefined): Micros | null {
  if (text === undefined) return null;
  const micros = parseDuration(text);
  if (micros !== undefined && micros >= 0 && micros <= LONGEST) return micros;
  throw new BerthError(
    'invalid_request',
    `${option}: expected a duration such as 30s, 5m or 200ms, received ${JSON.stringify(text)}`,
  );
}

function readText(option: string, path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new BerthError('invalid_request', `${option}: ${path} can’t be read: ${(error as Error).message}`);
  }
}
