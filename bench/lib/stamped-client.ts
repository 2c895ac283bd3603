/** Reads a stream of the stamped node and says how long each chunk was on its way. */
import { Agent, request } from 'node:http';

const agent = new Agent({ keepAlive: true, maxSockets: 1024 });

/** Milliseconds from the engine's hand to ours, for each chunk. */
export function stampedStream(url: string, chunks: number): Promise<number[]> {
  const body = JSON.stringify({ model: 'stamped', prompt: 'x', max_tokens: chunks, stream: true, ignore_eos: true });
  return new Promise((resolve, reject) => {
    const delays: number[] = [];
    const outgoing = request(
      new URL('/v1/completions', url),
      {
        method: 'POST',
        agent,
        headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) },
      },
      (incoming) => {
        incoming.setEncoding('utf8');
        incoming.on('data', (data: string) => {
          const now = process.hrtime.bigint();
          // A look for the stamp is enough, and costs the client less than parsing: it shares the machine with the node.
          for (const [, stamp] of data.matchAll(/"text":"(\d+) "/g))
            delays.push(Number(now - BigInt(stamp as string)) / 1e6);
        });
        incoming.on('end', () => {
          if (delays.length === chunks) resolve(delays);
          else reject(new Error(`${delays.length} of ${chunks} chunks came`));
        });
      },
    );
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}
