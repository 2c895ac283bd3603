/**
 * Where is each conversation's KV, and what becomes of it? Told what happens, the book answers with commands: which idle sequences may be
 * saved and where, which files move or go. It holds its byte budgets at every moment: what it allows is reserved first, and counts
 * until it is reported gone. Pure: no I/O, time comes in.
 */
import type { Bytes, KvEntryId, Micros, ModelId, TenantId } from '../core/ids.ts';
import type { KvEvent } from '../engines/engine.ts';
import { discard, discardAll, forgetIfGone, reserveGrant, sendAway, settle } from './departures.ts';
import type { Findable, Found } from './finder.ts';
import { TIERS, createState, learnPace, placeOf, restoreMicros, revalue, saveMicros, tierFor } from './state.ts';
import type { BookBudgets, BookState, Command, Counters, Entry, EntryOwner, Grant, Tier, TierName } from './state.ts';

/** More are not remembered: the least worth leaves. */
const ENTRIES_LIMIT = 100_000;
/** In the index, over all entries. */
const STEPS_LIMIT = 4_000_000;
/** Idle sequences that wait for room; more are not saved. */
const WANTS_LIMIT = 256;
/** A tier that could not take a file is left alone so long. */
const PAUSE_MICROS: Micros = 30_000_000;

/** An entry that was found in a file. */
export interface Adopted extends EntryOwner {
  readonly tokens: number;
  readonly bytes: Bytes;
  readonly recomputeMicros: Micros;
  readonly uses: number;
  readonly usedAt: Micros;
}

export interface Book {
  find(asked: Findable & { readonly modelId: ModelId }): Found<Entry> | null;
  /** Is bringing it back quicker than computing so many of its tokens? False where it lies in no file. */
  isWorthRestoring(entry: Entry, sharedTokens: number): boolean;
  /** It is about to be asked for: it counts as used now, though not yet as used once more. */
  awaited(entry: Entry, now: Micros): void;
  /** A request went on from it. */
  used(entryId: KvEntryId, now: Micros): void;
  /** A file of it was read so fast. */
  restored(tier: TierName, bytes: Bytes, micros: Micros): void;
  /** Its files stay where they are, until as many `unpin`. */
  pin(entryId: KvEntryId): void;
  unpin(entryId: KvEntryId, now: Micros): void;
  kept(owner: EntryOwner, seen: { tokens: number; bytes: Bytes; recomputeMicros: Micros }, now: Micros): void;
  /** A grant for what will be kept soon, from what is free at this moment. */
  grantAhead(owner: EntryOwner, tokens: number, bytes: Bytes, now: Micros): Grant | null;
  saved(event: Extract<KvEvent, { type: 'saved' }>, now: Micros): void;
  /** The grant could not be passed on: its entry stays on the device, without. */
  ungranted(entryId: KvEntryId, now: Micros): void;
  /** `isFailed`: it could not be written. */
  dropped(entryId: KvEntryId, isFailed: boolean, now: Micros): void;
  /** Its file is not what it should be. */
  refused(entryId: KvEntryId, now: Micros): void;
  modelGone(modelId: ModelId, now: Micros): void;
  /** Returns what of it lies on devices. */
  tenantGone(tenantId: TenantId, now: Micros): { modelId: ModelId; entryId: KvEntryId }[];
  /** `gone`: there was nothing to move; `failed`: the disk did not take it. */
  moved(entryId: KvEntryId, result: 'done' | 'gone' | 'failed', now: Micros): void;
  removed(tier: TierName, entryId: KvEntryId, isGone: boolean, now: Micros): void;
  /** The tier is shut until it is told what lies in it. */
  open(tier: TierName, foundBytes: Bytes, now: Micros): void;
  adopt(tier: TierName, found: Adopted, now: Micros): void;
  shed(tier: TierName, bytes: Bytes, now: Micros): void;
  /** All that lay in it was looked at, or it can't be. */
  scanned(tier: TierName, now: Micros): void;
  /** The node ends: everything leaves host memory, the dearest first; nothing is granted any more. */
  drain(now: Micros): void;
  /** What is to be done since the last call. */
  take(): Command[];
  entry(entryId: KvEntryId): Entry | undefined;
  entries(): Iterable<Entry>;
  tier(name: TierName): Tier | null;
  readonly counters: Counters;
}

export function createBook(budgets: BookBudgets): Book {
  const state: BookState = createState(budgets);
  const { tiers, entries, finder, grants, wants, moves, counters, minimumTokens } = state;

  /** Orders what shares the longest prefix: the client's own word, then nearness, then recency. */
  const comparing =
    (hint: string | null) =>
    (a: Entry, b: Entry): number =>
      Number(hint !== null && b.hint === hint) - Number(hint !== null && a.hint === hint) ||
      PLACES.indexOf(placeOf(a)) - PLACES.indexOf(placeOf(b)) ||
      b.usedAt - a.usedAt;

  const isWorthSaving = ({ tokens, bytes, recomputeMicros }: Entry): boolean => {
    if (tokens < minimumTokens) return false;
    const tier = tierFor(state, 'host', bytes) ?? tierFor(state, 'disk', bytes);
    return tier !== null && recomputeMicros > saveMicros(tier, bytes) + restoreMicros(tier, bytes);
  };
  const keepLimits = (): void => {
    while (entries.size > ENTRIES_LIMIT || finder.steps() > STEPS_LIMIT) {
      const tier = tiers.disk?.values.least() ? tiers.disk : tiers.host;
      const least = tier?.values.least();
      const victim = least && entries.get(least.key);
      if (!tier || !victim) return;
      counters.evictions++;
      discardAll(state, victim);
    }
  };
  /** What is a beginning of it is needed no more, once it has a file. */
  const supersede = (entry: Entry): void => {
    for (const older of finder.beginnings(entry)) {
      entry.uses = Math.max(entry.uses, older.uses);
      if (older.supersededBy !== null) entries.get(older.supersededBy)?.supersedes.delete(older.entryId);
      older.supersededBy = entry.entryId;
      entry.supersedes.add(older.entryId);
      revalue(state, older);
    }
  };
  const removeSuperseded = (entry: Entry): void => {
    for (const id of entry.supersedes) {
      const older = entries.get(id);
      if (older !== undefined) discardAll(state, older);
    }
  };
  const enter = (owner: EntryOwner, rest: Omit<Entry, keyof EntryOwner>): Entry => {
    const { entryId, tenantId, modelId, fingerprint, steps, hint } = owner;
    const entry: Entry = { entryId, tenantId, modelId, fingerprint, steps, hint, ...rest };
    entries.set(entryId, entry);
    finder.add(entry);
    supersede(entry);
    return entry;
  };
  /** The grant is over without a file that counts; what may lie there is removed. */
  const undo = ({ entryId, tenantId, tier }: Grant): void => {
    grants.delete(entryId);
    tiers[tier]?.room.setLeaving(entryId, true);
    state.commands.push({ type: 'remove', tier, entryId, tenantId });
  };
  /** The grant is over, and nothing was written. */
  const revoke = (entryId: KvEntryId, isFailed: boolean): void => {
    const grant = grants.get(entryId);
    const tier = grant && tiers[grant.tier];
    if (!grant || !tier) return;
    grants.delete(entryId);
    tier.room.release(entryId);
    if (isFailed) pause(tier);
  };
  const pause = (tier: Tier): void => {
    counters.failures++;
    tier.pausedUntil = state.now + PAUSE_MICROS;
  };
  const offDevice = (entry: Entry): void => {
    entry.onDevice = false;
    wants.delete(entry.entryId);
    forgetIfGone(state, entry);
  };
  /** Every event ends so: what became possible is given out. */
  const at = (now: Micros, change: () => void): void => {
    state.now = now;
    change();
    settle(state);
  };

  return {
    counters,
    find: (asked) =>
      finder.find(
        asked,
        (entry) => !entry.isCondemned && (entry.files.size > 0 || entry.modelId === asked.modelId),
        comparing(asked.hint),
      ),
    isWorthRestoring(entry, sharedTokens) {
      const place = placeOf(entry);
      const tier = place === 'device' ? null : tiers[place];
      if (tier === null || sharedTokens < minimumTokens) return false;
      const share = Math.min(1, sharedTokens / Math.max(1, entry.tokens));
      return entry.recomputeMicros * share > restoreMicros(tier, entry.bytes);
    },
    awaited(entry, now) {
      entry.usedAt = now;
      finder.touch(entry);
      revalue(state, entry);
    },
    used(entryId, now) {
      const entry = entries.get(entryId);
      if (entry === undefined) return;
      entry.uses++;
      entry.usedAt = now;
      finder.touch(entry);
      revalue(state, entry);
    },
    restored(name, bytes, micros) {
      const tier = tiers[name];
      if (tier !== null && micros > 0) tier.restoreMicrosPerMib = learnPace(tier.restoreMicrosPerMib, micros, bytes);
      counters.restores++;
      counters.bytesMoved[name === 'host' ? 'fromHost' : 'fromDisk'] += bytes;
    },
    pin(entryId) {
      const entry = entries.get(entryId);
      if (entry === undefined) return;
      entry.pins++;
      for (const name of TIERS) tiers[name]?.values.hold(entryId);
    },
    unpin(entryId, now) {
      const entry = entries.get(entryId);
      if (entry === undefined || entry.pins === 0) return;
      at(now, () => {
        entry.pins--;
        if (entry.pins > 0) return;
        for (const name of TIERS) tiers[name]?.values.unhold(entryId);
        if (entry.isCondemned) discardAll(state, entry);
        else if (entry.files.size > 1) discard(state, 'host', entry);
      });
    },
    kept(owner, { tokens, bytes, recomputeMicros }, now) {
      at(now, () => {
        if (entries.has(owner.entryId)) return;
        const entry = enter(owner, { ...NEW, ...sets(), tokens, bytes, recomputeMicros, usedAt: now, onDevice: true });
        if (!grants.has(entry.entryId) && wants.size < WANTS_LIMIT && isWorthSaving(entry)) wants.add(entry.entryId);
        keepLimits();
      });
    },
    grantAhead(owner, tokens, bytes, now) {
      state.now = now;
      if (tokens < minimumTokens || grants.has(owner.entryId) || entries.has(owner.entryId)) return null;
      for (const name of TIERS) {
        const tier = tierFor(state, name, bytes);
        const grant = tier && reserveGrant(tier, owner, bytes);
        if (grant === null) continue;
        grants.set(owner.entryId, grant);
        return grant;
      }
      return null;
    },
    saved({ entryId, bytes, micros }, now) {
      at(now, () => {
        const grant = grants.get(entryId);
        const entry = entries.get(entryId);
        const tier = grant && tiers[grant.tier];
        if (!grant || !tier) {
          // Nobody allowed it (any more): the file was removed, or is beyond knowing.
          if (entry !== undefined) offDevice(entry);
          return;
        }
        if (entry === undefined || !tier.room.commit(entryId, bytes)) {
          // Its tenant was forgotten meanwhile, or it is larger than was allowed.
          undo(grant);
          if (entry === undefined) return;
          counters.failures++;
          offDevice(entry);
          return;
        }
        grants.delete(entryId);
        entry.onDevice = false;
        entry.bytes = bytes;
        entry.files.add(tier.name);
        counters.saves++;
        counters.bytesMoved[tier.name === 'host' ? 'toHost' : 'toDisk'] += bytes;
        if (micros > 0) tier.saveMicrosPerMib = learnPace(tier.saveMicrosPerMib, micros, bytes);
        revalue(state, entry);
        removeSuperseded(entry);
      });
    },
    ungranted: (entryId, now) => at(now, () => revoke(entryId, true)),
    dropped(entryId, isFailed, now) {
      at(now, () => {
        revoke(entryId, isFailed);
        const entry = entries.get(entryId);
        if (entry !== undefined) offDevice(entry);
      });
    },
    refused(entryId, now) {
      at(now, () => {
        counters.refusedRestores++;
        const entry = entries.get(entryId);
        if (entry !== undefined) discardAll(state, entry);
      });
    },
    modelGone(modelId, now) {
      at(now, () => {
        for (const grant of grants.values()) if (grant.modelId === modelId) undo(grant);
        for (const entry of entries.values()) {
          if (entry.onDevice && entry.modelId === modelId) offDevice(entry);
        }
      });
    },
    tenantGone(tenantId, now) {
      const onDevices = new Map<KvEntryId, { modelId: ModelId; entryId: KvEntryId }>();
      at(now, () => {
        for (const grant of grants.values()) {
          if (grant.tenantId !== tenantId) continue;
          onDevices.set(grant.entryId, { modelId: grant.modelId, entryId: grant.entryId });
        }
        for (const entry of entries.values()) {
          if (entry.tenantId !== tenantId) continue;
          if (entry.onDevice) onDevices.set(entry.entryId, { modelId: entry.modelId, entryId: entry.entryId });
          entry.onDevice = false;
          discardAll(state, entry, true);
          forgetIfGone(state, entry);
        }
      });
      return [...onDevices.values()];
    },
    moved(entryId, result, now) {
      at(now, () => {
        const move = moves.get(entryId);
        if (move === undefined) return;
        moves.delete(entryId);
        const entry = entries.get(entryId);
        const { host, disk } = tiers;
        if (entry === undefined || !entry.files.has('host')) {
          // Forgotten on the way.
          disk?.room.setLeaving(entryId, true);
          state.commands.push({ type: 'remove', tier: 'disk', entryId, tenantId: move.tenantId });
        } else if (result === 'done') {
          disk?.room.commit(entryId, move.bytes);
          host?.room.setLeaving(entryId, false);
          counters.bytesMoved.toDisk += move.bytes;
          entry.files.add('disk');
          revalue(state, entry);
          if (entry.isCondemned) discardAll(state, entry);
          else if (entry.pins === 0) discard(state, 'host', entry);
        } else {
          disk?.room.release(entryId);
          host?.room.setLeaving(entryId, false);
          if (result === 'failed' && disk !== null) pause(disk);
          if (result === 'gone') discard(state, 'host', entry);
          else revalue(state, entry);
        }
      });
    },
    removed(name, entryId, isGone, now) {
      at(now, () => {
        const room = tiers[name]?.room;
        // What can't be removed goes on counting: its bytes are there.
        if (isGone) room?.release(entryId);
        else {
          counters.failures++;
          room?.setLeaving(entryId, false);
        }
      });
    },
    open: (name, foundBytes, now) => at(now, () => tiers[name]?.room.open(foundBytes)),
    adopt(name, { tokens, bytes, recomputeMicros, uses, usedAt, ...owner }, now) {
      at(now, () => {
        const tier = tiers[name];
        if (tier === null || !tier.room.adopt(owner.entryId, bytes)) return;
        const known = entries.get(owner.entryId);
        if (known !== undefined) {
          // A move was cut off between its copy and its end.
          known.files.add(name);
          discard(state, name, known);
          return;
        }
        const entry = enter(owner, { ...NEW, ...sets(), tokens, bytes, recomputeMicros, uses, usedAt });
        entry.files.add(name);
        revalue(state, entry);
        removeSuperseded(entry);
        keepLimits();
      });
    },
    shed: (name, bytes, now) => at(now, () => tiers[name]?.room.shed(bytes)),
    scanned: (name, now) => at(now, () => tiers[name]?.room.scanned()),
    drain(now) {
      state.now = now;
      wants.clear();
      const { host } = tiers;
      for (const id of host?.values.dearest() ?? []) {
        const entry = entries.get(id);
        if (host && entry) sendAway(state, host, entry);
      }
    },
    take() {
      const { commands } = state;
      state.commands = [];
      return commands;
    },
    entry: (entryId) => entries.get(entryId),
    entries: () => entries.values(),
    tier: (name) => tiers[name],
  };
}

const PLACES: readonly (TierName | 'device')[] = ['device', ...TIERS];
const NEW = { uses: 1, onDevice: false, pins: 0, isCondemned: false, supersededBy: null } as const;
const sets = (): Pick<Entry, 'files' | 'supersedes'> => ({ files: new Set(), supersedes: new Set() });
