import { expect, test } from 'vitest';
import { keepAliveMicros } from './duration.ts';

const YEARS = 100 * 365 * 24 * 3_600_000_000;

test.each([
  ['5m', 300_000_000],
  ['1h30m', 5_400_000_000],
  ['300ms', 300_000],
  ['1.5s', 1_500_000],
  ['2µs', 2],
  ['0', 0],
  [0, 0],
  ['90', 90_000_000],
  [0.5, 500_000],
  [-1, -1],
  ['-1', -1],
  ['-5m', -1],
  ['-0s', 0],
  ['999999999h', YEARS],
])('keep_alive %j is %d µs', (text, micros) => {
  expect(keepAliveMicros(text)).toBe(micros);
});

test.each(['', 'soon', '5 m', '5x', 'm', '1h-30m', '--1', Number.NaN, Number.POSITIVE_INFINITY])(
  'keep_alive %j is no duration',
  (text) => {
    expect(keepAliveMicros(text)).toBeNull();
  },
);
