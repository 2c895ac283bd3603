/** Opens the two listeners and closes them gracefully. */
import type { AddressInfo } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { BerthError } from '../errors.ts';
import type { NodeApi } from '../runtime/api.ts';
import type { AdminOptions } from './admin.ts';
import { createAdmin } from './admin.ts';
import { createGateway } from './app.ts';
import { isLoopback } from './guard.ts';
import type { GatewayOptions } from './options.ts';

export interface ListenOptions {
  readonly node: NodeApi;
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  readonly adminHost: string;
  readonly adminPort: number;
  readonly gateway?: GatewayOptions;
  readonly admin?: AdminOptions;
  /** Listen beyond loopback without a key. Whoever reaches the port may then use the device. */
  readonly allowUnauthenticated?: boolean;
}

export interface Listening {
  /** `http://127.0.0.1:8420`, without a slash at the end. */
  readonly url: string;
  readonly adminUrl: string;
  readonly port: number;
  readonly adminPort: number;
  readonly gateway: FastifyInstance;
  readonly admin: FastifyInstance;
  /** Takes no more requests, lets running ones end for at most `deadlineMillis` (default 10 s), then cuts them off. */
  close(deadlineMillis?: number): Promise<void>;
}

const CLOSE_MILLIS = 10_000;
/** How often connections are looked at that became idle while closing. */
const SWEEP_MILLIS = 50;

async function open(app: FastifyInstance, what: string, flag: string, host: string, port: number): Promise<number> {
  try {
    await app.listen({ host, port });
  } catch (error) {
    await app.close();
    throw listenError(error, `${what} can’t listen on ${host} port ${port}`, flag);
  }
  return (app.server.address() as AddressInfo).port;
}

function listenError(error: unknown, text: string, flag: string): BerthError {
  const { code } = error as NodeJS.ErrnoException;
  const options = { cause: error };
  if (code === 'EADDRINUSE')
    return new BerthError('address_in_use', `${text}: another program listens there (\`${flag}\`).`, options);
  if (code === 'EACCES')
    return new BerthError(
      'config_invalid',
      `${text}: it needs more rights; choose a port above 1023 (\`${flag}\`).`,
      options,
    );
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND') {
    return new BerthError('config_invalid', `${text}: this machine has no such address.`, options);
  }
  return new BerthError('config_invalid', `${text} (${code ?? 'unknown reason'}).`, options);
}

const urlOf = (host: string, port: number): string => {
  const reachable = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host;
  return `http://${reachable.includes(':') ? `[${reachable}]` : reachable}:${port}`;
};

async function closeApp(app: FastifyInstance, deadlineMillis: number): Promise<void> {
  const sweep = setInterval(() => app.server.closeIdleConnections(), SWEEP_MILLIS);
  const deadline = setTimeout(() => app.server.closeAllConnections(), deadlineMillis);
  try {
    await app.close();
  } finally {
    clearInterval(sweep);
    clearTimeout(deadline);
  }
}

/** Beyond loopback a key is asked for, and any host name is fine with one: a web page that rebinds a name has no key. */
function checkReach(host: string, keyed: boolean, allowed: boolean, what: string): void {
  if (isLoopback(host) || keyed || allowed) return;
  throw new BerthError(
    'config_invalid',
    `${what} would listen on ${host} without a key. Set one, listen on 127.0.0.1, or allow it explicitly.`,
  );
}
const hostsFor = (host: string, allowedHosts: readonly string[] | undefined): readonly string[] =>
  allowedHosts ?? (isLoopback(host) ? [] : ['*']);

/**
 * @throws BerthError address_in_use, config_invalid; then nothing is left open.
 */
export async function listenGateway(options: ListenOptions): Promise<Listening> {
  const { node, host, adminHost } = options;
  const gatewayOptions = options.gateway ?? {};
  const adminOptions = options.admin ?? {};
  const allowed = options.allowUnauthenticated ?? false;
  const keyed =
    gatewayOptions.auth === undefined ? (gatewayOptions.apiKeys ?? []).length > 0 : (gatewayOptions.keyed ?? true);
  checkReach(host, keyed, allowed, 'The API');
  checkReach(adminHost, adminOptions.adminKey !== undefined, allowed, 'The admin API');
  const gateway = createGateway(node, { ...gatewayOptions, allowedHosts: hostsFor(host, gatewayOptions.allowedHosts) });
  const admin = createAdmin(node, { ...adminOptions, allowedHosts: hostsFor(adminHost, adminOptions.allowedHosts) });
  const port = await open(gateway, 'The API', '--port', host, options.port);
  let adminPort: number;
  try {
    adminPort = await open(admin, 'The admin API', '--admin-port', adminHost, options.adminPort);
  } catch (error) {
    await gateway.close();
    throw error;
  }
  let closed: Promise<void> | null = null;
  return {
    url: urlOf(host, port),
    adminUrl: urlOf(adminHost, adminPort),
    port,
    adminPort,
    gateway,
    admin,
    close(deadlineMillis = CLOSE_MILLIS) {
      closed ??= Promise.all([closeApp(gateway, deadlineMillis), closeApp(admin, deadlineMillis)]).then(
        () => undefined,
      );
      return closed;
    },
  };
}
