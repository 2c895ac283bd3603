/**
 * What the node and its gateway add to an engine: the time from the moment at which a (fake) engine gives a token away until a
 * client in another process has read it from its socket, and the CPU that the node spends on it. 64-chunk streams, 32 in flight.
 */
import type { BenchArgs, BenchResult, BenchRow } from './harness.ts';
import { median, percentile, result } from './harness.ts';
import { inFlight } from './lib/client.ts';
import { stampedStream } from './lib/stamped-client.ts';
import { startStamped } from './lib/stamped-process.ts';

const CHUNKS = 64;
const ROUNDS = 5;
const STREAMS_A_ROUND = 128;

export const about = 'latency and CPU that the node adds to an engine: 64-chunk streams, 32 in flight';

export async function run(args: BenchArgs): Promise<BenchResult> {
  const rounds = args.quick ? 1 : ROUNDS;
  const streams = args.quick ? 32 : STREAMS_A_ROUND;
  const node = await startStamped();
  const { url } = node;
  try {
    const rows: BenchRow[] = [];
    for (const most of [1, 32]) {
      await stampedStream(url, CHUNKS);
      const seen: { p50: number; p99: number; cpu: number }[] = [];
      for (let round = 0; round < rounds; round++) {
        const before = await node.cpuMicros();
        const count = most === 1 ? Math.min(streams, 8) : streams;
        const delays = (
          await inFlight(
            most,
            Array.from({ length: count }, () => () => stampedStream(url, CHUNKS)),
          )
        ).flat();
        const used = (await node.cpuMicros()) - before;
        seen.push({ p50: percentile(delays, 50), p99: percentile(delays, 99), cpu: used / delays.length });
      }
      const what = { case: `${most} in flight` };
      const p50 = median(seen.map((round) => round.p50));
      rows.push({ ...what, metric: 'added latency p50', unit: 'ms', berth: p50, bar: '< 1', pass: p50 < 1 });
      rows.push({ ...what, metric: 'added latency p99', unit: 'ms', berth: median(seen.map((round) => round.p99)) });
      rows.push({ ...what, metric: 'node CPU per chunk', unit: 'µs', berth: median(seen.map((round) => round.cpu)) });
    }
    return result('gateway', rows, { rounds, streams });
  } finally {
    node.close();
  }
}
