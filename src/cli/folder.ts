/** The models folder, for commands that also work while no node runs. */
import { loadConfig } from '../config.ts';
import type { BerthConfig } from '../config.ts';
import { asBerthError } from '../errors.ts';
import { namesNode } from './client.ts';
import type { NodeOptions } from './client.ts';
import type { Io } from './io.ts';

export interface FolderOptions extends NodeOptions {
  readonly modelsDir?: string;
  readonly config?: string;
}

export function configOf(io: Io, options: FolderOptions): BerthConfig {
  const flags = options.modelsDir === undefined ? {} : { modelsDir: options.modelsDir };
  return loadConfig({ path: options.config, flags, env: io.env, cwd: io.cwd }).config;
}

/**
 * Asks the running node; where none runs and none was named, looks into the folder instead. A folder that was named is meant,
 * whatever node runs.
 */
export async function nodeOrFolder<T>(
  io: Io,
  options: FolderOptions,
  ask: () => Promise<T>,
  look: (config: BerthConfig) => Promise<T>,
): Promise<T> {
  if (options.modelsDir !== undefined) return look(configOf(io, options));
  try {
    return await ask();
  } catch (error) {
    if (asBerthError(error).code !== 'node_unreachable' || namesNode(options, io.env)) throw error;
    return look(configOf(io, options));
  }
}
