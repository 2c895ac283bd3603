/** Opens the two listeners on free loopback ports around a stub node, and closes them after each test. */
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { onTestFinished } from 'vitest';
import type { ListenOptions, Listening } from '../../src/gateway/listen.ts';
import { listenGateway } from '../../src/gateway/listen.ts';
import type { NodeApi } from '../../src/runtime/api.ts';
import { StubNode } from './stub-node.ts';

const LOOPBACK = '127.0.0.1';

export async function open(node: NodeApi = new StubNode(), options: Partial<ListenOptions> = {}): Promise<Listening> {
  const listening = await listenGateway({
    node,
    host: LOOPBACK,
    port: 0,
    adminHost: LOOPBACK,
    adminPort: 0,
    ...options,
  });
  onTestFinished(() => listening.close(0));
  return listening;
}

/** A bare socket that remembers what it read. */
export class Wire {
  readonly socket: Socket;
  text = '';
  ended = false;
  #wake: (() => void)[] = [];

  constructor(port: number) {
    this.socket = connect(port, LOOPBACK);
    this.socket.on('data', (data: Buffer) => {
      this.text += data.toString('latin1');
      this.#wakeAll();
    });
    this.socket.on('error', () => undefined);
    this.socket.on('close', () => {
      this.ended = true;
      this.#wakeAll();
    });
    onTestFinished(() => {
      this.socket.destroy();
    });
  }

  #wakeAll(): void {
    const waiting = this.#wake;
    this.#wake = [];
    for (const wake of waiting) wake();
  }

  /** Resolves when `part` was read; throws when the socket closes without it. */
  async until(part: string | RegExp): Promise<void> {
    const seen = () => (typeof part === 'string' ? this.text.includes(part) : part.test(this.text));
    while (!seen()) {
      if (this.ended) throw new Error(`closed before ${String(part)}: ${this.text.slice(0, 500)}`);
      await new Promise<void>((resolve) => {
        this.#wake.push(resolve);
      });
    }
  }

  async closed(): Promise<void> {
    while (!this.ended) {
      await new Promise<void>((resolve) => {
        this.#wake.push(resolve);
      });
    }
  }

  post(path: string, body: unknown, headers = ''): this {
    const text = typeof body === 'string' ? body : JSON.stringify(body);
    const head = `POST ${path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n${headers}`;
    this.socket.write(`${head}content-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
    return this;
  }
}

export const chatBody = (extra: object = {}) => ({
  model: 'smol',
  messages: [{ role: 'user', content: 'what a SECRET prompt' }],
  ...extra,
});

export async function gather<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const list: Item[] = [];
  for await (const item of items) list.push(item);
  return list;
}
