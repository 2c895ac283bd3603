/**
 * Do the books balance, and what do they cost? Three runs on one node with three tenants: more models than fit, a flood, and runners
 * that are killed. Over each run the ledger's device time (computed, switched, idle, overhead) must be the wall time, by the bench's
 * own clock, times the lanes; and its tokens must be those that clients were told, tenant by tenant, to the last one. That the
 * device's time is not only divided up but true is seen beside it: what the system counted as CPU of the node's children.
 */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { gemmaPath, smollm2Path } from '../test/models.ts';
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { result } from './harness.ts';
import { balanceRow, readBooks } from './lib/books.ts';
import type { Answer } from './lib/client.ts';
import { ask, inFlight } from './lib/client.ts';
import { heldBytes } from './lib/node-admin.ts';
import { cpuSecondsBelow } from './lib/processes.ts';
import type { Random } from './lib/random.ts';
import { seeded } from './lib/random.ts';
import type { Server } from './lib/servers.ts';
import { copyModels, startBerth } from './lib/servers.ts';
import { strike } from './lib/strikes.ts';
import { requestCost, startCost } from './lib/tenancy-cost.ts';
import { addTenants, settled, statusOf } from './lib/tenants.ts';

const MODELS = 6;
const FIT = 3;
const LANES = 2;
const CONTEXT_TOKENS = 512;
const FULL = { overcommit: 80, flood: 128, interactive: 15, kills: 10 };
const QUICK = { overcommit: 12, flood: 16, interactive: 2, kills: 2 };
type Size = typeof FULL;

export const about = 'the ledger against the wall clock and against what clients were told; its cost; 10,000 tenants';

const TENANTS = ['a', 'b', 'c'] as const;
type Keys = Readonly<Record<(typeof TENANTS)[number], string>>;
/** What each tenant's clients were told. */
type Told = Readonly<Record<(typeof TENANTS)[number], readonly Answer[]>>;

interface Scene {
  readonly server: Server;
  readonly names: readonly string[];
  readonly keys: Keys;
  readonly size: Size;
  readonly random: Random;
}

export async function run({ quick }: BenchArgs): Promise<BenchResult> {
  const size = quick ? QUICK : FULL;
  const folder = mkdtempSync(join(tmpdir(), 'berth-ledger-'));
  const rows: BenchRow[] = [];
  try {
    const names = copyModels(folder, MODELS, [smollm2Path(), gemmaPath()], copyFileSync);
    const memory = await memoryFor(folder, names);
    const server = await startBerth({ config: configOf(folder, `${memory}`) });
    try {
      const keys = await addTenants(server, TENANTS);
      const scene: Scene = { server, names, keys, size, random: seeded(5) };
      for (const { name, play } of RUNS) rows.push(...(await audit(name, scene, play)));
    } finally {
      await server.stop();
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  rows.push(...(await requestCost(quick)), ...(await startCost(quick)));
  return result('ledger', rows, { models: MODELS, memoryFor: FIT });
}

const configOf = (modelsDir: string, memory: string): Record<string, unknown> => ({
  // Runners are killed: no news.
  log: { level: 'silent' },
  modelsDir,
  device: { memory, lanes: LANES },
  defaults: { context: CONTEXT_TOKENS, parallel: 4 },
});

async function memoryFor(folder: string, names: readonly string[]): Promise<number> {
  const server = await startBerth({ config: configOf(folder, '8GiB') });
  try {
    for (const model of names.slice(0, 2)) await ask({ url: server.url, model, prompt: 'Hello', maxTokens: 2 });
    const { largestBytes, overheadBytes } = await heldBytes(server);
    return FIT * largestBytes + overheadBytes;
  } finally {
    await server.stop();
  }
}

const question = ({ server, keys }: Scene, tenant: keyof Keys, model: string, prompt: string, maxTokens: number) => ({
  url: server.url,
  model,
  prompt,
  maxTokens,
  key: keys[tenant],
  extra: { ignore_eos: true },
});

const RUNS: readonly { readonly name: string; readonly play: (scene: Scene) => Promise<Told> }[] = [
  {
    name: `${MODELS} models, memory for ${FIT}`,
    async play(scene) {
      const { names, size, random } = scene;
      const told: Record<keyof Keys, Answer[]> = { a: [], b: [], c: [] };
      const tasks = Array.from({ length: size.overcommit }, (_, index) => async () => {
        const tenant = TENANTS[index % TENANTS.length] as keyof Keys;
        // About Zipf: the first model is asked for most.
        const model = names[Math.floor(names.length ** random.next()) - 1] as string;
        // Some texts come again, so that there are cached tokens to be counted.
        const prompt = index % 4 === 3 ? 'The same long question about the winter sea. '.repeat(12) : random.words(20);
        told[tenant].push(await ask(question(scene, tenant, model, prompt, random.between(4, 32))));
      });
      await inFlight(8, tasks);
      return told;
    },
  },
  {
    name: 'a flood on three models',
    async play(scene) {
      const { names, size, random } = scene;
      const flood = Array.from({ length: size.flood }, (_, index) => () => {
        const model = names[index % FIT] as string;
        return ask(question(scene, 'a', model, random.words(24), 32));
      });
      const flooded = inFlight(64, flood);
      const b: Answer[] = [];
      for (let index = 0; index < size.interactive; index++) {
        await pause(1_000);
        b.push(await ask(question(scene, 'b', names[0] as string, random.words(8), 8)));
      }
      return { a: await flooded, b, c: [] };
    },
  },
  {
    name: 'runners killed',
    async play({ server, names, keys, size, random }) {
      const model = names[0] as string;
      const target = { server, model, file: `${model}.gguf`, keys: { struck: keys.c, undisturbed: keys.b } };
      const { strikes, late } = await strike(target, size.kills, random);
      return {
        a: [],
        b: strikes.map(({ undisturbed }) => undisturbed),
        c: [...strikes.map(({ struck }) => struck), ...late],
      };
    },
  },
];

const KINDS = ['compute', 'switch', 'idle', 'overhead'] as const;

/** What the ledger says now: lane-seconds by kind, and tokens by tenant. */
interface Books {
  readonly seconds: Readonly<Record<string, number>>;
  readonly tokens: Readonly<Record<string, Tokens>>;
  /** By the bench's clock. */
  readonly at: number;
  readonly cpuSeconds: number;
}

interface Tokens {
  readonly requests: number;
  readonly input: number;
  readonly cached: number;
  readonly output: number;
}

async function read(server: Server): Promise<Books> {
  const { sums, at } = await readBooks(server, ['kind', 'tenant']);
  const seconds: Record<string, number> = {};
  const tokens: Record<string, Tokens> = {};
  for (const { kind, tenant, laneMicros, requests, inputTokens, cachedTokens, outputTokens } of sums) {
    if (kind === null || tenant === null) throw new Error('the ledger was asked for kinds and tenants');
    if (kind !== 'request') seconds[kind] = (seconds[kind] ?? 0) + laneMicros / 1e6;
    else tokens[tenant] = { requests, input: inputTokens, cached: cachedTokens, output: outputTokens };
  }
  return { seconds, tokens, at, cpuSeconds: cpuSecondsBelow(server.pid) };
}

const NONE: Tokens = { requests: 0, input: 0, cached: 0, output: 0 };

async function audit(name: string, scene: Scene, play: (scene: Scene) => Promise<Told>): Promise<BenchRow[]> {
  const { server } = scene;
  const { lanes } = (await statusOf(server)).device;
  await settled(server);
  const before = await read(server);
  const told = await play(scene);
  await settled(server);
  const after = await read(server);
  const answers = Object.values(told).flat();
  for (const { error } of answers) if (error !== null) console.error(`${name}: ${error}`);

  const wall = (lanes * (after.at - before.at)) / 1000;
  const of = (kind: string): number => (after.seconds[kind] ?? 0) - (before.seconds[kind] ?? 0);
  const booked = KINDS.reduce((sum, kind) => sum + of(kind), 0);
  let difference = 0;
  for (const tenant of TENANTS) {
    const [from, to] = [before.tokens[tenant] ?? NONE, after.tokens[tenant] ?? NONE];
    for (const [field, value] of Object.entries(sumOf(told[tenant]))) {
      const key = field as keyof Tokens;
      difference += Math.abs(to[key] - from[key] - value);
    }
  }
  const what = { case: name };
  const all = sumOf(answers);
  return [
    balanceRow(name, booked, wall),
    ...KINDS.map((kind) => ({ ...what, metric: `of it ${kind}`, unit: '%', berth: (100 * of(kind)) / wall })),
    {
      ...what,
      metric: 'computed and switched, peer: CPU of all runners',
      unit: 'lane-seconds',
      berth: of('compute') + of('switch'),
      peer: after.cpuSeconds - before.cpuSeconds,
      ratio: (of('compute') + of('switch')) / (after.cpuSeconds - before.cpuSeconds),
    },
    {
      ...what,
      metric: 'requests and tokens that differ from what clients were told',
      unit: `of ${all.requests + all.input + all.output}`,
      berth: difference,
      bar: 'none',
      pass: difference === 0,
    },
    {
      ...what,
      metric: 'requests failed',
      unit: `of ${answers.length}`,
      berth: answers.filter(({ error }) => error !== null).length,
    },
  ];
}

const sumOf = (answers: readonly Answer[]): Tokens => ({
  requests: answers.length,
  input: answers.reduce((sum, { promptTokens }) => sum + promptTokens, 0),
  cached: answers.reduce((sum, { cachedTokens }) => sum + cachedTokens, 0),
  output: answers.reduce((sum, { outputTokens }) => sum + outputTokens, 0),
});
