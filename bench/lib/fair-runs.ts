/** Plays loads of several tenants on a node, and tells who was served when. */
import { setTimeout as pause } from 'node:timers/promises';
import { ask } from './client.ts';
import type { Arrival, Shape } from './fair-scenarios.ts';
import type { Random } from './random.ts';
import type { Server } from './servers.ts';
import type { Served } from './service.ts';
import { serviceIn } from './service.ts';
import { settled } from './tenants.ts';

export interface Stage {
  readonly server: Server;
  readonly models: readonly string[];
  readonly random: Random;
}

/** Token ids, so that a prompt has exactly so many, and no two begin alike. */
const promptOf = (random: Random, { promptTokens }: Shape): number[] =>
  Array.from({ length: promptTokens }, () => random.between(1_000, 20_000));

/** One request; times are milliseconds from `start`. What is cut off by the signal has been served as far as it came. */
async function serve(
  { server, random }: Stage,
  model: string,
  { tenant, ...shape }: Shape & { readonly tenant: string },
  key: string,
  start: number,
  signal: AbortSignal,
): Promise<Served> {
  const intendedAt = performance.now();
  const answer = await ask({
    url: server.url,
    model,
    prompt: promptOf(random, shape),
    maxTokens: shape.outputTokens,
    key,
    extra: { ignore_eos: true },
    intendedAt,
    signal,
  });
  if (answer.error !== null && !signal.aborted) throw new Error(`${tenant}, ${model}: ${answer.error}`);
  const sentAt = intendedAt - start;
  const isWhole = answer.error === null;
  return {
    tenant,
    sentAt,
    chunksAt: answer.chunkMillis.map((millis) => sentAt + millis),
    endedAt: sentAt + answer.totalMillis,
    promptTokens: shape.promptTokens - answer.cachedTokens,
    outputTokens: isWhole ? answer.outputTokens : answer.chunkMillis.length,
  };
}

/** Sends each request at its time, by turns to each model, whether the earlier ones are done or not; at the end all is cut off. */
export async function playArrivals(
  stage: Stage,
  arrivals: readonly Arrival[],
  keyOf: (tenant: string) => string,
  millis: number,
): Promise<Served[]> {
  const ending = new AbortController();
  const start = performance.now();
  const timer = setTimeout(() => ending.abort(), millis);
  const sent = new Map<string, number>();
  const served = arrivals.map(async ({ at, tenant, ...shape }) => {
    await pause(Math.max(0, start + at - performance.now()));
    const count = sent.get(tenant) ?? 0;
    sent.set(tenant, count + 1);
    const model = stage.models[count % stage.models.length] as string;
    return serve(stage, model, { tenant, ...shape }, keyOf(tenant), start, ending.signal);
  });
  try {
    return await Promise.all(served);
  } finally {
    clearTimeout(timer);
    ending.abort();
    await settled(stage.server);
  }
}

export interface Loop extends Shape {
  readonly tenant: string;
  readonly models: readonly string[];
  readonly inFlight: number;
}

/** So many requests in flight all the time, by turns to each of its models, until the signal. */
export async function playLoop(
  stage: Stage,
  { models, inFlight, ...request }: Loop,
  key: string,
  start: number,
  signal: AbortSignal,
): Promise<Served[]> {
  const served: Served[] = [];
  let count = 0;
  const work = async (): Promise<void> => {
    while (!signal.aborted) {
      const model = models[count++ % models.length] as string;
      served.push(await serve(stage, model, request, key, start, signal));
    }
  };
  await Promise.all(Array.from({ length: inFlight }, work));
  return served;
}

/** Weighted tokens a second that the node serves when it is full of requests of this shape. */
export async function measureCapacity(stage: Stage, key: string, shape: Shape, millis: number): Promise<number> {
  const ending = new AbortController();
  const timer = setTimeout(() => ending.abort(), millis);
  const loop = { tenant: 'all', models: stage.models, inFlight: 12, ...shape };
  const served = await playLoop(stage, loop, key, performance.now(), ending.signal);
  clearTimeout(timer);
  await settled(stage.server);
  // The first quarter is for models to be warm and full.
  return (1000 * serviceIn(served, { from: millis / 4, to: millis })) / (0.75 * millis);
}
