/** For tests: sequences by their tokens, and a KV cache that knows what lies in which cell. */
import { type KvEntryId, requestId, tenantId } from '../../core/ids.ts';
import type { Idle } from './prefixes.ts';
import type { Sequence } from './sequence.ts';
import { tokenAt } from './sequence.ts';
import type { CacheCalls, PlannedTokens } from './sequences.ts';

export function withPrompt(order: number, tokens: readonly number[], more: Partial<Sequence> = {}): Sequence {
  return {
    requestId: requestId(`r${order}`),
    tenantId: tenantId('t'),
    order,
    prompt: Int32Array.from(tokens),
    generated: [],
    seat: null,
    cells: 0,
    reused: 0,
    follows: null,
    ...more,
  };
}

export const noCalls: CacheCalls = {
  truncate() {},
  share() {},
  reaches: () => true,
  computed() {},
  leaves: (_, isNeeded) => isNeeded,
  continued() {},
  restore: () => false,
  grow: () => 0,
};

/** A cache of `cells` that does what it is told, and notes what has left. */
export class StoryCache implements CacheCalls {
  readonly seats = new Map<number, number[]>();
  readonly left: KvEntryId[] = [];
  readonly taken: KvEntryId[] = [];
  /** Where a window slides: the first position of a seat that is still there. */
  readonly first = new Map<number, number>();
  /** Tokens that were computed, as opposed to shared or read. */
  computedTokens = 0;
  readonly #cells: number;
  readonly #windowTokens: number;
  readonly #savedTokens: (sequence: Sequence) => readonly number[] | null;

  constructor(
    cells: number,
    savedTokens: (sequence: Sequence) => readonly number[] | null = () => null,
    windowTokens = 0,
  ) {
    this.#cells = cells;
    this.#windowTokens = windowTokens;
    this.#savedTokens = savedTokens;
  }

  truncate(seat: number, cells: number): void {
    this.seats.set(seat, (this.seats.get(seat) ?? []).slice(0, cells));
  }

  share(from: number, to: number, start: number, end: number): void {
    const own = this.seats.get(to) ?? [];
    if (own.length !== start) throw new Error(`seat ${to} has ${own.length} cells, not ${start}`);
    const shared = (this.seats.get(from) ?? []).slice(start, end);
    if (shared.length !== end - start) throw new Error(`seat ${from} has no cells from ${start} to ${end}`);
    this.seats.set(to, [...own, ...shared]);
  }

  reaches(seat: number, cells: number): boolean {
    const { length } = this.seats.get(seat) ?? [];
    return cells === 0 || (length > 0 && (this.first.get(seat) ?? 0) <= Math.max(0, cells - this.#windowTokens + 1));
  }

  computed(): void {}

  /** Nobody has leave to save anything: one leaves only when it must. */
  leaves({ entryId }: Idle, isNeeded: boolean): boolean {
    if (isNeeded) this.left.push(entryId);
    return isNeeded;
  }

  continued({ entryId }: Idle): void {
    this.taken.push(entryId);
  }

  restore(sequence: Sequence, seat: number): boolean {
    const saved = this.#savedTokens(sequence);
    if ((this.seats.get(seat) ?? []).length > 0) throw new Error(`seat ${seat} is not empty`);
    if (saved === null || sequence.saved === null || sequence.saved === undefined) return false;
    this.seats.set(seat, saved.slice(0, sequence.saved.common));
    return true;
  }

  grow(): number {
    return this.#cells;
  }

  compute({ sequence, count }: PlannedTokens): void {
    const own = this.seats.get(sequence.seat as number) ?? [];
    if (own.length !== sequence.cells) throw new Error(`seat ${sequence.seat} has ${own.length} cells`);
    const tokens = Array.from({ length: count }, (_, index) => tokenAt(sequence, sequence.cells + index));
    this.seats.set(sequence.seat as number, [...own, ...tokens]);
    this.computedTokens += count;
  }
}
