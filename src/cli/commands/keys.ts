/** `berth keys`: secrets that callers show. */
import { parseDuration } from '../../config/kinds.ts';
import { BerthError } from '../../errors.ts';
import type { Key, KeyResponse, KeysResponse, NewKeyRequest, NewKeyResponse } from '../../gateway/admin-types.ts';
import { adminClient } from '../client.ts';
import type { NodeOptions } from '../client.ts';
import type { Io } from '../io.ts';
import { limitsFrom, limitsText, patternsFrom } from '../limit-flags.ts';
import type { LimitFlags } from '../limit-flags.ts';
import { humanAgo, humanSpan, json, table } from '../output.ts';

export interface KeyOptions extends NodeOptions, LimitFlags {
  readonly tenant?: string;
  readonly name?: string;
  readonly models?: string;
  readonly expires?: string;
  readonly all?: boolean;
  readonly quiet?: boolean;
}

const PATH = '/api/admin/keys';

export async function list(io: Io, options: KeyOptions): Promise<void> {
  const only = options.tenant === undefined ? '' : `?tenant=${encodeURIComponent(options.tenant)}`;
  const { keys } = (await adminClient(options, io.env).json(PATH + only)) as KeysResponse;
  const shown = options.all === true ? keys : keys.filter(({ revokedAt }) => revokedAt === null);
  if (options.json === true) return io.out(json(shown));
  if (options.quiet === true) return io.out(shown.map(({ id }) => `${id}\n`).join(''));
  const now = Date.now();
  const rows = shown.map((key) => [
    key.id,
    key.tenantId,
    key.name === '' ? '-' : key.name,
    key.prefix === '' ? '-' : `${key.prefix}…`,
    keyState(key, now),
    key.lastUsedAt === null ? 'never' : humanAgo((now - key.lastUsedAt) * 1_000),
    limitsText(key.limits),
    key.models === null ? 'all' : key.models.join(', '),
  ]);
  const headers = ['KEY', 'TENANT', 'NAME', 'SECRET', 'STATE', 'USED', 'LIMITS', 'MODELS'];
  io.out(table({ headers, rows, styled: io.stdoutIsTty }));
}

/** `valid`, `valid for 3 days`, `expired`, `revoked`. `now`: Unix milliseconds. */
export function keyState({ revokedAt, expiresAt }: Key, now: number): string {
  if (revokedAt !== null) return 'revoked';
  if (expiresAt === null) return 'valid';
  return expiresAt <= now ? 'expired' : `valid for ${humanSpan((expiresAt - now) * 1_000)}`;
}

export async function create(io: Io, options: KeyOptions): Promise<void> {
  const { tenant, name, models, expires } = options;
  const body: NewKeyRequest = {
    ...(tenant === undefined ? {} : { tenant }),
    ...(name === undefined ? {} : { name }),
    ...(models === undefined ? {} : { models: patternsFrom(models) }),
    ...(expires === undefined ? {} : { expiresInSeconds: secondsOf(expires) }),
    limits: limitsFrom(options),
  };
  tell(io, options, (await adminClient(options, io.env).json(PATH, { body })) as NewKeyResponse);
}

export async function rotate(io: Io, id: string, options: KeyOptions): Promise<void> {
  const path = `${PATH}/${encodeURIComponent(id)}/rotate`;
  tell(io, options, (await adminClient(options, io.env).json(path, { method: 'POST' })) as NewKeyResponse);
}

export async function revoke(io: Io, ids: readonly string[], options: KeyOptions): Promise<void> {
  for (const id of ids) {
    const path = `${PATH}/${encodeURIComponent(id)}`;
    const { key } = (await adminClient(options, io.env).json(path, { method: 'DELETE' })) as KeyResponse;
    if (options.json !== true) io.out(`${key.id} of ${key.tenantId} is revoked.\n`);
  }
  if (options.json === true) io.out(json({ revoked: ids }));
}

/** The secret alone on stdout, so that a script can take it. */
function tell(io: Io, options: KeyOptions, { key, secret }: NewKeyResponse): void {
  if (options.json === true) return io.out(json({ key, secret }));
  io.err(`${key.id} of ${key.tenantId}. Its secret is shown this once:\n`);
  io.out(`${secret}\n`);
}

function secondsOf(text: string): number {
  const micros = parseDuration(text);
  if (micros !== undefined && micros >= 1_000_000) return Math.round(micros / 1e6);
  throw new BerthError(
    'invalid_request',
    `--expires: expected a duration such as 30d, received ${JSON.stringify(text)}`,
  );
}
