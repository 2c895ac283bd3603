/**
 * Runs a line of a batch as the request that it is: through the gateway's own door, without a socket, with a credential that only
 * this process knows and that stands for the batch's tenant. So a line is checked, limited, billed and answered as any other request.
 */
import { randomBytes } from 'node:crypto';
import type { OutgoingHttpHeaders } from 'node:http';
import type { FastifyInstance } from 'fastify';
import type { TenantId } from '../../core/ids.ts';
import type { Authenticator } from '../auth.ts';
import type { Principal } from '../options.ts';
import type { LineAnswer } from './job.ts';
import type { RunLine } from './runner.ts';

/** Who a batch's tenant and key are now; null: they may not any more. */
export type BatchPrincipal = (tenant: TenantId, keyId: string | null) => Principal | null;

const LEAST_RETRY_MILLIS = 250;
const MOST_RETRY_MILLIS = 30_000;

export interface InsideDoor {
  /** As `auth`, and knows the batches' lines besides. */
  readonly auth: Authenticator;
  runLine(app: FastifyInstance): RunLine;
}

export function insideDoor(auth: Authenticator, principalOf: BatchPrincipal): InsideDoor {
  const inside = new Map<string, Principal>();
  return {
    auth: (credential) => (credential === null ? undefined : inside.get(credential)) ?? auth(credential),
    runLine: (app) => async (batch, request) => {
      const credential = randomBytes(32).toString('base64url');
      const principal = principalOf(batch.tenantId, batch.keyId);
      if (principal !== null) inside.set(credential, principal);
      try {
        const { statusCode, headers, payload } = await app.inject({
          method: 'POST',
          url: batch.endpoint,
          headers: { authorization: `Bearer ${credential}`, 'content-type': 'application/json' },
          payload: JSON.stringify({ ...request.body, stream: false, priority: 'batch' }),
        });
        return answerOf(statusCode, headers, payload);
      } finally {
        inside.delete(credential);
      }
    },
  };
}

function answerOf(status: number, headers: OutgoingHttpHeaders, payload: string): LineAnswer {
  const requestId = headers['x-request-id'];
  const retry = status >= 400 && headers['x-should-retry'] === 'true';
  const after = Number(headers['retry-after-ms'] ?? 1_000);
  return {
    status,
    requestId: typeof requestId === 'string' ? requestId : '',
    body: JSON.parse(payload) as unknown,
    retryMillis: retry ? Math.min(MOST_RETRY_MILLIS, Math.max(LEAST_RETRY_MILLIS, after)) : null,
    busy: status === 429 || status === 503,
  };
}
