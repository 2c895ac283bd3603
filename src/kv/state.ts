/** What the book of KV entries knows: plain data that `book.ts` and `departures.ts` work on, and the questions both ask of it. */
import type { Bytes, KvEntryId, Micros, ModelId, TenantId } from '../core/ids.ts';
import { MIB } from '../core/ids.ts';
import { createFinder } from './finder.ts';
import type { Findable, Finder } from './finder.ts';
import { createRoom } from './room.ts';
import type { Room } from './room.ts';
import { createGreedyDual } from './value.ts';
import type { GreedyDual, Valued } from './value.ts';

export type TierName = 'host' | 'disk';
/** Nearest the device first: where a file is looked for, and where it is put. */
export const TIERS: readonly TierName[] = ['host', 'disk'];

/** Micros per MiB, until they were measured: memory is copied twice and summed, a disk is one of today's. */
const PACES = { host: { save: 500, restore: 250 }, disk: { save: 1_500, restore: 1_000 } } as const;

export interface Tier {
  readonly name: TierName;
  readonly room: Room;
  readonly values: GreedyDual<KvEntryId>;
  /** It failed to take a file: nothing is put there until then. */
  pausedUntil: Micros;
  saveMicrosPerMib: Micros;
  restoreMicrosPerMib: Micros;
}

/** Whose KV it is, and what it is found by. */
export interface EntryOwner extends Findable {
  readonly entryId: KvEntryId;
  readonly tenantId: TenantId;
  readonly modelId: ModelId;
}

export interface Entry extends EntryOwner {
  tokens: number;
  /** Of its file; until it has one, what a file may take. */
  bytes: Bytes;
  recomputeMicros: Micros;
  /** It, and those that it continues: how often they were made and asked for. */
  uses: number;
  usedAt: Micros;
  onDevice: boolean;
  readonly files: Set<TierName>;
  /** Requests that were told to restore it, and have not said what became of that: its files stay where they are. */
  pins: number;
  /** To be removed when nobody reads it any more. */
  isCondemned: boolean;
  supersededBy: KvEntryId | null;
  readonly supersedes: Set<KvEntryId>;
}

export interface Grant {
  readonly entryId: KvEntryId;
  readonly tenantId: TenantId;
  readonly modelId: ModelId;
  readonly tier: TierName;
  readonly bytes: Bytes;
}

/** A file on its way from host memory to disk. */
export interface Move {
  readonly entryId: KvEntryId;
  readonly tenantId: TenantId;
  readonly bytes: Bytes;
  /** Not yet: room is being made for it. */
  isStarted: boolean;
}

/** What the book wants done; all but `grant` report back. */
export type Command =
  | { readonly type: 'grant'; readonly grant: Grant; readonly entry: Entry }
  | { readonly type: 'move'; readonly move: Move }
  | { readonly type: 'remove'; readonly tier: TierName; readonly entryId: KvEntryId; readonly tenantId: TenantId };

export interface Counters {
  /** Starts of requests for which an entry was looked for. */
  lookups: number;
  hits: { device: number; host: number; disk: number };
  bytesMoved: { toHost: Bytes; toDisk: Bytes; fromHost: Bytes; fromDisk: Bytes };
  saves: number;
  restores: number;
  refusedRestores: number;
  /** Files that could not be written, moved or removed. */
  failures: number;
  /** Files that left a tier for want of room. */
  evictions: number;
}

export interface BookState {
  now: Micros;
  readonly minimumTokens: number;
  readonly tiers: Readonly<Record<TierName, Tier | null>>;
  readonly entries: Map<KvEntryId, Entry>;
  readonly finder: Finder<Entry>;
  readonly grants: Map<KvEntryId, Grant>;
  /** Entries on the device that wait for room, in order. */
  readonly wants: Set<KvEntryId>;
  readonly moves: Map<KvEntryId, Move>;
  readonly counters: Counters;
  /** To be taken by whoever performs them. */
  commands: Command[];
}

export interface BookBudgets {
  /** null: there is no such tier. */
  readonly hostBytes: Bytes | null;
  readonly diskBytes: Bytes | null;
  readonly minimumTokens: number;
}

function createTier(name: TierName, budgetBytes: Bytes | null): Tier | null {
  if (budgetBytes === null || budgetBytes <= 0) return null;
  const { save, restore } = PACES[name];
  return {
    name,
    room: createRoom(budgetBytes),
    values: createGreedyDual(),
    pausedUntil: Number.MIN_SAFE_INTEGER,
    saveMicrosPerMib: save,
    restoreMicrosPerMib: restore,
  };
}

export const createState = ({ hostBytes, diskBytes, minimumTokens }: BookBudgets): BookState => ({
  now: 0,
  minimumTokens,
  tiers: { host: createTier('host', hostBytes), disk: createTier('disk', diskBytes) },
  entries: new Map(),
  finder: createFinder(),
  grants: new Map(),
  wants: new Set(),
  moves: new Map(),
  counters: {
    lookups: 0,
    hits: { device: 0, host: 0, disk: 0 },
    bytesMoved: { toHost: 0, toDisk: 0, fromHost: 0, fromDisk: 0 },
    saves: 0,
    restores: 0,
    refusedRestores: 0,
    failures: 0,
    evictions: 0,
  },
  commands: [],
});

/** The tier, if such a file may be put there at all. */
export function tierFor(state: BookState, name: TierName, bytes: Bytes): Tier | null {
  const tier = state.tiers[name];
  return tier !== null && bytes <= tier.room.budgetBytes && state.now >= tier.pausedUntil ? tier : null;
}

export function placeOf(entry: Entry): 'device' | TierName {
  if (entry.onDevice) return 'device';
  return entry.files.has('host') ? 'host' : 'disk';
}

const forBytes = (microsPerMib: Micros, bytes: Bytes): Micros => Math.ceil((microsPerMib * bytes) / MIB);
export const restoreMicros = (tier: Tier, bytes: Bytes): Micros => forBytes(tier.restoreMicrosPerMib, bytes);
export const saveMicros = (tier: Tier, bytes: Bytes): Micros => forBytes(tier.saveMicrosPerMib, bytes);

/** A quarter of the new, as `core/costs.ts` learns. */
export function learnPace(old: Micros, micros: Micros, bytes: Bytes): Micros {
  const seen = (micros * MIB) / Math.max(1, bytes);
  return Math.max(1, Math.round(old + (seen - old) / 4));
}

export const valueOn = (tier: Tier, { uses, recomputeMicros, bytes, supersededBy }: Entry): Valued => ({
  uses,
  costMicros: recomputeMicros - restoreMicros(tier, bytes),
  bytes,
  superseded: supersededBy !== null,
});

/** Its uses, or what supersedes it, have changed: it is valued anew wherever it is a candidate to leave. */
export function revalue(state: BookState, entry: Entry): void {
  for (const name of entry.files) {
    const tier = state.tiers[name];
    // On its way out, or with a copy farther out, it is no candidate.
    if (tier === null || (name === 'host' && (state.moves.has(entry.entryId) || entry.files.has('disk')))) continue;
    tier.values.set(entry.entryId, valueOn(tier, entry));
    if (entry.pins > 0) tier.values.hold(entry.entryId);
  }
}
