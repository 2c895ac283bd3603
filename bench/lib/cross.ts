/** From what each program reported of the same load, round by round, to rows. Pure. */
import type { BenchRow } from '../harness.ts';
import { median } from '../harness.ts';
import type { CrossSeen } from './cross-tools.ts';

/** What each program saw at one level, a round after the other; ours is `berth`. */
export type CrossRounds = ReadonlyMap<string, readonly CrossSeen[]>;

const BAR = 0.05;

const MEASURES = [
  { metric: 'TTFT mean', unit: 'ms', of: ({ ttftMillis }: CrossSeen) => ttftMillis },
  { metric: 'output', unit: 'tokens/s', of: ({ tokensPerSecond }: CrossSeen) => tokensPerSecond },
] as const;
/** What has to be the same for the rest to mean anything. */
const COUNTS = [
  { metric: 'prompt tokens, as the server counted', of: ({ promptTokens }: CrossSeen) => promptTokens },
  { metric: 'output tokens, as the server counted', of: ({ outputTokens }: CrossSeen) => outputTokens },
] as const;

const share = (bar: number): string => `within ${100 * bar} %`;

export function crossRows(level: string, rounds: CrossRounds): BenchRow[] {
  const own = rounds.get('berth') ?? [];
  const peers = [...rounds].filter(([name]) => name !== 'berth');
  const compare = (
    { metric, unit, of }: { readonly metric: string; readonly unit: string; readonly of: (seen: CrossSeen) => number },
    bar: number,
  ): BenchRow[] => {
    const berth = median(own.map(of));
    if (peers.length === 0) return [{ case: level, metric, unit, berth }];
    return peers.map(([name, seen]) => {
      const peer = median(seen.map(of));
      const ratio = berth / peer;
      const verdict = { bar: bar === 0 ? 'equal' : share(bar), pass: Math.abs(ratio - 1) <= bar };
      return { case: level, metric: `${metric}, peer ${name}`, unit, berth, peer, ratio, ...verdict };
    });
  };
  return [
    ...MEASURES.flatMap((measure) => compare(measure, BAR)),
    ...COUNTS.flatMap((count) => compare({ ...count, unit: '' }, 0)),
  ];
}
