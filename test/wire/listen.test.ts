/** Sockets: ports, closing, and clients that send too much, too slowly or nonsense. */
import { connect } from 'node:net';
import { describe, expect, test } from 'vitest';
import type { StreamEvent } from '../../src/runtime/api.ts';
import { listenGateway } from '../../src/gateway/listen.ts';
import { Wire, chatBody, open } from './harness.ts';
import { StubNode, finished, tokens } from './stub-node.ts';

describe('opening', () => {
  test('a port in use is named, with the flag to change it, and nothing stays open', async () => {
    const first = await open();
    const again = (port: number, adminPort: number) =>
      listenGateway({ node: new StubNode(), host: '127.0.0.1', port, adminHost: '127.0.0.1', adminPort });
    await expect(again(first.port, 0)).rejects.toMatchObject({
      code: 'address_in_use',
      message: expect.stringContaining('--port'),
    });
    await expect(again(0, first.adminPort)).rejects.toMatchObject({
      code: 'address_in_use',
      message: expect.stringContaining('--admin-port'),
    });
  });
  test('an address that is not ours', async () => {
    await expect(open(new StubNode(), { host: '192.0.2.1', gateway: { apiKeys: ['k'] } })).rejects.toMatchObject({
      code: 'config_invalid',
    });
  });
  test('beyond loopback only with keys, or when told', async () => {
    await expect(open(new StubNode(), { host: '0.0.0.0' })).rejects.toMatchObject({ code: 'config_invalid' });
    await expect(open(new StubNode(), { adminHost: '0.0.0.0' })).rejects.toThrow('admin');
    await open(new StubNode(), { host: '0.0.0.0', gateway: { apiKeys: ['k'] } });
    const told = await open(new StubNode(), { host: '0.0.0.0', allowUnauthenticated: true });
    expect(told.url).toBe(`http://127.0.0.1:${told.port}`);
  });
});

describe('closing', () => {
  test('ends idle connections at once and lets a stream finish', async () => {
    let tell: (event: StreamEvent) => void = () => undefined;
    const node = new StubNode((_, sink) => {
      tell = sink;
    });
    const listening = await open(node);
    const { port } = listening;
    const idle = new Wire(port);
    idle.socket.write('GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n');
    await idle.until('{"status":"ok"}');
    const busy = new Wire(port).post('/v1/chat/completions', chatBody({ stream: true }));
    await busy.until('\r\n\r\n');
    const closing = listening.close(60_000);
    await idle.closed();
    tell(tokens('late'));
    tell(finished('stop', 1));
    await busy.until('[DONE]');
    await closing;
    await busy.closed();
    expect(node.cancelled).toEqual([]);
  });
  test('cuts off at the deadline what doesn’t end', async () => {
    const node = new StubNode(() => undefined);
    const listening = await open(node);
    const { port } = listening;
    const busy = new Wire(port).post('/v1/chat/completions', chatBody({ stream: true }));
    await busy.until('\r\n\r\n');
    await listening.close(1);
    await busy.closed();
    await node.cancelledAtLeast(1);
  });
});

describe('a body of 100 MB', () => {
  const head = (length: string) =>
    `POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n${length}\r\n\r\n`;
  const piece = Buffer.alloc(1024 * 1024, 0x20);

  /** Writes as a client does that looks at the answer only afterwards. */
  async function send(wire: Wire, frame: (data: Buffer) => Buffer): Promise<void> {
    const reset = new Promise<never>((_, reject) => {
      wire.socket.once('close', () => reject(new Error('reset while sending')));
    });
    reset.catch(() => undefined);
    for (let megabytes = 0; megabytes < 100; megabytes += 1) {
      if (!wire.socket.write(frame(piece))) {
        const drained = new Promise<void>((resolve) => {
          wire.socket.once('drain', resolve);
        });
        await Promise.race([drained, reset]);
      }
    }
  }

  test('is refused by its length, and the sender sees why', async () => {
    const { port } = await open();
    const wire = new Wire(port);
    wire.socket.write(head(`content-length: ${100 * 1024 * 1024}`));
    await wire.until('body_too_large');
    expect(wire.text).toMatch(/^HTTP\/1\.1 413 /);
    await send(wire, (data) => data);
    // The connection is whole again.
    wire.socket.write('GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n');
    await wire.until('{"status":"ok"}');
  });
  test('is refused on the way when it hides its length', async () => {
    const { port } = await open();
    const wire = new Wire(port);
    wire.socket.write(head('transfer-encoding: chunked'));
    await send(wire, (data) =>
      Buffer.concat([Buffer.from(`${data.length.toString(16)}\r\n`), data, Buffer.from('\r\n')]),
    );
    await wire.until('body_too_large');
    expect(wire.text).toMatch(/^HTTP\/1\.1 413 /);
  });
  test('that stalls doesn’t hang: the connection ends', async () => {
    const { port } = await open(new StubNode(), { gateway: { limits: { lingerMillis: 5 } } });
    const wire = new Wire(port);
    wire.socket.write(head(`content-length: ${100 * 1024 * 1024}`));
    await wire.until('body_too_large');
    await wire.closed();
  });
});

describe('a client that is slow or speaks no HTTP', () => {
  const limits = { headersMillis: 30, requestMillis: 60 };
  test.each([
    ['sends nothing', ''],
    ['never ends its headers', 'POST /v1/completions HTTP/1.1\r\nhost: x\r\n'],
    [
      'never ends its body',
      'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{',
    ],
  ])('%s: it is cut off', async (_, text) => {
    const { port } = await open(new StubNode(), { gateway: { limits } });
    const wire = new Wire(port);
    wire.socket.write(text);
    await wire.closed();
    if (text !== '') expect(wire.text).toMatch(/^HTTP\/1\.1 408 [^]*"code":"invalid_request"/);
  });
  test.each([
    ['nonsense', 'HELLO\r\n\r\n', 400],
    ['headers of 64 KiB', `GET / HTTP/1.1\r\nhost: x\r\nx: ${'y'.repeat(65_536)}\r\n\r\n`, 431],
  ])('%s: a well-formed error', async (_, text, status) => {
    const { port } = await open();
    const wire = new Wire(port);
    wire.socket.write(text);
    await wire.closed();
    expect(wire.text).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    const body = JSON.parse(wire.text.slice(wire.text.indexOf('\r\n\r\n') + 4)) as { error: object };
    expect(Object.keys(body.error).toSorted()).toEqual(['code', 'message', 'param', 'type']);
  });
  test('a socket that is reset leaves the node up', async () => {
    const { port } = await open();
    await new Promise<void>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => socket.resetAndDestroy());
      socket.once('close', () => resolve());
    });
    const wire = new Wire(port).post('/v1/chat/completions', chatBody());
    await wire.until('Hello world');
  });
});
