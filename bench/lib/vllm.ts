/** vLLM for benchmarks: what `node scripts/vllm-setup.mjs whole` makes, or what `--peer vllm=PATH` and BERTH_VLLM_MODEL name. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BenchArgs } from '../harness.ts';
import { descendants } from './processes.ts';
import type { Random } from './random.ts';

export interface Vllm {
  readonly program: string;
  /** A folder with SmolLM2 as bfloat16, or another small model. */
  readonly modelPath: string;
}

/** null: it was not asked for, or is not there. */
export function findVllm({ peers }: BenchArgs): Vllm | null {
  const home = join(process.env['BERTH_HOME'] ?? join(import.meta.dirname, '../../.berth'), 'vllm');
  const installed = join(home, 'venv/bin/vllm');
  const program = peers['vllm'] ?? (existsSync(installed) ? installed : null);
  const modelPath = process.env['BERTH_VLLM_MODEL'] ?? join(home, 'models/smollm2');
  if (program === null || !existsSync(modelPath)) {
    console.error(
      'vLLM or its model is not there: node scripts/vllm-setup.mjs whole; --peer vllm=PATH, BERTH_VLLM_MODEL=FOLDER',
    );
    return null;
  }
  return { program, modelPath };
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
