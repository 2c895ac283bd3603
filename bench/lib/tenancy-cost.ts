/** What keys, limits and the ledger cost: CPU of a request with and without them, and a start with many tenants. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { BenchRow } from '../harness.ts';
import { median } from '../harness.ts';
import { inFlight } from './client.ts';
import { fillStore } from './many-tenants.ts';
import { startBerth } from './servers.ts';
import { stampedStream } from './stamped-client.ts';
import { startStamped } from './stamped-process.ts';

const TENANTS = 10_000;
/** Of the keys so many are used. */
const USED = 100;
const IN_FLIGHT = 16;
const ROUNDS = 7;
const REQUESTS_A_ROUND = 1_000;
/** Rounds that don't count: the first read what budgets have seen, and in all of them code is still being compiled, on both sides. */
const WARM_ROUNDS = 3;
const STARTS = 3;
/** Usage rows are written in the background: within so long. */
const SETTLE_MILLIS = 1_500;
const CPU_BAR_MICROS = 100;
const START_BAR_SECONDS = 2;

const inFolder = async <T>(run: (folder: string) => Promise<T>): Promise<T> => {
  const folder = mkdtempSync(join(tmpdir(), 'berth-tenancy-'));
  try {
    return await run(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
};

/** Streams of one token, on a node without keys and on one with 10,000 of them, limits of all kinds and a ledger; rounds take turns. */
export async function requestCost(quick: boolean): Promise<BenchRow[]> {
  const rounds = quick ? 1 : ROUNDS;
  const requests = quick ? 100 : REQUESTS_A_ROUND;
  return inFolder(async (home) => {
    const keys = fillStore(home, TENANTS).slice(-USED);
    const plain = await startStamped();
    const keyed = await startStamped(home).catch((error: unknown) => {
      plain.close();
      throw error;
    });
    try {
      const cost = async (node: typeof plain, keyOf: (index: number) => string | undefined): Promise<number> => {
        const tasks = Array.from({ length: requests }, (_, index) => () => stampedStream(node.url, 1, keyOf(index)));
        const before = await node.cpuMicros();
        await inFlight(IN_FLIGHT, tasks);
        await pause(SETTLE_MILLIS);
        return ((await node.cpuMicros()) - before) / requests;
      };
      const withKeys = (index: number): string | undefined => keys[index % keys.length];
      const seen: { plain: number; keyed: number }[] = [];
      const warm = quick ? 1 : WARM_ROUNDS;
      for (let round = 0; round < warm + rounds; round++) {
        const both = { plain: await cost(plain, () => undefined), keyed: await cost(keyed, withKeys) };
        if (round >= warm) seen.push(both);
      }
      const added = median(seen.map((round) => round.keyed - round.plain));
      const what = { case: `${TENANTS.toLocaleString('en')} tenants and keys`, unit: 'µs' };
      return [
        {
          ...what,
          metric: 'CPU of auth, limits and ledger a request',
          berth: added,
          bar: `≤ ${CPU_BAR_MICROS}`,
          pass: added <= CPU_BAR_MICROS,
        },
        {
          ...what,
          metric: 'CPU of a request of one token, peer: without tenants',
          berth: median(seen.map((round) => round.keyed)),
          peer: median(seen.map((round) => round.plain)),
        },
      ];
    } finally {
      plain.close();
      keyed.close();
    }
  });
}

/** Seconds from the start of the process until /readyz, without tenants and with 10,000. */
export async function startCost(quick: boolean): Promise<BenchRow[]> {
  const starts = quick ? 1 : STARTS;
  const seen: { empty: number; filled: number }[] = [];
  const seconds = async (home: string, key?: string): Promise<number> => {
    const started = performance.now();
    const server = await startBerth({ config: {}, engine: 'fake', env: { BERTH_HOME: home } });
    const taken = (performance.now() - started) / 1000;
    try {
      const { status } = await fetch(`${server.url}/v1/models`, {
        headers: key === undefined ? {} : { authorization: `Bearer ${key}` },
      });
      if (status !== 200) throw new Error(`/v1/models: ${status}`);
    } finally {
      await server.stop();
    }
    return taken;
  };
  await inFolder(async (home) => {
    const key = fillStore(home, TENANTS).at(-1);
    for (let start = 0; start < starts; start++) {
      const empty = await inFolder((other) => seconds(other));
      seen.push({ empty, filled: await seconds(home, key) });
    }
  });
  const berth = median(seen.map(({ filled }) => filled));
  return [
    {
      case: `${TENANTS.toLocaleString('en')} tenants and keys`,
      metric: 'start until ready, peer: without tenants',
      unit: 's',
      berth,
      peer: median(seen.map(({ empty }) => empty)),
      bar: `< ${START_BAR_SECONDS}`,
      pass: berth < START_BAR_SECONDS,
    },
  ];
}
