/**
 * The parent's end of Node's IPC channel, read by us: Node's own reader throws into the event loop when a child writes
 * something else than JSON to it, and a child that has lost its mind must not take the node along. On POSIX systems the channel is
 * a stream socket with one JSON text a line (Node's documentation of `child_process`, "advanced serialization": mode `json`), and
 * a child finds it by two environment variables. On Windows libuv frames it, so there Node's reader stays.
 */
import type { ChildProcess, StdioOptions } from 'node:child_process';
import { Duplex } from 'node:stream';

export interface Channel {
  /** False when the child can't be reached: it is gone, or it has not read for very long. */
  send(message: object): boolean;
  /** The child sees a disconnect. */
  close(): void;
}

const OWN = process.platform !== 'win32';
/** Most characters of one message, and of what may wait to be read by the child. */
const MAX_WAITING = 64 * 1024 * 1024;

export const CHANNEL_STDIO: Extract<StdioOptions, unknown[]>[number] = OWN ? 'pipe' : 'ipc';
export const CHANNEL_ENV: Readonly<Record<string, string>> = OWN
  ? { NODE_CHANNEL_FD: '3', NODE_CHANNEL_SERIALIZATION_MODE: 'json' }
  : {};

/** `hear` gets each message; `undefined` for what is none. */
export function openChannel(child: ChildProcess, hear: (message: unknown) => void): Channel {
  const stream = child.stdio[3];
  if (!OWN || !(stream instanceof Duplex)) return nodeChannel(child, hear);
  let held = '';
  stream.setEncoding('utf8');
  stream.on('data', (chunk: string) => {
    let from = 0;
    for (let end = chunk.indexOf('\n'); end >= 0; end = chunk.indexOf('\n', from)) {
      const line = held + chunk.slice(from, end);
      held = '';
      from = end + 1;
      hear(parse(line));
    }
    held += chunk.slice(from);
    if (held.length <= MAX_WAITING) return;
    held = '';
    hear(undefined);
  });
  // A child that went away is told by its exit.
  stream.on('error', () => {});
  return {
    send(message) {
      if (!stream.writable || stream.writableLength > MAX_WAITING) return false;
      stream.write(`${JSON.stringify(message)}\n`);
      return true;
    },
    close: () => stream.destroy(),
  };
}

function parse(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

function nodeChannel(child: ChildProcess, hear: (message: unknown) => void): Channel {
  child.on('message', hear);
  return {
    send(message) {
      if (!child.connected) return false;
      child.send(message, () => {});
      return true;
    },
    close() {
      if (child.connected) child.disconnect();
    },
  };
}
