/**
 * Who there is, and who is calling: tenants and keys of berth.db and berth.yaml, in memory, keys by the hash of their secret. A lookup
 * costs one SHA-256 and one map access, however many there are, and tells nothing by its time: nobody can choose a hash.
 */
import type { ModelId, TenantId } from '../../core/ids.ts';
import { DEFAULT_TENANT } from '../../core/ids.ts';
import { BerthError } from '../../errors.ts';
import type { KeyRow, KeyStore } from '../../store/keys.ts';
import type { TenantStore } from '../../store/tenants.ts';
import type { Principal } from '../options.ts';
import type { Matcher } from './patterns.ts';
import { matcherOf } from './patterns.ts';
import { DEFAULT, fileKey, keyOf, tenantOf } from './rows.ts';
import { hashOf, newKeyId, newSecret, prefixOf } from './secrets.ts';
import type { Access, Declared, DeclaredTenant, Key, ModelPolicy, NamedModel, Tenant } from './types.ts';

export interface DirectoryStore {
  readonly tenants: TenantStore;
  readonly keys: KeyStore;
  identityVersion(): number;
}

export interface NewKey {
  readonly tenantId: TenantId;
  readonly name: string;
  readonly models: readonly string[] | null;
  readonly limits: Key['limits'];
  readonly expiresAt: number | null;
}

export interface MadeKey {
  readonly key: Key;
  /** Shown now and never again. */
  readonly secret: string;
}

interface TenantEntry {
  readonly tenant: Tenant;
  readonly matches: Matcher | null;
}

interface KeyEntry {
  key: Key;
  readonly hash: string;
  /** What it may; made at its first use. null: not made yet, or made before its tenant changed. */
  principal: Principal | null;
}

/** `lastUsedAt` is as exact as this. */
const USED_MILLIS = 60_000;

export class TenantDirectory {
  readonly #store: DirectoryStore;
  readonly #now: () => number;
  #declared: Declared;
  #tenants = new Map<TenantId, TenantEntry>();
  #keys = new Map<string, KeyEntry>();
  #byHash = new Map<string, KeyEntry>();
  #policies = new Map<ModelId, ModelPolicy>();
  #private = new Map<ModelId, ReadonlySet<TenantId>>();
  #version = -1;
  #open: Principal | null = null;
  /** Once a key was needed, none ever is not: the last key's end must not open the door. */
  #closed = false;
  readonly #used = new Set<string>();

  /** @param now Unix milliseconds. */
  constructor(store: DirectoryStore, declared: Declared, now: () => number = Date.now) {
    this.#store = store;
    this.#now = now;
    this.#declared = declared;
    this.#read();
  }

  // ------------------------------------------------------------ who is calling?

  /**
   * null: nobody that is known.
   * @throws BerthError invalid_api_key for an expired key, forbidden for a disabled tenant.
   */
  authenticate(credential: string | null): Principal | null {
    const entry = credential === null ? undefined : this.#byHash.get(hashOf(credential));
    if (entry === undefined) return this.#open;
    const { key } = entry;
    const now = this.#now();
    if (key.expiresAt !== null && key.expiresAt <= now) {
      throw new BerthError('invalid_api_key', 'The API key has expired.');
    }
    entry.principal ??= this.#principalOf(key);
    if (entry.principal.access?.tenant.disabled === true) {
      throw new BerthError('forbidden', 'The tenant of this key is disabled.');
    }
    if (now - (key.lastUsedAt ?? 0) >= USED_MILLIS) {
      entry.key = { ...key, lastUsedAt: now };
      if (key.source === 'store') this.#used.add(key.id);
    }
    return entry.principal;
  }

  /** Is everybody who reaches the port the default tenant, since neither a key nor another tenant was ever made? */
  get isOpen(): boolean {
    return this.#open !== null;
  }

  /** On a listener that others can reach a missing key must never be as good as one. */
  closeDoor(): void {
    this.#closed = true;
    this.#open = null;
  }

  /** As a key of that tenant that may do all that the tenant may: for work that a tenant has left with the node. */
  principalOf(tenant: TenantId, keyId: string | null): Principal | null {
    const entry = this.#tenants.get(tenant);
    if (entry === undefined || entry.tenant.disabled) return null;
    const key = keyId === null ? null : (this.#keys.get(keyId)?.key ?? null);
    if (key !== null && (key.revokedAt !== null || (key.expiresAt !== null && key.expiresAt <= this.#now())))
      return null;
    return this.#principalFor(entry, key);
  }

  // ------------------------------------------------------------ tenants

  tenants(): Tenant[] {
    return [...this.#tenants.values()].map(({ tenant }) => tenant);
  }

  /** @throws BerthError not_found */
  tenant(id: string): Tenant {
    const entry = this.#tenants.get(id as TenantId);
    if (entry === undefined)
      throw new BerthError('not_found', `There is no tenant ${JSON.stringify(id.slice(0, 64))}.`);
    return entry.tenant;
  }

  /** @throws BerthError invalid_request: the id is taken. */
  addTenant(wanted: DeclaredTenant): Tenant {
    if (this.#tenants.has(wanted.id)) {
      throw new BerthError('invalid_request', `The tenant ${wanted.id} is there already.`, { param: 'id' });
    }
    return this.#putTenant({ ...wanted, createdAt: this.#now(), source: 'store' });
  }

  /** @throws BerthError not_found; forbidden: berth.yaml declares it. */
  changeTenant(id: string, change: Partial<Omit<DeclaredTenant, 'id'>>): Tenant {
    return this.#putTenant({ ...this.#ownTenant(id), ...change });
  }

  /** Its keys end at once; its usage stays in the ledger. @throws BerthError not_found, forbidden */
  removeTenant(id: string): Tenant {
    const tenant = this.#ownTenant(id);
    if (tenant.id === DEFAULT_TENANT) {
      throw new BerthError('forbidden', 'The default tenant can be disabled, not removed.');
    }
    const now = this.#now();
    this.#store.keys.revokeAllOf(tenant.id, now);
    this.#store.tenants.put({ ...tenant, limits: { ...tenant.limits }, removedAt: now });
    this.#read();
    return tenant;
  }

  // ------------------------------------------------------------ keys

  /** All, or a tenant's; revoked and expired ones too. @throws BerthError not_found: there is no such tenant. */
  keys(tenant: TenantId | null = null): Key[] {
    if (tenant !== null) this.tenant(tenant);
    const all = [...this.#keys.values()].map(({ key }) => key);
    return tenant === null ? all : all.filter(({ tenantId }) => tenantId === tenant);
  }

  /** @throws BerthError not_found: there is no such tenant. */
  createKey(wanted: NewKey): MadeKey {
    this.tenant(wanted.tenantId);
    const { row, secret } = this.#newRow(wanted);
    this.#store.keys.add(row);
    this.#changed(() => this.#enterKey(keyOf(row), hashOf(secret)));
    return { key: this.#ownKey(row.id), secret };
  }

  /** Another secret for the same rights; the old one ends at once. @throws BerthError not_found, forbidden */
  rotateKey(id: string): MadeKey {
    const old = this.#ownKey(id);
    if (old.revokedAt !== null)
      throw new BerthError('invalid_request', `The key ${id} is revoked: create another one.`);
    const { row, secret } = this.#newRow(old);
    const now = this.#now();
    this.#store.keys.rotate(row, id, now);
    this.#changed(() => {
      this.#endKey(id, now);
      this.#enterKey(keyOf(row), hashOf(secret));
    });
    return { key: this.#ownKey(row.id), secret };
  }

  /** From now on it is unknown. Idempotent. @throws BerthError not_found, forbidden */
  revokeKey(id: string): Key {
    const { revokedAt } = this.#ownKey(id);
    const now = revokedAt ?? this.#now();
    this.#store.keys.revoke(id, now);
    this.#changed(() => this.#endKey(id, now));
    return this.#ownKey(id);
  }

  // ------------------------------------------------------------ models

  policy(model: ModelId): ModelPolicy | undefined {
    return this.#policies.get(model);
  }

  // ------------------------------------------------------------ upkeep

  /** What berth.yaml says now. */
  declare(declared: Declared): void {
    this.#declared = declared;
    this.#read();
  }

  /** Writes when keys were used, and takes over what another process has changed. To be called about once a second. */
  upkeep(): void {
    if (this.#used.size > 0) {
      const used = [...this.#used].map((id) => [id, this.#keys.get(id)?.key.lastUsedAt ?? this.#now()] as const);
      this.#used.clear();
      this.#store.keys.touch(used);
    }
    if (this.#store.identityVersion() !== this.#version) this.#read();
  }

  // ------------------------------------------------------------ inside

  #read(): void {
    this.#version = this.#store.identityVersion();
    const rows = this.#store.tenants.all();
    const tenants = new Map<TenantId, TenantEntry>();
    const enter = (tenant: Tenant): void => void tenants.set(tenant.id, { tenant, matches: matcherOf(tenant.models) });
    enter(DEFAULT);
    for (const row of rows) if (row.removedAt === null) enter(tenantOf(row));
    for (const declared of this.#declared.tenants) {
      enter({ ...declared, createdAt: tenants.get(declared.id)?.tenant.createdAt ?? 0, source: 'file' });
    }
    this.#tenants = tenants;
    this.#policies = new Map(this.#declared.models.map((policy) => [policy.id, policy]));
    this.#private = new Map(
      this.#declared.models.flatMap(({ id, tenants: only }) => (only === null ? [] : [[id, new Set(only)]])),
    );
    this.#readKeys();
    this.#open = this.#closed ? null : this.#openPrincipal();
    // Removed tenants count: whoever had some once does not expect an open door.
    if (rows.some(({ id }) => id !== DEFAULT_TENANT)) this.closeDoor();
    this.#closeIfKeyed();
  }

  #openPrincipal(): Principal | null {
    const entry = this.#tenants.get(DEFAULT_TENANT);
    return entry === undefined || entry.tenant.disabled ? null : this.#principalFor(entry, null);
  }

  #readKeys(): void {
    this.#keys = new Map();
    this.#byHash = new Map();
    for (const [index, secret] of this.#declared.apiKeys.entries())
      this.#enterKey(fileKey(secret, index), hashOf(secret));
    for (const row of this.#store.keys.all()) this.#enterKey(keyOf(row), Buffer.from(row.hash).toString('hex'));
  }

  #enterKey(key: Key, hash: string): void {
    const entry: KeyEntry = { key, hash, principal: null };
    this.#keys.set(key.id, entry);
    if (key.revokedAt === null && this.#tenants.has(key.tenantId)) this.#byHash.set(hash, entry);
  }

  #principalOf(key: Key): Principal {
    const entry = this.#tenants.get(key.tenantId);
    if (entry === undefined) throw new BerthError('invalid_api_key', 'The API key is not known.');
    return this.#principalFor(entry, key);
  }

  #principalFor({ tenant, matches }: TenantEntry, key: Key | null): Principal {
    const keyMatches = matcherOf(key?.models ?? null);
    const access: Access = {
      tenant,
      key,
      allows: (model: NamedModel) =>
        (this.#private.get(model.id)?.has(tenant.id) ?? true) &&
        (matches === null || matches(model)) &&
        (keyMatches === null || keyMatches(model)),
    };
    return { tenantId: tenant.id, keyId: key?.id ?? null, access };
  }

  #putTenant(tenant: Tenant): Tenant {
    this.#store.tenants.put({ ...tenant, limits: { ...tenant.limits }, removedAt: null });
    this.#changed(() => {
      this.#tenants.set(tenant.id, { tenant, matches: matcherOf(tenant.models) });
      for (const entry of this.#keys.values()) if (entry.key.tenantId === tenant.id) entry.principal = null;
      this.#open &&= this.#openPrincipal();
    });
    return this.tenant(tenant.id);
  }

  #ownTenant(id: string): Tenant {
    const tenant = this.tenant(id);
    if (tenant.source === 'file') {
      throw new BerthError('forbidden', `The tenant ${tenant.id} is declared in berth.yaml: change it there.`);
    }
    return tenant;
  }

  #ownKey(id: string): Key {
    const entry = this.#keys.get(id);
    if (entry === undefined) throw new BerthError('not_found', `There is no key ${JSON.stringify(id.slice(0, 64))}.`);
    if (entry.key.source === 'file') {
      throw new BerthError('forbidden', `The key ${id} is one of http.apiKeys in berth.yaml: change it there.`);
    }
    return entry.key;
  }

  #newRow({ tenantId, name, models, limits, expiresAt }: NewKey): { row: KeyRow; secret: string } {
    const secret = newSecret();
    const row: KeyRow = {
      id: newKeyId(),
      tenantId,
      name,
      hash: Buffer.from(hashOf(secret), 'hex'),
      prefix: prefixOf(secret),
      limits: { ...limits },
      models,
      expiresAt,
      createdAt: this.#now(),
      lastUsedAt: null,
      revokedAt: null,
    };
    return { row, secret };
  }

  /** One change of ours was written: memory follows it, unless another process has changed something too. */
  #changed(apply: () => void): void {
    const version = this.#store.identityVersion();
    if (version !== this.#version + 1) return this.#read();
    this.#version = version;
    apply();
    this.#closeIfKeyed();
  }

  #endKey(id: string, at: number): void {
    const entry = this.#keys.get(id);
    if (entry === undefined) return;
    entry.key = { ...entry.key, revokedAt: at };
    this.#byHash.delete(entry.hash);
  }

  #closeIfKeyed(): void {
    if (this.#keys.size > 0) this.closeDoor();
    for (const id of this.#tenants.keys()) if (id !== DEFAULT_TENANT) return this.closeDoor();
  }
}
