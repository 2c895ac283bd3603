/** Tenants of a node, their keys, and what its ledger says of them. */
import type {
  NewKeyResponse,
  StatusResponse,
  UsageGroup,
  UsageResponse,
  UsageSum,
} from '../../src/gateway/admin-types.ts';
import type { Server } from './servers.ts';

async function call(server: Server, method: 'GET' | 'POST', path: string, body?: object): Promise<unknown> {
  const response = await fetch(`${server.adminUrl}/api/admin/${path}`, {
    method,
    ...(body && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${path}: ${response.status} ${text.slice(0, 300)}`);
  return JSON.parse(text);
}

/** Tenants of these ids, each with a key of its own. From the first one on the node asks for keys. */
export async function addTenants<Id extends string>(server: Server, ids: readonly Id[]): Promise<Record<Id, string>> {
  const keys: Partial<Record<Id, string>> = {};
  for (const id of ids) {
    await call(server, 'POST', 'tenants', { id });
    keys[id] = ((await call(server, 'POST', 'keys', { tenant: id, name: 'bench' })) as NewKeyResponse).secret;
  }
  return keys as Record<Id, string>;
}

/** Sums of the ledger from the beginning to now. */
export async function usageOf(server: Server, by: readonly UsageGroup[]): Promise<readonly UsageSum[]> {
  return ((await call(server, 'GET', `usage?by=${by.join(',')}`)) as UsageResponse).usage;
}

export const statusOf = async (server: Server): Promise<StatusResponse> =>
  (await call(server, 'GET', 'status')) as StatusResponse;

/** Waits until nothing runs and nothing waits. Rejects after a while. */
export async function settled(server: Server, deadlineMillis = 30_000): Promise<void> {
  const deadline = performance.now() + deadlineMillis;
  while (performance.now() < deadline) {
    const { requests } = await statusOf(server);
    if (requests.running + requests.waiting === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error('requests are left over');
}
