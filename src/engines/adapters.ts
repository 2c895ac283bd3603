/** A LoRA adapter as a folder of the PEFT kind: `adapter_config.json` and its weights. */
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Bytes } from '../core/ids.ts';
import { BerthError } from '../errors.ts';

export interface AdapterFacts {
  /** The largest of its matrices. */
  readonly rank: number;
  readonly bytes: Bytes;
  readonly modifiedSeconds: number;
  /** Changes when a file is replaced. */
  readonly fingerprint: string;
}

const WEIGHTS = ['adapter_model.safetensors', 'adapter_model.bin', 'adapter_model.pt'];

/** Rejects with `model_file_missing` or `model_file_invalid`. */
export async function readAdapter(folder: string): Promise<AdapterFacts> {
  const config = await readFile(join(folder, 'adapter_config.json'), 'utf8').catch((error: NodeJS.ErrnoException) => {
    const message = `${folder} has no adapter_config.json that can be read: it is no folder of a LoRA adapter.`;
    throw new BerthError('model_file_missing', message, { cause: error });
  });
  const rank = rankOf(config);
  if (rank === null) {
    const message = `${join(folder, 'adapter_config.json')} names no rank \`r\`: it is no LoRA adapter, or not a whole one.`;
    throw new BerthError('model_file_invalid', message);
  }
  for (const name of WEIGHTS) {
    const found = await stat(join(folder, name)).catch(() => null);
    if (found?.isFile() !== true) continue;
    const { size, mtimeMs } = found;
    const digest = createHash('sha256')
      .update(`${config}|${name}|${size}|${Math.trunc(mtimeMs)}`)
      .digest('hex');
    return { rank, bytes: size, modifiedSeconds: Math.trunc(mtimeMs / 1000), fingerprint: digest.slice(0, 32) };
  }
  throw new BerthError('model_file_missing', `${folder} has no weights (${WEIGHTS.join(', ')}).`);
}

/** null: the text says none. Some layers may have ranks of their own. */
function rankOf(text: string): number | null {
  try {
    const { r, rank_pattern: pattern } = JSON.parse(text) as Record<string, unknown>;
    const own = typeof pattern === 'object' && pattern !== null ? Object.values(pattern) : [];
    const ranks = [r, ...own].filter((value) => Number.isSafeInteger(value) && (value as number) > 0) as number[];
    return ranks.length === 0 ? null : Math.max(...ranks);
  } catch {
    return null;
  }
}
