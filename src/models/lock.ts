/** One owner of a name at a time, among processes: a file that holds the owner's process id. */
import { link, readFile, rm, writeFile } from 'node:fs/promises';
import { BerthError } from '../errors.ts';

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/**
 * Runs `work` while the lock file is ours. A lock of a process that is gone is taken over. Throws `invalid_request` with the
 * owner's process id if it lives: two pulls of one name would only wait for each other's bytes.
 */
export async function withPidLock<T>(file: string, what: string, work: () => Promise<T>): Promise<T> {
  const mine = `${file}.${process.pid}`;
  await writeFile(mine, String(process.pid));
  try {
    for (let attempt = 0; ; attempt += 1) {
      try {
        // A link appears with its content: nobody reads a lock that is still empty.
        await link(mine, file);
        break;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      }
      const owner = Number(await readFile(file, 'utf8').catch(() => '0'));
      // Our own id: left by an earlier process of the same number, because this one holds a name only once (see pull.ts).
      if (attempt >= 3 || (owner !== process.pid && owner > 0 && alive(owner))) {
        throw new BerthError('invalid_request', `${what} is being pulled by process ${owner}`, { param: 'source' });
      }
      await rm(file, { force: true });
    }
  } finally {
    await rm(mine, { force: true });
  }
  try {
    return await work();
  } finally {
    await rm(file, { force: true });
  }
}
