/**
 * What `npm run bench -- all` passes over, decided before the first benchmark runs: what can't run here, and what would lose columns of
 * a peer that were published, because the peer is not there now. Neither is a failure.
 */
import type { BenchArgs } from '../harness.ts';
import { lookForPeer } from '../harness.ts';
import { KNOWN_PEERS } from './peers.ts';
import type { Published } from './results.ts';
import { tracePath } from './traces.ts';
import { lookForVllm } from './vllm.ts';

/** Programs, and files of the traces, without which a benchmark throws. */
const NEEDED: Readonly<Record<string, readonly string[]>> = {
  mixed: ['vllm'],
  'simulate-aegaeon': ['aegaeon/cluster.json', 'aegaeon/baseline.csv'],
  'simulate-honest': ['aegaeon/cluster.json', 'azure-2023/conv.csv'],
  'simulate-prefixes': ['mooncake/synthetic_trace.jsonl'],
  'simulate-speed': ['aegaeon/cluster.json'],
};

/** Under which name a result's `builds` tell which program was measured beside Berth. */
const BUILDS: Readonly<Record<string, string>> = {
  peer: 'llama-server',
  swap: 'llama-swap',
  aiperf: 'aiperf',
  guidellm: 'guidellm',
};

/** How to get a program or a file of the traces, in words; null: it is there. */
export type HowToGet = (what: string) => string | null;

/** Why each of these benchmarks is passed over, by its name; those that can run have no entry. Pure. */
export function passedOver(
  names: readonly string[],
  published: readonly Published[],
  howToGet: HowToGet,
): Map<string, string> {
  const reasons = names.map((name): [string, string | null] => [
    name,
    lacks(NEEDED[name] ?? [], howToGet) ??
      loses(
        published.find((one) => one.name === name),
        howToGet,
      ),
  ]);
  return new Map(reasons.filter((entry): entry is [string, string] => entry[1] !== null));
}

function lacks(needed: readonly string[], howToGet: HowToGet): string | null {
  for (const what of needed) {
    const how = howToGet(what);
    if (how !== null) return `it needs ${what}, which is not there: ${how}`;
  }
  return null;
}

function loses(published: Published | undefined, howToGet: HowToGet): string | null {
  for (const peer of published === undefined ? [] : peersIn(published)) {
    const how = howToGet(peer);
    if (how !== null) return `what is published was measured with ${peer}, which is not there now: ${how}`;
  }
  return null;
}

function peersIn({ builds, rows }: Published): string[] {
  const compared = Object.entries(BUILDS).flatMap(([key, name]) => ((builds[key] ?? null) === null ? [] : [name]));
  return rows.some((row) => row.case.startsWith('vLLM')) ? [...compared, 'vllm'] : compared;
}

/** On this machine. Throws if `--peer` names something that can't be run. */
export const howToGetHere =
  (args: BenchArgs): HowToGet =>
  (what) => {
    if (!Object.hasOwn(KNOWN_PEERS, what)) return howToGetTrace(what);
    const isThere = (what === 'vllm' ? lookForVllm(args) : lookForPeer(args, what)) !== null;
    return isThere ? null : `${KNOWN_PEERS[what]}; --peer ${what}=PATH`;
  };

function howToGetTrace(path: string): string | null {
  try {
    tracePath(...path.split('/'));
    return null;
  } catch (error) {
    // Its name stands before it already.
    return (error as Error).message.replace(/^the trace .+? is missing: /, '');
  }
}

/** With vLLM where it is installed: one at a time leaves it out unless it is asked for, since each of its starts takes half a minute. */
export function withInstalledVllm(args: BenchArgs): BenchArgs {
  const vllm = lookForVllm(args);
  return vllm === null ? args : { ...args, peers: { ...args.peers, vllm: vllm.program } };
}
