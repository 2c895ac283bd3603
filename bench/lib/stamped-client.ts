/** Reads a stream of the stamped node and says how long each chunk was on its way. */
import { connect } from 'node:net';

/**
 * Milliseconds from the engine's hand to ours, for each chunk. Speaks HTTP on a bare socket and looks only for the stamps: the
 * client shares the machine with the node, and what it costs must not be counted as the node's.
 */
export function stampedStream(url: string, chunks: number, key?: string): Promise<number[]> {
  const authorization = key === undefined ? '' : `authorization: Bearer ${key}\r\n`;
  const { hostname, port, host } = new URL(url);
  const body = JSON.stringify({ model: 'stamped', prompt: 'x', max_tokens: chunks, stream: true, ignore_eos: true });
  return new Promise((resolve, reject) => {
    const delays: number[] = [];
    const socket = connect(Number(port), hostname);
    socket.setNoDelay(true);
    socket.on('data', (data) => {
      const now = process.hrtime.bigint();
      for (const [, stamp] of data.toString('latin1').matchAll(/"text":"(\d+) "/g)) {
        delays.push(Number(now - BigInt(stamp as string)) / 1e6);
      }
    });
    socket.on('end', () => {
      if (delays.length === chunks) resolve(delays);
      else reject(new Error(`${delays.length} of ${chunks} chunks came`));
    });
    socket.on('error', reject);
    socket.write(
      `POST /v1/completions HTTP/1.1\r\nhost: ${host}\r\n${authorization}connection: close\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    );
  });
}
