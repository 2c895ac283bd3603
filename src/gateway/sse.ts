/**
 * Server-sent events on a raw response. What several events of one turn of the event loop have to say is written to the socket
 * once, at the turn's end. A client that doesn't read is cut off at a bound; a silent stream gets a comment.
 * Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
 */
import type { OutgoingHttpHeaders, ServerResponse } from 'node:http';

export interface SseOptions {
  readonly headers: OutgoingHttpHeaders;
  /** Milliseconds of silence before a `: keep-alive`. */
  readonly keepAliveMillis: number;
  /** What may lie unsent before the client is cut off. */
  readonly unsentBytes: number;
}

const dirty = new Set<SseStream>();
let flushing = false;

/** One immediate for all streams of the process: they share the turn. */
function flushSoon(stream: SseStream): void {
  dirty.add(stream);
  if (flushing) return;
  flushing = true;
  setImmediate(() => {
    flushing = false;
    const streams = [...dirty];
    dirty.clear();
    for (const each of streams) each.flush();
  });
}

export class SseStream {
  readonly #response: ServerResponse;
  readonly #unsentBytes: number;
  readonly #keepAlive: NodeJS.Timeout;
  #text = '';
  #ending = false;
  #closed = false;

  /** Sends the headers at once. Whoever makes one listens to the response's `close` for a client that left. */
  constructor(response: ServerResponse, options: SseOptions) {
    this.#response = response;
    this.#unsentBytes = options.unsentBytes;
    this.#keepAlive = setTimeout(() => {
      this.comment('keep-alive');
      this.#keepAlive.refresh();
    }, options.keepAliveMillis);
    response.once('close', () => this.#close());
    response.writeHead(200, {
      ...options.headers,
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no',
    });
    response.flushHeaders();
  }

  /** `json` is JSON text, which has no line breaks. */
  data(json: string): void {
    this.#text += `data: ${json}\n\n`;
    flushSoon(this);
  }

  /** Fixed words and numbers only: a line break would end the comment. */
  comment(words: string): void {
    this.#text += `: ${words}\n\n`;
    flushSoon(this);
  }

  end(): void {
    this.#ending = true;
    flushSoon(this);
  }

  flush(): void {
    if (this.#closed) return;
    const text = this.#text;
    this.#text = '';
    if (this.#ending) {
      this.#close();
      this.#response.end(text);
      return;
    }
    if (text === '') return;
    this.#response.write(text);
    this.#keepAlive.refresh();
    if (this.#response.writableLength > this.#unsentBytes) this.#response.destroy();
  }

  #close(): void {
    this.#closed = true;
    clearTimeout(this.#keepAlive);
    this.#text = '';
  }
}
