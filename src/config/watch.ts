/** Saved changes of berth.yaml, applied while the node runs. */
import { isDeepStrictEqual } from 'node:util';
import { watch } from 'chokidar';
import { loadConfig } from '../config.ts';
import type { ConfigRequest, LoadedConfig } from '../config.ts';
import { asBerthError } from '../errors.ts';
import type { BerthError } from '../errors.ts';

export interface ConfigWatch {
  close(): Promise<void>;
}

/**
 * Calls `onChange` once for each save that changes the configuration, and `onError` for a save that can't be used: the old
 * configuration then stays in force. A deleted file changes nothing. `request` is what the node was started with, so that its
 * flags hold after a reload too. Resolves when the file is being watched.
 */
export async function watchConfig(
  path: string,
  onChange: (loaded: LoadedConfig) => void,
  onError: (error: BerthError) => void,
  request: Omit<ConfigRequest, 'path'> = {},
): Promise<ConfigWatch> {
  // An editor writes in pieces or renames a new file over the old one: wait until its size has stood still for 50 ms.
  const watcher = watch(path, { ignoreInitial: true, awaitWriteFinish: { stabilityThreshold: 50, pollInterval: 20 } });
  let current = tryLoad(path, request).loaded;
  let failed: string | null = null;
  const reload = (): void => {
    const { loaded, error } = tryLoad(path, request);
    if (error !== null) {
      if (error.message !== failed) onError(error);
      failed = error.message;
      return;
    }
    // A save that only takes an error back must be told too: the node shows the last error until then.
    const same = failed === null && isDeepStrictEqual(loaded?.config, current?.config);
    [current, failed] = [loaded, null];
    if (!same && loaded !== null) onChange(loaded);
  };
  watcher.on('add', reload).on('change', reload);
  watcher.on('error', (error) => onError(asBerthError(error)));
  await new Promise<void>((resolve) => watcher.once('ready', resolve));
  return { close: () => watcher.close() };
}

type Attempt = { readonly loaded: LoadedConfig | null; readonly error: BerthError | null };

function tryLoad(path: string, request: Omit<ConfigRequest, 'path'>): Attempt {
  try {
    return { loaded: loadConfig({ ...request, path }), error: null };
  } catch (error) {
    return { loaded: null, error: asBerthError(error) };
  }
}
