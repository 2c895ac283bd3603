/** Between the node's requests and the KV cache: who asks, what is told to whose engine, and what is learned from it. */
import type { EventOf } from '../core/events.ts';
import type { KvEntryId, Micros, ModelId, TenantId } from '../core/ids.ts';
import type { EngineEvent, EngineModel, KvEvent, KvPlan } from '../engines/engine.ts';
import type { KvCacheOptions } from '../kv/cache.ts';
import { createKvCache } from '../kv/cache.ts';
import { SizeGuess } from '../kv/size-guess.ts';
import type { KvView } from './api.ts';
import type { Clock } from './clock.ts';
import type { Hosted } from './hosted.ts';
import type { Log } from './log.ts';
import type { LiveRequest } from './requests.ts';

export interface KvDesk {
  arrived(live: LiveRequest, hosted: Hosted): void;
  /** At each start of the request; undefined: its engine keeps none. */
  planOf(live: LiveRequest, hosted: Hosted): KvPlan | undefined;
  /** It is about to be taken off its engine: what it has computed may be saved, if there is room at this moment. */
  preempting(live: LiveRequest, hosted: Hosted): void;
  accepted(live: LiveRequest, event: Extract<EngineEvent, { type: 'accepted' }>): void;
  ended(live: LiveRequest): void;
  heard(modelId: ModelId, event: KvEvent): void;
  /** The model's process is gone, or the model left the device: so is what was idle there. */
  died(modelId: ModelId): void;
  left(modelId: ModelId): void;
  forgetTenant(tenantId: TenantId): void;
  /** null: nothing is kept. */
  view(): KvView | null;
  /** What lies in host memory is moved to disk for at most so long. */
  close(micros: Micros): Promise<void>;
}

/** Where KV may be besides the device, and how much of it. */
export type KvTiers = Pick<KvCacheOptions, 'host' | 'disk' | 'minimumTokens'>;

export interface KvDeskOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly model: (modelId: ModelId) => EngineModel | undefined;
  /** Learned; what it takes to compute 1,000 tokens again. */
  readonly prefillMicrosPerKiloToken: (modelId: ModelId) => Micros;
  readonly tell: (event: EventOf<'kvSaved'>) => void;
}

/** Tokens that may be computed before the runner hears that it is to stop. */
const PREEMPTED_TOKENS = 64;

/** A node without KV tiers: nothing is kept. */
const NO_KV: KvDesk = {
  arrived() {},
  planOf: () => undefined,
  preempting() {},
  accepted() {},
  ended() {},
  heard() {},
  died() {},
  left() {},
  forgetTenant() {},
  view: () => null,
  close: async () => {},
};

export function openKvDesk(tiers: KvTiers | null, options: KvDeskOptions): KvDesk {
  if (tiers === null) return NO_KV;
  const { clock, log, model, prefillMicrosPerKiloToken, tell } = options;
  const cache = createKvCache({
    ...tiers,
    now: () => clock.now(),
    warn: (fields, message) => log.warn(fields, message),
    onGrant: (modelId, grant) => model(modelId)?.grantKv?.(grant),
  });
  /** Tokens of entries that lie on the device, for the costs of moving them. */
  const idleTokens = new Map<ModelId, Map<KvEntryId, number>>();
  const guesses = new Map<ModelId, SizeGuess>();

  return {
    arrived(live, hosted) {
      const { request, conversation } = live.submission;
      if (request.kind !== 'generate' || !hosted.spec.engine.capabilities.exportsKv) return;
      cache.arrived({
        requestId: live.id,
        // Not who pays: tenants that agreed to share have one name for it.
        tenantId: request.tenantId,
        modelId: live.modelId,
        fingerprint: fingerprintOf(hosted),
        input: request.input,
        hint: conversation,
      });
    },
    planOf: (live) => cache.planOf(live.id) ?? undefined,
    preempting(live, hosted) {
      const tokens = live.promptTokens + live.tokenIds.length;
      const bytes = guesses.get(live.modelId)?.most(tokens + PREEMPTED_TOKENS) ?? null;
      if (bytes === null || !live.accepted) return;
      const grant = cache.preempting(live.id, tokens, bytes);
      if (grant !== null) hosted.model.grantKv?.(grant);
    },
    accepted(live, { cachedTokens, restored, restoreMicros }) {
      const seen = { cachedTokens, ...(restored === undefined ? {} : { restored, restoreMicros: restoreMicros ?? 0 }) };
      const tier = cache.outcome(live.id, seen);
      live.kvTier ??= tier;
      live.restoreMicros += restored === 'yes' ? (restoreMicros ?? 0) : 0;
    },
    ended: (live) => cache.ended(live.id),
    heard(modelId, event) {
      if (event.type === 'kept') {
        const own = idleTokens.get(modelId) ?? new Map<KvEntryId, number>();
        idleTokens.set(modelId, own.set(event.entryId, event.tokens));
        const guess = guesses.get(modelId) ?? new SizeGuess();
        guesses.set(modelId, guess);
        guess.seen(event.tokens, event.bytes);
      } else {
        const tokens = idleTokens.get(modelId)?.get(event.entryId);
        idleTokens.get(modelId)?.delete(event.entryId);
        if (event.type === 'saved' && tokens !== undefined)
          tell({ type: 'kvSaved', modelId, tokens, micros: event.micros });
      }
      cache.heard(modelId, event, { prefillMicrosPerKiloToken: prefillMicrosPerKiloToken(modelId) });
    },
    died(modelId) {
      idleTokens.delete(modelId);
      cache.died(modelId);
    },
    left(modelId) {
      idleTokens.delete(modelId);
      cache.left(modelId);
    },
    forgetTenant(tenantId) {
      for (const { modelId, entryId } of cache.forgetTenant(tenantId)) model(modelId)?.dropKv?.(entryId);
    },
    view: () => ({ stats: cache.stats(), entries: cache.entries() }),
    close: (micros) => cache.close(clock.now() + micros),
  };
}

/** What a saved state depends on: the file, and how it is run. */
const fingerprintOf = ({ spec }: Hosted): string => `${spec.engine.name}|${spec.launch.path}|${spec.fingerprint}`;
