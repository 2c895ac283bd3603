/** One node a folder: a `lock` file with the process that has it, and when that process began, since ids are used again. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Folders of this very process. */
const own = new Set<string>();

export interface LockRefusal {
  readonly pid: number;
  readonly reason: string;
}

/** Takes the lock; the returned function gives it back. A lock whose process is gone is taken over. */
export function lockFolder(folder: string): (() => void) | LockRefusal {
  const path = join(folder, 'lock');
  if (own.has(folder)) return { pid: process.pid, reason: 'this process has it open already' };
  // Twice: the first may find a stale one.
  for (let attempt = 0; attempt < 2; attempt++) {
    try {
      writeFileSync(path, `${process.pid} ${startOf(process.pid) ?? ''}\n`, { flag: 'wx', mode: 0o600 });
      own.add(folder);
      return () => {
        own.delete(folder);
        rmSync(path, { force: true });
      };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') {
        return { pid: 0, reason: `its lock can't be written (${(error as NodeJS.ErrnoException).code ?? 'unknown'})` };
      }
    }
    const holder = holderOf(path);
    if (holder !== null) return { pid: holder, reason: `another node (process ${holder}) uses it` };
    rmSync(path, { force: true });
  }
  return { pid: 0, reason: 'another node has just taken it' };
}

/** The living process that has the lock; null: there is none. */
function holderOf(path: string): number | null {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    return null;
  }
  const [pidText = '', start = ''] = text.trim().split(' ');
  const pid = Number(pidText);
  // Our own id in a lock that we don't have is that of an earlier process (in a container they begin at 1 each time).
  if (!Number.isSafeInteger(pid) || pid <= 0 || pid === process.pid || !isAlive(pid)) return null;
  const startNow = startOf(pid);
  return start !== '' && startNow !== null && startNow !== start ? null : pid;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** When the process began, in ticks since boot: field 22 of proc(5)'s stat, the 20th after the command's name. null: not known here. */
function startOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null;
  } catch {
    return null;
  }
}
