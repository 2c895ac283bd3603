/** What the node sees of its KV cache. `cache.ts` makes it. */
import type { Bytes, KvEntryId, Micros, ModelId, RequestId, TenantId } from '../core/ids.ts';
import type { KvEvent, KvGrant, KvPlan, PromptInput } from '../engines/engine.ts';
import type { Warn } from './files.ts';
import type { Counters, TierName } from './state.ts';

export interface KvTier {
  /** Absolute, of this node alone; made if absent. */
  readonly folder: string;
  /** 0: as if there were no such tier. */
  readonly budgetBytes: Bytes;
}

export interface KvCacheOptions {
  /** In memory (tmpfs). */
  readonly host: KvTier | null;
  readonly disk: KvTier | null;
  /** Shorter sequences are neither saved nor restored. */
  readonly minimumTokens: number;
  readonly now: () => Micros;
  readonly warn: Warn;
  readonly onGrant: (modelId: ModelId, grant: KvGrant) => void;
}

export interface KvArrival {
  readonly requestId: RequestId;
  readonly tenantId: TenantId;
  readonly modelId: ModelId;
  /** Of the model's file and how it is run: another one never shares KV. */
  readonly fingerprint: string;
  readonly input: PromptInput;
  /** The client's own name of the conversation. */
  readonly hint: string | null;
}

export interface KvOutcome {
  readonly cachedTokens: number;
  readonly restored?: 'yes' | 'not-needed' | 'refused';
  readonly restoreMicros?: Micros;
}

export type KvPlace = 'device' | TierName;

export interface KvTierStats {
  readonly entries: number;
  readonly bytes: Bytes;
  /** Promised to engines or moves. */
  readonly reservedBytes: Bytes;
  /** The device's is the engines' matter: 0. */
  readonly budgetBytes: Bytes;
}

export interface KvStats extends Readonly<Counters> {
  readonly tiers: Readonly<Record<KvPlace, KvTierStats>>;
}

export interface KvEntryView {
  readonly entryId: KvEntryId;
  readonly tenantId: TenantId;
  readonly modelId: ModelId;
  readonly tier: KvPlace;
  readonly tokens: number;
  readonly bytes: Bytes;
  /** Since it was made or used. */
  readonly ageMicros: Micros;
  readonly uses: number;
}

export interface KvCache {
  /** Hashes the input, and reads a file ahead that it will probably want. */
  arrived(request: KvArrival): void;
  /** At each start of the request: a new entry id, and the file that begins most like it. null: the request is not known. */
  planOf(requestId: RequestId): KvPlan | null;
  /** Before `cancel(keep)`: a grant for its present entry if there is room at this moment. */
  preempting(requestId: RequestId, tokens: number, bytes: Bytes): KvGrant | null;
  /** Grants come by `onGrant`, possibly within this call. */
  heard(modelId: ModelId, event: KvEvent, costs: { readonly prefillMicrosPerKiloToken: number }): void;
  /** What the engine said of the plan; returns the tier that served it. */
  outcome(requestId: RequestId, seen: KvOutcome): KvPlace | null;
  /** The request is through; its present entry may still be heard of. */
  ended(requestId: RequestId): void;
  died(modelId: ModelId): void;
  left(modelId: ModelId): void;
  /** Removes all of it; returns what lies on devices, which the caller has dropped there. */
  forgetTenant(tenantId: TenantId): readonly { readonly modelId: ModelId; readonly entryId: KvEntryId }[];
  stats(): KvStats;
  entries(): readonly KvEntryView[];
  /** What lay in the folders is known. */
  readonly ready: Promise<void>;
  /** Takes to the disk what fits until `deadlineMicros`, a point on the clock `now`; the rest is deleted, and the host folder removed. */
  close(deadlineMicros: Micros): Promise<void>;
}
