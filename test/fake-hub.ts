/**
 * A model hub on loopback, for tests: the tree listing and the `resolve` addresses that `@huggingface/hub` 2.17 and Berth ask
 * for, with redirects to a storage address, Range, If-Range and ETag as real ones have them, and faults on demand.
 */
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

interface HubRequest {
  readonly path: string;
  readonly range: string | null;
  readonly authorization: string | null;
}

interface Fault {
  /** Cut the connection after so many bytes of the body. */
  readonly cutAfterBytes?: number;
  /** … but not before that: a client drops what it hasn't read when the connection breaks. */
  readonly cutWhen?: Promise<void>;
  readonly status?: number;
}

export interface FakeHub {
  readonly url: string;
  readonly files: Map<string, Buffer>;
  readonly requests: HubRequest[];
  /** Taken in order by downloads, one each. */
  readonly faults: Fault[];
  /** sha256 that the listing tells, instead of the file's own. */
  readonly lies: Map<string, string>;
  token: string | null;
  close(): Promise<void>;
}

const REPO = 'org/tiny';

/** Serves `files` as the repository `org/tiny`, and the same bytes at `/files/NAME`. */
export async function startFakeHub(files: Readonly<Record<string, Buffer>>): Promise<FakeHub> {
  const hub = {
    files: new Map(Object.entries(files)),
    requests: [],
    faults: [],
    lies: new Map(),
    token: null,
  } as unknown as {
    -readonly [K in keyof FakeHub]: FakeHub[K];
  };
  const server = createServer((request, response) => answer(hub, request, response));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  hub.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  hub.close = () =>
    new Promise((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  return hub;
}

function answer(hub: FakeHub, request: IncomingMessage, response: ServerResponse): void {
  const { pathname } = new URL(request.url ?? '/', hub.url);
  const { range = null, authorization = null } = request.headers;
  hub.requests.push({ path: pathname, range, authorization });
  if (hub.token !== null && !pathname.startsWith('/files/') && authorization !== `Bearer ${hub.token}`)
    return void response.writeHead(401).end();
  if (pathname === `/api/models/${REPO}/tree/main`) return list(hub, response);
  const resolved = new RegExp(`^/${REPO}/resolve/main/(.+)$`).exec(pathname)?.[1];
  if (resolved !== undefined && hub.files.has(resolved))
    return void response.writeHead(302, { location: `/files/${resolved}` }).end();
  const bytes = hub.files.get(/^\/files\/(.+)$/.exec(pathname)?.[1] ?? '');
  if (bytes === undefined)
    return void response.writeHead(404, { 'content-type': 'application/json' }).end('{"error":"Entry not found"}');
  sendFile(bytes, hub.faults.shift() ?? {}, request, response);
}

function list({ files, lies }: FakeHub, response: ServerResponse): void {
  const entries = [...files].map(([path, bytes]) => ({
    type: 'file',
    path,
    size: bytes.length,
    oid: createHash('sha1').update(bytes).digest('hex'),
    lfs: {
      oid: lies.get(path) ?? createHash('sha256').update(bytes).digest('hex'),
      size: bytes.length,
      pointerSize: 130,
    },
  }));
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(entries));
}

function sendFile(bytes: Buffer, fault: Fault, request: IncomingMessage, response: ServerResponse): void {
  if (fault.status !== undefined) return void response.writeHead(fault.status, { 'retry-after': '0' }).end();
  const etag = `"${createHash('sha1').update(bytes).digest('hex')}"`;
  const ifRange = request.headers['if-range'];
  const from =
    ifRange === undefined || ifRange === etag ? /^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] : undefined;
  const start = from === undefined ? 0 : Number(from);
  const body = bytes.subarray(start);
  const headers = { etag, 'content-length': body.length, 'accept-ranges': 'bytes' };
  if (from === undefined) response.writeHead(200, headers);
  else response.writeHead(206, { ...headers, 'content-range': `bytes ${start}-${bytes.length - 1}/${bytes.length}` });
  if (fault.cutAfterBytes === undefined) return void response.end(body);
  response.write(body.subarray(0, fault.cutAfterBytes));
  void (fault.cutWhen ?? Promise.resolve()).then(() => response.socket?.destroy());
}
