/** Files that must come from the disk, not from memory. */
import { spawnSync } from 'node:child_process';
import { closeSync, fdatasyncSync, globSync, openSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Takes the folder's files out of the page cache: `posix_fadvise(POSIX_FADV_DONTNEED)`, which GNU dd does for us with `iflag=nocache
 * count=0` (its manual, “Ensure drop cache for the whole file”). False where that can't be done.
 */
export function dropFromPageCache(folder: string, pattern: string): boolean {
  return globSync(pattern, { cwd: folder }).every((name) => {
    const path = join(folder, name);
    // Pages that are not written yet stay.
    const file = openSync(path, 'r+');
    try {
      fdatasyncSync(file);
    } finally {
      closeSync(file);
    }
    return spawnSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']).status === 0;
  });
}
