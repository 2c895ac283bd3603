/** The node's secret, by which names of conversations and tenants are hashed: kept with the files that it names. */
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Warn } from './files.ts';

const SECRET_BYTES = 32;

/** Reads it, or makes one. Without a folder, or where it can't be kept, it lasts as long as the process. */
export function ensureSecret(folder: string | null, warn: Warn): Uint8Array {
  const made = randomBytes(SECRET_BYTES);
  if (folder === null) return made;
  const path = join(folder, 'secret');
  try {
    const kept = readFileSync(path);
    if (kept.length === SECRET_BYTES) return kept;
  } catch {
    // There is none yet, or it can't be read: then it can't be written either, which is told below.
  }
  try {
    writeFileSync(path, made, { mode: 0o600 });
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? 'unknown';
    warn(
      { folder, code },
      `The KV cache's secret can't be kept (${code}): after a restart its files are not found again.`,
    );
  }
  return made;
}
