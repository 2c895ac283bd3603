/** The device's time in the ledger against the wall's. */
import type { UsageGroup, UsageSum } from '../../src/gateway/admin-types.ts';
import type { BenchRow } from '../harness.ts';
import type { Server } from './servers.ts';
import { usageOf } from './tenants.ts';

const BALANCE_PERCENT = 1;
/** The books are closed somewhere between the question and the answer: asked again until that is soon. */
const READ_MILLIS = 20;
const MOST_READS = 20;

/** `at`: when they were closed, by the bench's clock. */
export async function readBooks(
  server: Server,
  by: readonly UsageGroup[],
): Promise<{ readonly sums: readonly UsageSum[]; readonly at: number }> {
  let sums: readonly UsageSum[] = [];
  let [from, at] = [0, Infinity];
  for (let count = 0; count < MOST_READS && at - from > READ_MILLIS; count++) {
    from = performance.now();
    sums = await usageOf(server, by);
    at = performance.now();
  }
  return { sums, at: (from + at) / 2 };
}

/** Both in lane-seconds. */
export function balanceRow(name: string, booked: number, wall: number): BenchRow {
  const percent = (100 * booked) / wall;
  return {
    case: name,
    metric: 'device time in the books, of wall time × lanes',
    unit: '%',
    berth: percent,
    bar: `100 ± ${BALANCE_PERCENT}`,
    pass: Math.abs(percent - 100) <= BALANCE_PERCENT,
  };
}
