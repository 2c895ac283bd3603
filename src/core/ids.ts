/**
 * The identities and quantities of Berth. Ids are branded strings: a request id can't be passed where a tenant id is meant,
 * and no cache key can be built without a `TenantId`. Quantities are integers; their unit is in the name.
 */
declare const brand: unique symbol;
type Branded<Name extends string> = string & { readonly [brand]: Name };

export type TenantId = Branded<'TenantId'>;
export type ModelId = Branded<'ModelId'>;
export type RequestId = Branded<'RequestId'>;
/** One state of one conversation's KV cache, wherever it lies. Random: it says nothing of the text, and names files. */
export type KvEntryId = Branded<'KvEntryId'>;

/** Identifies one action of the core; completions carry it back, so that a late completion is recognised and dropped. */
export type ActionId = number;
/** Integer microseconds: a point on the node's monotonic clock, or a duration (the name says which). */
export type Micros = number;
/** Integer bytes. */
export type Bytes = number;

export const tenantId = (text: string): TenantId => text as TenantId;
export const modelId = (text: string): ModelId => text as ModelId;
export const requestId = (text: string): RequestId => text as RequestId;
export const kvEntryId = (text: string): KvEntryId => text as KvEntryId;

/** The tenant of a node on which none is configured. */
export const DEFAULT_TENANT: TenantId = tenantId('default');

export const MILLI = 1_000;
export const SECOND = 1_000_000;
export const MINUTE = 60 * SECOND;
export const MIB = 1024 * 1024;
