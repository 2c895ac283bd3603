/**
 * Who is calling. An `Authenticator` turns a credential into a principal; the one here holds a few keys in memory, a store of
 * thousands can stand behind the same function.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { TenantId } from '../core/ids.ts';
import { DEFAULT_TENANT } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import type { Headers, Principal } from './options.ts';

export interface StaticKey {
  readonly key: string;
  readonly tenantId?: TenantId;
  /** Names the key in logs and bills. */
  readonly keyId?: string;
}

/** Answers null for a credential that it doesn't know. A promise is fine: it is awaited before the body is read. */
export type Authenticator = (credential: string | null) => Principal | null | Promise<Principal | null>;

const OPEN: Principal = { tenantId: DEFAULT_TENANT, keyId: null };

/** Everyone is the default tenant, whatever key an SDK insists on sending. */
export const openDoor: Authenticator = () => OPEN;

const digest = (text: string): Buffer => createHash('sha256').update(text, 'utf8').digest();

/**
 * Keys in memory, as SHA-256 digests. Every digest is compared, each in constant time, so neither the length nor the position
 * of a near miss shows in the answer's time.
 * @throws BerthError config_invalid for an empty key.
 */
export function staticKeys(keys: readonly (string | StaticKey)[]): Authenticator {
  const entries = keys.map((entry, index) => {
    const { key, tenantId, keyId } =
      typeof entry === 'string' ? { key: entry, tenantId: undefined, keyId: undefined } : entry;
    if (key.trim() === '') throw new BerthError('config_invalid', `API key ${index + 1} is empty.`);
    return {
      digest: digest(key),
      principal: { tenantId: tenantId ?? DEFAULT_TENANT, keyId: keyId ?? `key-${index + 1}` },
    };
  });
  return (credential) => {
    if (credential === null) return null;
    const offered = digest(credential);
    let found: Principal | null = null;
    for (const entry of entries) {
      if (timingSafeEqual(entry.digest, offered)) found = entry.principal;
    }
    return found;
  };
}

/** `Authorization: Bearer K`, else `x-api-key: K`. */
export function credentialOf(headers: Headers): string | null {
  const bearer = /^bearer +(\S+) *$/i.exec(headers.authorization ?? '')?.[1];
  if (bearer !== undefined) return bearer;
  const key = headers['x-api-key'];
  return typeof key === 'string' && key !== '' ? key : null;
}

/** @throws BerthError invalid_api_key */
export async function authenticate(auth: Authenticator, headers: Headers): Promise<Principal> {
  const credential = credentialOf(headers);
  const principal = await auth(credential);
  if (principal === null) {
    throw new BerthError('invalid_api_key', credential === null ? 'No API key was sent.' : 'The API key is not known.');
  }
  return principal;
}
