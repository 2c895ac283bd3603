/**
 * Keeps web pages away from a listener that trusts its network. A page that the user merely visits can reach a loopback port
 * in two ways: by DNS rebinding (its own host name made to point to 127.0.0.1; the `Host` header tells) and by a cross-site
 * request (the `Origin` header tells). Programs send neither a foreign Host nor an Origin, and notice nothing.
 */
import { isIP } from 'node:net';
import { BerthError } from '../errors.ts';
import type { GuardOptions, Headers } from './options.ts';

/** A `Host` header's name in lower case, without its port and without the brackets of IPv6. */
export function hostName(host: string): string {
  const bracketed = /^\[([^\]]+)\](?::\d+)?$/.exec(host);
  const name = bracketed?.[1] ?? host.replace(/:\d+$/, '');
  return name.toLowerCase().replace(/\.$/, '');
}

/** Loopback as a bind address or a host name. */
export function isLoopback(name: string): boolean {
  const host = name.toLowerCase();
  return (
    host === 'localhost' ||
    host.endsWith('.localhost') ||
    host === '::1' ||
    (isIP(host) === 4 && host.startsWith('127.'))
  );
}

/** An address can't be rebound, so any literal address will do. */
const hostAllowed = (name: string, allowed: readonly string[]): boolean =>
  isLoopback(name) || isIP(name) !== 0 || allowed.some((entry) => entry === '*' || entry.toLowerCase() === name);

/** Does `origin` match `pattern` (exact, `*`, or with `*` for a part)? */
export function originMatches(origin: string, pattern: string): boolean {
  const [scheme, ...rest] = pattern.toLowerCase().split('*');
  const lower = origin.toLowerCase();
  if (rest.length === 0) return lower === pattern.toLowerCase();
  let at = scheme?.length ?? 0;
  if (!lower.startsWith(scheme ?? '')) return false;
  const last = rest.pop() ?? '';
  for (const part of rest) {
    const found = lower.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return lower.length - at >= last.length && lower.endsWith(last);
}

export interface GuardVerdict {
  /** The origin to allow in CORS headers; null: none. */
  readonly corsOrigin: string | null;
}

/**
 * @throws BerthError forbidden for a foreign Host, and for a foreign Origin on anything but reading: without CORS headers a
 * page can't see what it read.
 */
export function guard(method: string, headers: Headers, options: GuardOptions): GuardVerdict {
  const host = headers.host;
  if (host !== undefined && !hostAllowed(hostName(host), options.allowedHosts ?? [])) {
    throw new BerthError(
      'forbidden',
      'This host name is not one that the node answers to; add it to `http.allowedHosts` in berth.yaml.',
    );
  }
  const origin = headers.origin;
  if (origin === undefined) return { corsOrigin: null };
  const allowed = (options.allowedOrigins ?? []).some((pattern) => originMatches(origin, pattern));
  if (allowed) return { corsOrigin: origin };
  const sameOrigin = host !== undefined && (origin === `http://${host}` || origin === `https://${host}`);
  const reading = method === 'GET' || method === 'HEAD';
  if (!sameOrigin && !reading) {
    throw new BerthError(
      'forbidden',
      'Requests from this web origin are not allowed; add it to `http.origins` in berth.yaml.',
    );
  }
  return { corsOrigin: null };
}
