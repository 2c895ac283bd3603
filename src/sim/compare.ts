/** One workload under several policies: Berth's own core and the peers, on the same cluster in the same column. */
import type { Arrival } from './arrivals.ts';
import type { Column } from './columns.ts';
import { berthSetting, peerSetting } from './columns.ts';
import type { Cluster } from './costs.ts';
import type { FaultSpec } from './faults.ts';
import { peer, settingFor } from './peers/all.ts';
import type { PeerName } from './peers/all.ts';
import type { Report } from './report.ts';
import { simulate } from './simulate.ts';

export type PolicyName = 'berth' | PeerName;

export interface Workload {
  /** Begins anew with each call. */
  readonly arrivals: () => Iterable<Arrival>;
  /** All models that there are, in the order of their names. */
  readonly models: readonly string[];
}

export interface Stage {
  readonly cluster: Cluster;
  readonly column: Column;
  readonly gpus: number;
  readonly sloScale: number;
  readonly faults?: FaultSpec;
}

/** Goes through the arrivals once, for the names of their models. */
export function workload(arrivals: () => Iterable<Arrival>): Workload {
  const names = new Set<string>();
  for (const { model } of arrivals()) names.add(model);
  return { arrivals, models: [...names].toSorted((a, b) => (a < b ? -1 : 1)) };
}

export function runPolicy(policy: PolicyName, { arrivals, models }: Workload, stage: Stage): Report {
  const { cluster, ...rest } = stage;
  if (policy === 'berth') return simulate(arrivals(), berthSetting(cluster, { ...rest, models }));
  return peer(policy, stage.gpus, models).run(arrivals(), settingFor(policy, stage.column, peerSetting(cluster, rest)));
}
