import { expect, it } from 'vitest';
import { crossRows } from './cross.ts';
import type { CrossSeen } from './cross-tools.ts';

const seen = (rest: Partial<CrossSeen>): CrossSeen => ({
  ttftMillis: 100,
  tokensPerSecond: 50,
  promptTokens: 1_500,
  outputTokens: 640,
  ...rest,
});

it('compares medians of the rounds with each program, and misses a bar on either side', () => {
  const rounds = new Map([
    ['berth', [seen({}), seen({ ttftMillis: 900 }), seen({ ttftMillis: 90 })]],
    ['slow', [seen({ ttftMillis: 106, tokensPerSecond: 48 })]],
    ['quick', [seen({ ttftMillis: 94, tokensPerSecond: 52 })]],
  ]);
  const rows = crossRows('1 in flight', rounds);
  expect(rows.map(({ metric, berth, peer, pass }) => [metric, berth, peer, pass]).slice(0, 4)).toEqual([
    ['TTFT mean, peer slow', 100, 106, false],
    ['TTFT mean, peer quick', 100, 94, false],
    ['output, peer slow', 50, 48, true],
    ['output, peer quick', 50, 52, true],
  ]);
});

it('says so where the server counted other tokens for one of them', () => {
  const rounds = new Map([
    ['berth', [seen({})]],
    ['other', [seen({ promptTokens: 1_501 })]],
  ]);
  const missed = crossRows('1 in flight', rounds).filter(({ pass }) => pass === false);
  expect(missed.map(({ metric, bar }) => [metric, bar])).toEqual([
    ['prompt tokens, as the server counted, peer other', 'equal'],
  ]);
});

it('shows ours alone where no other program is there', () => {
  const rows = crossRows('1 in flight', new Map([['berth', [seen({})]]]));
  expect(rows[0]).toEqual({ case: '1 in flight', metric: 'TTFT mean', unit: 'ms', berth: 100 });
  expect(rows).toHaveLength(4);
});
