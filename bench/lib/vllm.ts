/** vLLM for benchmarks: what `node scripts/vllm-setup.mjs whole` makes, or what `--peer vllm=PATH` and BERTH_VLLM_MODEL name. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BenchArgs } from '../harness.ts';
import { namedPeer } from '../harness.ts';
import { descendants } from './processes.ts';
import type { Random } from './random.ts';

export interface Vllm {
  readonly program: string;
  /** A folder with SmolLM2 as bfloat16, or another small model. */
  readonly modelPath: string;
}

/** As `lookForVllm`, and says how to get it where it is not. */
export function findVllm(args: BenchArgs): Vllm | null {
  const found = lookForVllm(args);
  if (found === null)
    console.error(
      'vLLM or its model is not there: node scripts/vllm-setup.mjs whole; --peer vllm=PATH, BERTH_VLLM_MODEL=FOLDER',
    );
  return found;
}

/** null: it or its model is not there. @throws if `--peer` names one that can't be run */
export function lookForVllm({ peers }: BenchArgs): Vllm | null {
  const home = join(process.env['BERTH_HOME'] ?? join(import.meta.dirname, '../../.berth'), 'vllm');
  const installed = join(home, 'venv/bin/vllm');
  const program = namedPeer(peers, 'vllm') ?? (existsSync(installed) ? installed : null);
  const modelPath = process.env['BERTH_VLLM_MODEL'] ?? join(home, 'models/smollm2');
  return program === null || !existsSync(modelPath) ? null : { program, modelPath };
}

/** One of vLLM's processes below the server, whichever; null: there is none now. */
export function anyProcessOf(server: number, modelPath: string, random: Random): number | null {
  const below = descendants(server);
  const leader = below.find((pid) => commandOf(pid).includes(modelPath));
  if (leader === undefined) return null;
  const all = [leader, ...descendants(leader).filter((pid) => /VLLM::/.test(commandOf(pid)))];
  return all[random.between(0, all.length - 1)] ?? leader;
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}
