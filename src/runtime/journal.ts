/**
 * The journal: what the core was told and what it decided, a JSON line for each call of `handle`. It holds no user text, since no
 * event does. `berth serve --journal FILE` writes it; replaying it through a new arbiter gives the same actions.
 */
import { createWriteStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { finished } from 'node:stream/promises';
import type { Action } from '../core/actions.ts';
import type { Arbiter, Input } from '../core/arbiter.ts';
import { createArbiter } from '../core/arbiter.ts';
import { BerthError } from '../errors.ts';

export interface JournalEntry extends Input {
  /** Left out: the node has only one. */
  readonly device?: string;
  readonly actions: readonly Action[];
}

export interface Journal {
  write(entry: JournalEntry): void;
  close(): Promise<void>;
}

/** The first line of a journal: which format the others have. */
const HEADER = { journal: 'berth', version: 1 } as const;
/** A disk that can't keep up must not eat the node's memory: beyond this, entries are dropped and the gap is written down. */
const MOST_BUFFERED_BYTES = 64 * 1024 * 1024;

export function openJournal(path: string, onError: (error: Error) => void): Journal {
  const stream = createWriteStream(path, { flags: 'w', mode: 0o600 });
  let failed = false;
  let dropped = 0;
  stream.on('error', (error) => {
    if (!failed) onError(error);
    failed = true;
  });
  stream.write(`${JSON.stringify(HEADER)}\n`);
  return {
    write(entry) {
      if (failed) return;
      if (stream.writableLength > MOST_BUFFERED_BYTES) {
        dropped++;
        return;
      }
      if (dropped > 0) stream.write(`${JSON.stringify({ dropped })}\n`);
      dropped = 0;
      stream.write(`${JSON.stringify(entry)}\n`);
    },
    async close() {
      if (failed) return;
      stream.end();
      await finished(stream);
    },
  };
}

export async function readJournal(path: string): Promise<JournalEntry[]> {
  const [header, ...lines] = (await readFile(path, 'utf8')).split('\n').filter((line) => line !== '');
  const { journal, version } = JSON.parse(header ?? '{}') as Partial<typeof HEADER>;
  if (journal !== HEADER.journal || version !== HEADER.version) {
    throw new BerthError('invalid_request', `${path} is no journal of version ${HEADER.version}`);
  }
  return lines.map((line, index) => {
    const entry = JSON.parse(line) as JournalEntry | { readonly dropped: number };
    if ('dropped' in entry)
      throw new BerthError('invalid_request', `${path}:${index + 2}: ${entry.dropped} entries are missing`);
    return entry;
  });
}

/** Feeds the events to a new arbiter of each device; returns the first entry whose actions differ, or null. */
export function firstDivergence(
  entries: readonly JournalEntry[],
): { readonly index: number; readonly actions: readonly Action[] } | null {
  const arbiters = new Map<string, Arbiter>();
  for (const [index, entry] of entries.entries()) {
    const arbiter = arbiters.get(entry.device ?? '') ?? createArbiter();
    arbiters.set(entry.device ?? '', arbiter);
    const { actions } = arbiter.handle({ now: entry.now, events: entry.events });
    if (JSON.stringify(actions) !== JSON.stringify(entry.actions)) return { index, actions };
  }
  return null;
}
