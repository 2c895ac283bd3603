/** `berth profile`: what a node's models cost, from the journal that `berth serve --journal` wrote. */
import { resolve } from 'node:path';
import type { JournalEntry } from '../../runtime/journal.ts';
import { readJournal } from '../../runtime/journal.ts';
import { profileOf } from '../../sim/profile.ts';
import type { Io } from '../io.ts';
import { BerthError } from '../../errors.ts';
import { json } from '../output.ts';

interface ProfileOptions {
  readonly device?: string;
}

export async function profile(io: Io, journal: string, { device }: ProfileOptions): Promise<void> {
  const path = resolve(io.cwd, journal);
  const entries = await readJournal(path).catch((error: unknown) => {
    if (error instanceof BerthError) throw error;
    throw new BerthError('invalid_request', `the journal ${path} can’t be read: ${(error as Error).message}`);
  });
  io.out(json(profileOf(ofDevice(entries, device, path))));
}

/** What one device was told and did. Throws `invalid_request` where that one is not there, or there are several and none is named. */
function ofDevice(entries: readonly JournalEntry[], device: string | undefined, path: string): JournalEntry[] {
  const names = new Set(entries.flatMap((entry) => entry.device ?? []));
  if (device === undefined && names.size === 0) return [...entries];
  if (device !== undefined && names.has(device)) return entries.filter((entry) => entry.device === device);
  const which = names.size === 0 ? 'one device, without a name' : [...names].toSorted().join(', ');
  const what = device === undefined ? 'say which device with --device' : `there is no device ${device}`;
  throw new BerthError('invalid_request', `${path} is of a node with ${which}: ${what}`);
}
