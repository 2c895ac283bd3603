/**
 * How room comes about: who leaves host memory for the disk, who leaves the disk, and who waits for that. A new state displaces the
 * least worth (`value.ts`); one that leaves host memory goes to the disk only if something there is worth no more. Pure.
 */
import type { Bytes, KvEntryId } from '../core/ids.ts';
import type { BookState, Entry, Grant, Move, Tier, TierName } from './state.ts';
import { TIERS, restoreMicros, revalue, tierFor, valueOn } from './state.ts';

/** Gives out what has become possible: moves that waited for the disk first, since they free memory, then grants in order. */
export function settle(state: BookState): void {
  let ahead = 0;
  for (const move of state.moves.values()) {
    if (!move.isStarted && !tryMove(state, move, ahead)) ahead += move.bytes;
  }
  const taken = { host: 0, disk: 0 };
  for (const entryId of state.wants) {
    const entry = state.entries.get(entryId);
    const outcome = entry === undefined || !entry.onDevice ? 'hopeless' : place(state, entry, taken);
    if (outcome !== 'waits') state.wants.delete(entryId);
  }
}

/** `taken`: what those before it wait for, by tier; it does not overtake them. */
function place(state: BookState, entry: Entry, taken: Record<TierName, Bytes>): 'granted' | 'waits' | 'hopeless' {
  const { bytes } = entry;
  for (const name of TIERS) {
    const tier = tierFor(state, name, bytes);
    if (tier === null) continue;
    if (tier.room.free() - taken[name] >= bytes) {
      const grant = reserveGrant(tier, entry, bytes);
      if (grant === null) continue;
      state.grants.set(entry.entryId, grant);
      state.commands.push({ type: 'grant', grant, entry });
      return 'granted';
    }
    // What was just used is taken in whatever it is worth, as the policy has it; what will soon be superseded displaces nobody.
    if (entry.supersededBy === null && makeRoom(state, tier, taken[name] + bytes, Number.POSITIVE_INFINITY)) {
      taken[name] += bytes;
      return 'waits';
    }
  }
  return 'hopeless';
}

/** null: not so much is free. */
export function reserveGrant(
  tier: Tier,
  { entryId, tenantId, modelId }: Pick<Entry, 'entryId' | 'tenantId' | 'modelId'>,
  bytes: Bytes,
): Grant | null {
  if (!tier.room.reserve(entryId, bytes)) return null;
  return { entryId, tenantId, modelId, tier: tier.name, bytes };
}

/** Sends away what is worth no more, until so much is free or on its way out; false: all that is left is worth more, or is needed. */
function makeRoom(state: BookState, tier: Tier, bytes: Bytes, worth: number): boolean {
  // What lies in it is not known yet: it will be soon, and may hold what should leave first.
  if (tier.room.isScanning()) return true;
  while (tier.room.free() + tier.room.coming() < bytes) {
    const least = tier.values.least();
    const victim = least === null ? undefined : state.entries.get(least.key);
    if (least === null || victim === undefined || least.worth > worth) {
      if (victim !== undefined) tier.values.turnAway(worth);
      return false;
    }
    sendAway(state, tier, victim);
  }
  return true;
}

/** From host memory to disk where it is worth that, else away. */
export function sendAway(state: BookState, tier: Tier, entry: Entry): void {
  state.counters.evictions++;
  tier.values.leave(entry.entryId);
  const disk = tier.name === 'host' ? tierFor(state, 'disk', entry.bytes) : null;
  const isWorthMoving =
    disk !== null && entry.supersededBy === null && entry.recomputeMicros > restoreMicros(disk, entry.bytes);
  if (!isWorthMoving) {
    discard(state, tier.name, entry);
    return;
  }
  tier.room.setLeaving(entry.entryId, true);
  const { entryId, tenantId, bytes } = entry;
  const move: Move = { entryId, tenantId, bytes, isStarted: false };
  let ahead = 0;
  for (const other of state.moves.values()) if (!other.isStarted) ahead += other.bytes;
  state.moves.set(entryId, move);
  tryMove(state, move, ahead);
}

/** Begins it, waits for the disk's room (false), or gives it up. `ahead`: what others wait for. */
function tryMove(state: BookState, move: Move, ahead: Bytes): boolean {
  const entry = state.entries.get(move.entryId);
  if (entry === undefined || !entry.files.has('host')) {
    state.moves.delete(move.entryId);
    return true;
  }
  const disk = tierFor(state, 'disk', move.bytes);
  if (disk !== null) {
    if (disk.room.free() - ahead >= move.bytes && disk.room.reserve(move.entryId, move.bytes)) {
      move.isStarted = true;
      state.commands.push({ type: 'move', move });
      return true;
    }
    if (makeRoom(state, disk, ahead + move.bytes, disk.values.worthOf(valueOn(disk, entry)))) return false;
  }
  state.moves.delete(move.entryId);
  if (entry.pins > 0) entry.isCondemned = true;
  else discard(state, 'host', entry);
  return true;
}

/** The file goes, read or not; without another place the entry is gone. A move under way ends with its own report. */
export function discard(state: BookState, name: TierName, entry: Entry): void {
  const { entryId, tenantId } = entry;
  if (!entry.files.delete(name)) return;
  const tier = state.tiers[name];
  tier?.values.delete(entryId);
  tier?.room.setLeaving(entryId, true);
  if (name === 'host' && state.moves.get(entryId)?.isStarted === false) state.moves.delete(entryId);
  state.commands.push({ type: 'remove', tier: name, entryId, tenantId });
  forgetIfGone(state, entry);
}

/** All its files; it stays while it lies on the device. Those that somebody reads wait for that, unless by `force`. */
export function discardAll(state: BookState, entry: Entry, force = false): void {
  if (entry.pins > 0 && !force) entry.isCondemned = true;
  else for (const name of TIERS) discard(state, name, entry);
}

/** Nowhere any more: it is found no longer, and what it superseded counts again. */
export function forgetIfGone(state: BookState, entry: Entry): void {
  if (entry.onDevice || entry.files.size > 0) return;
  const id: KvEntryId = entry.entryId;
  if (!state.entries.delete(id)) return;
  state.finder.remove(entry);
  state.wants.delete(id);
  if (entry.supersededBy !== null) state.entries.get(entry.supersededBy)?.supersedes.delete(id);
  for (const olderId of entry.supersedes) {
    const older = state.entries.get(olderId);
    if (older?.supersededBy !== id) continue;
    older.supersededBy = null;
    revalue(state, older);
  }
}
