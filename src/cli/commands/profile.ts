/** `berth profile`: what a node's models cost, from the journal that `berth serve --journal` wrote. */
import { resolve } from 'node:path';
import { readJournal } from '../../runtime/journal.ts';
import { profileOf } from '../../sim/profile.ts';
import type { Io } from '../io.ts';
import { BerthError } from '../../errors.ts';
import { json } from '../output.ts';

export async function profile(io: Io, journal: string): Promise<void> {
  const path = resolve(io.cwd, journal);
  const entries = await readJournal(path).catch((error: unknown) => {
    if (error instanceof BerthError) throw error;
    throw new BerthError('invalid_request', `the journal ${path} can’t be read: ${(error as Error).message}`);
  });
  if (entries.some(({ device }) => device !== undefined))
    throw new BerthError(
      'invalid_request',
      `${path} is of a node with several devices: only those with one can be profiled`,
    );
  io.out(json(profileOf(entries)));
}
