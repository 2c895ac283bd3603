/** What an operator asks of a node. */
import type { KvResponse, ModelsResponse, StatusResponse } from '../../src/gateway/admin-types.ts';
import type { Server } from './servers.ts';

const read = async (server: Server, path: string): Promise<unknown> =>
  (await fetch(`${server.adminUrl}/api/admin/${path}`)).json();

async function post(server: Server, path: string): Promise<number> {
  const started = performance.now();
  const headers = { 'content-type': 'application/json' };
  const response = await fetch(`${server.adminUrl}${path}`, { method: 'POST', headers, body: '{}' });
  const text = await response.text();
  if (!response.ok) throw new Error(`${path}: ${response.status} ${text.slice(0, 300)}`);
  return performance.now() - started;
}

/** Milliseconds until the model is off the device and its memory is free. */
export const stopModel = (server: Server, id: string): Promise<number> => post(server, `/api/admin/models/${id}/stop`);

/** Milliseconds until it is loaded. */
export const loadModel = (server: Server, id: string): Promise<number> => post(server, `/api/admin/models/${id}/load`);

/** Where conversations' KV is; null: the node keeps none. */
export async function kvOf(server: Server): Promise<KvResponse['kv']> {
  return ((await read(server, 'kv')) as KvResponse).kv;
}

/** What the largest of its models takes on this machine, and what the node holds beside models. */
export async function heldBytes(server: Server): Promise<{ largestBytes: number; overheadBytes: number }> {
  const { models } = (await read(server, 'models')) as ModelsResponse;
  const { device } = (await read(server, 'status')) as StatusResponse;
  const held = models.map(({ chargedBytes }) => chargedBytes);
  return {
    largestBytes: Math.max(...held),
    overheadBytes: device.reservedBytes - held.reduce((sum, bytes) => sum + bytes, 0),
  };
}
