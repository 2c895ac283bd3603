/** What a stream looks like on the wire, and what happens when its client leaves or doesn't read. */
import { describe, expect, test } from 'vitest';
import type { StreamEvent } from '../../src/runtime/api.ts';
import { Wire, chatBody, open } from './harness.ts';
import { StubNode, finished, tokens } from './stub-node.ts';

/** A node that says nothing until told. */
function quietNode() {
  const sinks: ((event: StreamEvent) => void)[] = [];
  let arrived: () => void = () => undefined;
  const submitted = new Promise<void>((resolve) => {
    arrived = resolve;
  });
  const node = new StubNode((_, sink) => {
    sinks.push(sink);
    arrived();
  });
  const tell = (event: StreamEvent): void => sinks[0]?.(event);
  return { node, submitted, tell };
}

describe('a waiting client', () => {
  test('gets its headers before anything is computed, and comments that tell where it stands', async () => {
    const { node, tell } = quietNode();
    const { port } = await open(node);
    const wire = new Wire(port).post('/v1/chat/completions', chatBody({ stream: true }), 'x-request-id: mine-1\r\n');
    await wire.until('\r\n\r\n');
    expect(wire.text).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
    expect(wire.text).toContain('content-type: text/event-stream; charset=utf-8');
    expect(wire.text).toContain('x-request-id: mine-1');
    tell({ type: 'queued', position: 3 });
    await wire.until(': queued 3\n\n');
    tell({ type: 'loading', model: node.last.model as never });
    await wire.until(': loading\n\n');
    tell(tokens('a'));
    await wire.until('"content":"a"');
    tell({ type: 'preempted' });
    tell({ type: 'resumed' });
    await wire.until(': preempted\n\n: resumed\n\n');
    tell(finished('length', 1));
    await wire.until('data: [DONE]\n\n');
    await wire.until('0\r\n\r\n');
    expect(node.cancelled).toEqual([]);
  });

  test('gets a comment when nothing happens', async () => {
    const { node } = quietNode();
    const { port } = await open(node, { gateway: { limits: { keepAliveMillis: 5 } } });
    const wire = new Wire(port).post('/v1/chat/completions', chatBody({ stream: true }));
    await wire.until(/(: keep-alive\n\n[^]*){3}/);
  });

  test('the node’s id of a request is its own, even when clients send the same one', async () => {
    const { node, submitted } = quietNode();
    const { port } = await open(node);
    new Wire(port).post('/v1/chat/completions', chatBody(), 'x-request-id: same\r\n');
    await submitted;
    expect(node.last.request.requestId).toMatch(/^req-[0-9a-f]{24}$/);
  });
});

test('events of one turn are one write', async () => {
  const { node, submitted, tell } = quietNode();
  const { port } = await open(node);
  const wire = new Wire(port).post('/v1/chat/completions', chatBody({ stream: true }));
  await submitted;
  await wire.until('\r\n\r\n');
  for (const word of ['a', 'b', 'c']) tell(tokens(word));
  await wire.until('"content":"c"');
  // One chunk of the transfer encoding: a length line, then all three.
  const body = wire.text.slice(wire.text.indexOf('\r\n\r\n') + 4);
  expect(body.match(/^[0-9a-f]+\r$/gm)).toHaveLength(1);
});

test('a failure in mid-stream is an event, then the end, without [DONE]', async () => {
  const { node, tell } = quietNode();
  const { port } = await open(node);
  const wire = new Wire(port).post('/v1/chat/completions', chatBody({ stream: true, n: 2 }));
  await wire.until('\r\n\r\n');
  tell(tokens('a'));
  tell({ type: 'failed', code: 'engine_died', message: 'The process ended.' });
  await wire.until('0\r\n\r\n');
  const last = /data: (\{"error".*\})\n\n/.exec(wire.text)?.[1] ?? '';
  expect(JSON.parse(last)).toEqual({
    error: {
      message: expect.stringMatching(/^The process ended\. .+/),
      type: 'server_error',
      param: null,
      code: 'engine_died',
    },
  });
  expect(wire.text).not.toContain('[DONE]');
  expect(node.cancelled).toHaveLength(2);
});

describe('a client that leaves frees its work', () => {
  test.each([
    ['before the first event, streaming', true, []],
    ['while queued', true, [{ type: 'queued', position: 9 }]],
    ['while loading', true, [{ type: 'loading', model: 'smol' }]],
    ['while computing', true, [tokens('a')]],
    ['while queued, not streaming', false, [{ type: 'queued', position: 9 }]],
    ['while computing, not streaming', false, [tokens('a')]],
  ])('%s', async (_, stream, events) => {
    const { node, submitted, tell } = quietNode();
    const { port } = await open(node);
    const wire = new Wire(port).post('/v1/chat/completions', chatBody({ stream }));
    await submitted;
    for (const event of events as StreamEvent[]) tell(event);
    wire.socket.destroy();
    await node.cancelledAtLeast(1);
    expect(node.cancelled).toEqual([node.last.request.requestId]);
    tell(tokens('nobody hears'));
    tell(finished('stop', 2));
  });

  test('also embeddings', async () => {
    const { node, submitted } = quietNode();
    const { port } = await open(node);
    const wire = new Wire(port).post('/v1/embeddings', { model: 'smol', input: 'a' });
    await submitted;
    wire.socket.end();
    await node.cancelledAtLeast(1);
  });
});

test('a client that doesn’t read is cut off at a bound', async () => {
  const { node, tell } = quietNode();
  const { port } = await open(node, { gateway: { limits: { unsentBytes: 64 * 1024 } } });
  const wire = new Wire(port).post('/v1/chat/completions', chatBody({ stream: true }));
  await wire.until('\r\n\r\n');
  wire.socket.pause();
  const gone = node.cancelledAtLeast(1);
  // Kernel buffers take some megabytes first; 64 MiB in all is far beyond them.
  for (let written = 0; written < 64 && node.cancelled.length === 0; written += 1) {
    tell(tokens('x'.repeat(1024 * 1024)));
    await new Promise((resolve) => setImmediate(resolve));
  }
  await gone;
});

test('no request outlives the last deadline', async () => {
  const { node } = quietNode();
  const { port } = await open(node, { gateway: { limits: { responseMillis: 5 } } });
  const wire = new Wire(port).post('/v1/chat/completions', chatBody());
  await wire.until('queue_timeout');
  expect(wire.text).toMatch(/^HTTP\/1\.1 503 /);
  expect(node.cancelled).toHaveLength(1);
});
