/**
 * The node's KV cache: knows where each conversation's KV lies, proposes it to the next request of the same conversation, and keeps the
 * tiers' budgets. It joins the pure book (`book.ts`) with the files (`files.ts`). What it proposes is a guess that the engine proves, so
 * that a wrong one costs time and never a wrong text. Nothing here throws, and nothing here waits for a disk but `close`.
 */
import { randomBytes } from 'node:crypto';
import type { KvEntryId, Micros, ModelId, RequestId, TenantId } from '../core/ids.ts';
import { kvEntryId } from '../core/ids.ts';
import type { KvFile, KvGrant } from '../engines/engine.ts';
import type { KvCache, KvCacheOptions, KvPlace, KvTier, KvTierStats } from './api.ts';
import { createBook } from './book.ts';
import { createHasher } from './chain.ts';
import { openKvFolder, warmFile } from './files.ts';
import type { KvFolder } from './files.ts';
import { labelOf, readLabel } from './label.ts';
import { createLane } from './lane.ts';
import { ensureSecret } from './secret.ts';
import type { Command, Entry, EntryOwner, Grant, TierName } from './state.ts';
import { TIERS, placeOf } from './state.ts';

export type * from './api.ts';

/** Requests that are known at once, and entries that are still to be heard of. More are served without a plan. */
const REQUESTS_LIMIT = 100_000;
const EXPECTED_LIMIT = 20_000;
/** Files that are read ahead: at once, and in all before more are passed over. */
const WARM_AT_ONCE = 2;
const WARM_LIMIT = 16;
const REMOVE_AT_ONCE = 4;

interface Plan {
  readonly owner: EntryOwner;
  /** The entry that begins most like it. */
  readonly foundId: KvEntryId | null;
  /** From which its file is to be restored. */
  readonly restoreTier: TierName | null;
  isPinned: boolean;
}

interface Asking {
  readonly tenantId: TenantId;
  readonly modelId: ModelId;
  readonly fingerprint: string;
  readonly steps: readonly string[];
  /** Guessed, up to each step. */
  readonly tokens: readonly number[];
  readonly hint: string | null;
  plan: Plan | null;
}

export function createKvCache(options: KvCacheOptions): KvCache {
  const { now, warn, onGrant } = options;
  const openTier = (tier: KvTier | null): KvFolder | null =>
    tier === null || tier.budgetBytes <= 0 ? null : openKvFolder(tier.folder, warn);
  const folders: Readonly<Record<TierName, KvFolder | null>> = {
    host: openTier(options.host),
    disk: openTier(options.disk),
  };
  const hasher = createHasher(ensureSecret(folders.disk && (options.disk?.folder ?? null), warn));
  const book = createBook({
    hostBytes: folders.host && (options.host?.budgetBytes ?? null),
    diskBytes: folders.disk && (options.disk?.budgetBytes ?? null),
    minimumTokens: options.minimumTokens,
  });
  const requests = new Map<RequestId, Asking>();
  /** Whose the entries are that engines will tell of. */
  const expected = new Map<KvEntryId, EntryOwner>();
  const prefillPaces = new Map<ModelId, number>();
  const moving = createLane(1);
  const removing = createLane(REMOVE_AT_ONCE);
  const warming = createLane(WARM_AT_ONCE);
  const warmingPaths = new Set<string>();
  const stopping = new AbortController();
  let isFlushing = false;
  let isFailureTold = false;

  const recomputeMicros = (modelId: ModelId, tokens: number): Micros =>
    Math.floor(((prefillPaces.get(modelId) ?? 0) * tokens) / 1000);
  const fileOf = (tier: TierName, { entryId, tenantId, fingerprint }: EntryOwner): KvFile | null => {
    const path = folders[tier]?.pathOf(hasher.folderOf(tenantId), entryId);
    return path === undefined ? null : { path, tenantId, fingerprint };
  };
  /** null, and the grant undone, where its folder can't be made. */
  const prepareGrant = (grant: Grant, owner: EntryOwner, uses: number, micros: Micros): KvGrant | null => {
    const file = fileOf(grant.tier, owner);
    if (file === null || !folders[grant.tier]?.ensure(hasher.folderOf(grant.tenantId))) {
      book.ungranted(grant.entryId, now());
      return null;
    }
    return { ...file, entryId: grant.entryId, bytes: grant.bytes, label: labelOf(owner, uses, micros) };
  };
  const perform = (command: Command): void => {
    if (command.type === 'grant') {
      const { grant, entry } = command;
      const prepared = prepareGrant(grant, entry, entry.uses, entry.recomputeMicros);
      if (prepared !== null) onGrant(grant.modelId, prepared);
    } else if (command.type === 'move') {
      const { entryId, tenantId } = command.move;
      const tenant = hasher.folderOf(tenantId);
      moving.run(async () => {
        const source = folders.host?.pathOf(tenant, entryId) ?? '';
        book.moved(entryId, (await folders.disk?.takeIn(source, tenant, entryId)) ?? 'failed', now());
        flush();
      });
    } else {
      const { tier, entryId, tenantId } = command;
      removing.run(async () => {
        const isGone = await folders[tier]?.remove(hasher.folderOf(tenantId), entryId);
        book.removed(tier, entryId, isGone === true, now());
        flush();
      });
    }
  };
  /** Performs what the book decided; also what it decides meanwhile. */
  function flush(): void {
    if (isFlushing) return;
    isFlushing = true;
    for (let commands = book.take(); commands.length > 0; commands = book.take()) {
      for (const command of commands) {
        try {
          perform(command);
        } catch (error) {
          warn({ err: error, command: command.type }, 'A decision of the KV cache could not be carried out.');
        }
      }
    }
    isFlushing = false;
  }
  const unpin = (plan: Plan | null): void => {
    if (plan === null || !plan.isPinned || plan.foundId === null) return;
    plan.isPinned = false;
    book.unpin(plan.foundId, now());
  };
  /** The best entry, and its file if that is worth restoring. */
  const seek = (asking: Asking): { entry: Entry; tier: TierName | null } | null => {
    const found = book.find(asking);
    if (found === null) return null;
    const { entry, depth } = found;
    const isWhole = depth === entry.steps.length;
    const shared = isWhole ? entry.tokens : Math.min(entry.tokens, asking.tokens[depth - 1] ?? 0);
    const place = placeOf(entry);
    return { entry, tier: place !== 'device' && book.isWorthRestoring(entry, shared) ? place : null };
  };
  const warm = ({ path }: KvFile): void => {
    if (warmingPaths.has(path) || warming.size() >= WARM_LIMIT) return;
    warmingPaths.add(path);
    warming.run(async () => {
      await warmFile(path, stopping.signal);
      warmingPaths.delete(path);
    });
  };
  const scan = async (name: TierName): Promise<void> => {
    const folder = folders[name];
    const tier = book.tier(name);
    if (folder === null || tier === null) return;
    const [start, startMillis] = [now(), Date.now()];
    try {
      await folder.scan(
        tier.room.budgetBytes,
        {
          onTotal: (bytes) => book.open(name, bytes, now()),
          onFile({ head, bytes, usedAtMillis }, tenant) {
            const label = readLabel(head.label);
            // Of another secret, its names can never be asked for.
            if (label === null || hasher.folderOf(head.tenantId) !== tenant) return false;
            const { entryId, tenantId, fingerprint, tokens } = head;
            const usedAt = start - Math.round(Math.max(0, startMillis - usedAtMillis) * 1000);
            book.adopt(name, { ...label, entryId, tenantId, fingerprint, tokens, bytes, usedAt }, now());
            flush();
            return true;
          },
          onShed: (bytes) => book.shed(name, bytes, now()),
        },
        stopping.signal,
      );
    } catch (error) {
      warn({ err: error, tier: name }, 'The KV files of an earlier run could not be looked through.');
    }
    book.scanned(name, now());
    flush();
  };
  const gone = (modelId: ModelId): void => {
    for (const asking of requests.values()) if (asking.modelId === modelId) unpin(asking.plan);
    for (const [entryId, owner] of expected) if (owner.modelId === modelId) expected.delete(entryId);
    book.modelGone(modelId, now());
    flush();
  };
  const ready = Promise.all(TIERS.map(scan)).then(() => undefined);

  return {
    ready,
    arrived({ requestId, tenantId, modelId, fingerprint, input, hint }) {
      if (stopping.signal.aborted || requests.size >= REQUESTS_LIMIT) return;
      const { steps, tokens } = hasher.chainOf({ tenantId, fingerprint }, input);
      if (steps.length === 0) return;
      const hashed = hint === null ? null : hasher.hintOf(tenantId, hint);
      const asking: Asking = { tenantId, modelId, fingerprint, steps, tokens, hint: hashed, plan: null };
      requests.set(requestId, asking);
      const best = seek(asking);
      if (best === null) return;
      book.awaited(best.entry, now());
      const file = best.tier === 'disk' ? fileOf('disk', best.entry) : null;
      if (file !== null) warm(file);
    },
    planOf(requestId) {
      const asking = requests.get(requestId);
      if (asking === undefined || stopping.signal.aborted) return null;
      unpin(asking.plan);
      book.counters.lookups++;
      const best = seek(asking);
      const entryId = kvEntryId(randomBytes(16).toString('base64url'));
      const { tenantId, modelId, fingerprint, steps, hint } = asking;
      const owner: EntryOwner = { entryId, tenantId, modelId, fingerprint, steps, hint };
      const restore = best?.tier ? fileOf(best.tier, best.entry) : null;
      const foundId = best?.entry.entryId ?? null;
      asking.plan = { owner, foundId, restoreTier: best?.tier ?? null, isPinned: restore !== null };
      if (restore !== null && foundId !== null) book.pin(foundId);
      expected.set(entryId, owner);
      const [oldest] = expected.keys();
      if (expected.size > EXPECTED_LIMIT && oldest !== undefined) expected.delete(oldest);
      flush();
      return { entryId, restore };
    },
    preempting(requestId, tokens, bytes) {
      const asking = requests.get(requestId);
      const owner = asking?.plan?.owner;
      if (owner === undefined || stopping.signal.aborted) return null;
      const grant = book.grantAhead(owner, tokens, bytes, now());
      if (grant === null) return null;
      const prepared = prepareGrant(grant, owner, 1, recomputeMicros(owner.modelId, tokens));
      flush();
      return prepared;
    },
    heard(modelId, event, { prefillMicrosPerKiloToken }) {
      if (stopping.signal.aborted) return;
      const { entryId } = event;
      prefillPaces.set(modelId, prefillMicrosPerKiloToken);
      const owner = expected.get(entryId);
      expected.delete(entryId);
      if (event.type === 'kept') {
        const { tokens, bytes } = event;
        if (owner !== undefined) {
          book.kept(owner, { tokens, bytes, recomputeMicros: recomputeMicros(modelId, tokens) }, now());
        }
      } else if (event.type === 'saved') book.saved(event, now());
      else {
        const isFailed = event.why === 'failed';
        if (isFailed && !isFailureTold) warn({ modelId }, 'KV of a conversation could not be written; told once.');
        isFailureTold ||= isFailed;
        book.dropped(entryId, isFailed, now());
      }
      flush();
    },
    outcome(requestId, { cachedTokens, restored, restoreMicros = 0 }) {
      const plan = requests.get(requestId)?.plan ?? null;
      if (plan === null) return null;
      const { foundId, restoreTier } = plan;
      const entry = foundId === null ? undefined : book.entry(foundId);
      unpin(plan);
      if (restored === 'refused' && foundId !== null && restoreTier !== null) book.refused(foundId, now());
      const wasRestored = restored === 'yes' && restoreTier !== null;
      const place: KvPlace | null = wasRestored ? restoreTier : cachedTokens > 0 ? 'device' : null;
      if (wasRestored && entry !== undefined) book.restored(restoreTier, entry.bytes, restoreMicros);
      if (place !== null) {
        book.counters.hits[place]++;
        if (foundId !== null && restored !== 'refused') book.used(foundId, now());
        if (wasRestored && entry !== undefined) {
          void folders[restoreTier]?.touch(hasher.folderOf(entry.tenantId), entry.entryId);
        }
      }
      flush();
      return place;
    },
    ended(requestId) {
      unpin(requests.get(requestId)?.plan ?? null);
      requests.delete(requestId);
      flush();
    },
    died: gone,
    left: gone,
    forgetTenant(tenantId) {
      for (const [requestId, asking] of requests) if (asking.tenantId === tenantId) requests.delete(requestId);
      for (const [entryId, owner] of expected) if (owner.tenantId === tenantId) expected.delete(entryId);
      const onDevices = book.tenantGone(tenantId, now());
      flush();
      for (const name of TIERS) {
        removing.run(async () => folders[name]?.removeTenant(hasher.folderOf(tenantId)));
      }
      return onDevices;
    },
    stats() {
      const counts = { device: 0, host: 0, disk: 0 };
      let deviceBytes = 0;
      for (const entry of book.entries()) {
        counts[placeOf(entry)]++;
        if (entry.onDevice) deviceBytes += entry.bytes;
      }
      const tierStats = (name: TierName): KvTierStats => {
        const room = book.tier(name)?.room;
        return {
          entries: counts[name],
          bytes: room?.fileBytes() ?? 0,
          reservedBytes: room?.reservedBytes() ?? 0,
          budgetBytes: room?.budgetBytes ?? 0,
        };
      };
      const device = { entries: counts.device, bytes: deviceBytes, reservedBytes: 0, budgetBytes: 0 };
      return { ...structuredClone(book.counters), tiers: { device, host: tierStats('host'), disk: tierStats('disk') } };
    },
    entries: () =>
      [...book.entries()].map((entry) => {
        const { entryId, tenantId, modelId, tokens, bytes, uses, usedAt } = entry;
        return { entryId, tenantId, modelId, tier: placeOf(entry), tokens, bytes, ageMicros: now() - usedAt, uses };
      }),
    async close(deadlineMicros) {
      if (stopping.signal.aborted) return;
      stopping.abort();
      const { promise: timeout, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, Math.max(0, Math.ceil((deadlineMicros - now()) / 1000)));
      await Promise.race([Promise.all([ready, warming.idle()]), timeout]);
      book.drain(now());
      flush();
      // What is removed makes room for what moves, which is then removed: until both have nothing to do.
      while (moving.size() + removing.size() > 0 && now() < deadlineMicros) {
        await Promise.race([Promise.all([moving.idle(), removing.idle()]), timeout]);
      }
      clearTimeout(timer);
      for (const lane of [moving, removing, warming]) lane.clear();
      await folders.host?.close({ remove: true });
      await folders.disk?.close({ remove: false });
    },
  };
}
