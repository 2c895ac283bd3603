/** Where the public traces are, and the workloads that the simulator's benchmarks make of them. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Arrival, Mapping } from '../../src/sim/arrivals.ts';
import type { Workload } from '../../src/sim/compare.ts';
import { workload } from '../../src/sim/compare.ts';
import type { Cluster } from '../../src/sim/costs.ts';
import { readCluster } from '../../src/sim/costs.ts';
import { readTrace } from '../../src/sim/traces.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const PLACES = [process.env['BERTH_TRACES'], join(ROOT, '.berth', 'traces'), join(ROOT, '..', 'shared', 'traces')];

/** A file of the traces; docs/simulator.md says where they come from. */
export function tracePath(...names: string[]): string {
  for (const place of PLACES)
    if (place !== undefined && existsSync(join(place, ...names))) return join(place, ...names);
  throw new Error(
    `the trace ${names.join('/')} is missing: name the folder of the traces in BERTH_TRACES (docs/simulator.md says where to get them)`,
  );
}

/** Of Aegaeon's artifact: models and requests a second for each. */
export const SYNTHS = ['16-0.1', '16-0.5', '40-0.1', '40-0.4', '40-0.7', '80-0.1', '80-0.5'] as const;

/** The constants of Aegaeon's simulator, written down as a `cluster.json`. */
export const cluster = (): Cluster => readCluster(tracePath('aegaeon', 'cluster.json'));

const NO_MAPPING: Mapping = { models: 1, tenants: 1, zipf: 0, seed: 1 };

export function synth(name: string): Workload {
  const path = tracePath('aegaeon', `synth-${name}-1.0-1.0.csv`);
  return workload(() => readTrace(path, NO_MAPPING));
}

/** An hour of a real service, over 200 models by Zipf's law and 20 tenants; the first `most` requests of it. */
export function azure(most = Infinity): Workload {
  const path = tracePath('azure-2023', 'conv.csv');
  const mapping: Mapping = { models: 200, tenants: 20, zipf: 1, seed: 1 };
  return workload(function* (): Generator<Arrival> {
    let left = most;
    for (const arrival of readTrace(path, mapping)) {
      if (left-- <= 0) return;
      yield arrival;
    }
  });
}

/**
 * What Aegaeon's own simulator printed in its default setting on 16 GPUs, with the lengths of the file: a row of a table that was made of
 * its runs. docs/simulator.md says how.
 */
export function baseline(trace: string, system: string): ReadonlyMap<string, number> {
  const [head = [], ...rows] = readFileSync(tracePath('aegaeon', 'baseline.csv'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.split(','));
  const cell = (row: readonly string[], name: string): string => row[head.indexOf(name)] ?? '';
  const wanted: Readonly<Record<string, string>> = {
    trace: `synth-${trace}-1.0-1.0`,
    system,
    variant: 'default',
    gpus: '16',
    prefill_gpus: system === 'Aegaeon' ? '6' : '0',
    lengths: 'file',
    slo_scale: '1.0',
  };
  const row = rows.find((one) => Object.entries(wanted).every(([name, value]) => cell(one, name) === value));
  if (row === undefined) throw new Error(`baseline.csv has no row of ${system} on ${trace}`);
  return new Map(head.map((name) => [name, Number(cell(row, name))]));
}
