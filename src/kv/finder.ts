/**
 * Which entry begins most like a request? An index by hash: an entry stands under every step of its chain, so that a look-up costs
 * steps, not entries. Under a step that thousands share, a few recent ones are candidates. Pure.
 */
import type { TenantId } from '../core/ids.ts';

/** Candidates that are compared with each other where many entries share the longest prefix. */
const CANDIDATES = 8;

export interface Findable {
  readonly tenantId: TenantId;
  readonly fingerprint: string;
  /** Not empty. */
  readonly steps: readonly string[];
  readonly hint: string | null;
}

export interface Found<E> {
  readonly entry: E;
  /** Steps that both have in common. */
  readonly depth: number;
}

export interface Finder<E extends Findable> {
  add(entry: E): void;
  remove(entry: E): void;
  /** It was used: a candidate again. */
  touch(entry: E): void;
  /** The best, by `compare` (the smaller first), of those that share the most steps, belong to the asker, and are `usable`. */
  find(asked: Findable, usable: (entry: E) => boolean, compare: (a: E, b: E) => number): Found<E> | null;
  /** Entries whose whole chain is a beginning of this one, the asked one itself left out. */
  beginnings(entry: E): E[];
  /** Steps in the index, those of different entries counted each. */
  steps(): number;
}

/** The entries under one step. */
interface Shelf<E> {
  readonly all: Set<E>;
  /** Most recent first, at most `CANDIDATES`; not empty as long as `all` is not. */
  recent: E[];
}

export function createFinder<E extends Findable>(): Finder<E> {
  const byStep = new Map<string, Shelf<E>>();
  const byHint = new Map<string, Shelf<E>>();
  const byEnd = new Map<string, Set<E>>();
  let count = 0;

  const isOwn = (a: Findable, b: Findable): boolean => a.tenantId === b.tenantId && a.fingerprint === b.fingerprint;
  const touchIn = (shelves: Map<string, Shelf<E>>, key: string, entry: E): void => {
    const shelf = shelves.get(key);
    if (shelf?.all.has(entry) && shelf.recent[0] !== entry) {
      shelf.recent = [entry, ...shelf.recent.filter((one) => one !== entry)].slice(0, CANDIDATES);
    }
  };
  const put = (shelves: Map<string, Shelf<E>>, key: string, entry: E): void => {
    const shelf = shelves.get(key);
    if (shelf === undefined) shelves.set(key, { all: new Set([entry]), recent: [entry] });
    else {
      shelf.all.add(entry);
      touchIn(shelves, key, entry);
    }
  };
  const take = (shelves: Map<string, Shelf<E>>, key: string, entry: E): void => {
    const shelf = shelves.get(key);
    if (shelf === undefined) return;
    shelf.all.delete(entry);
    shelf.recent = shelf.recent.filter((one) => one !== entry);
    if (shelf.all.size === 0) shelves.delete(key);
    else if (shelf.recent.length === 0) {
      for (const other of shelf.all) if (shelf.recent.push(other) === CANDIDATES) break;
    }
  };
  const lastOf = ({ steps }: Findable): string => steps.at(-1) ?? '';

  return {
    add(entry) {
      for (const step of entry.steps) put(byStep, step, entry);
      if (entry.hint !== null) put(byHint, entry.hint, entry);
      const ends = byEnd.get(lastOf(entry));
      if (ends === undefined) byEnd.set(lastOf(entry), new Set([entry]));
      else ends.add(entry);
      count += entry.steps.length;
    },
    remove(entry) {
      const ends = byEnd.get(lastOf(entry));
      if (ends?.delete(entry) !== true) return;
      if (ends.size === 0) byEnd.delete(lastOf(entry));
      for (const step of entry.steps) take(byStep, step, entry);
      if (entry.hint !== null) take(byHint, entry.hint, entry);
      count -= entry.steps.length;
    },
    touch(entry) {
      for (const step of entry.steps) touchIn(byStep, step, entry);
      if (entry.hint !== null) touchIn(byHint, entry.hint, entry);
    },
    find(asked, usable, compare) {
      const hinted = asked.hint === null ? [] : (byHint.get(asked.hint)?.recent ?? []);
      for (let depth = asked.steps.length; depth > 0; depth--) {
        const step = asked.steps[depth - 1] ?? '';
        const shelf = byStep.get(step);
        if (shelf === undefined) continue;
        const [entry] = [...shelf.recent, ...hinted.filter((one) => one.steps[depth - 1] === step)]
          .filter((one) => isOwn(one, asked) && usable(one))
          .toSorted(compare);
        if (entry !== undefined) return { entry, depth };
      }
      return null;
    },
    beginnings: (entry) =>
      entry.steps.flatMap((step) => [...(byEnd.get(step) ?? [])].filter((one) => one !== entry && isOwn(one, entry))),
    steps: () => count,
  };
}
