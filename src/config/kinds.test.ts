import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseBytes, parseDuration, showBytes, showDuration, texts, whole } from './kinds.ts';

test.each([
  ['6GiB', 6 * 2 ** 30],
  ['512 MiB', 512 * 2 ** 20],
  ['1.5G', 1.5 * 2 ** 30],
  ['8GB', 8e9],
  ['1000', 1000],
  [1000, 1000],
])('%s is a size', (written, bytes) => expect(parseBytes(written)).toBe(bytes));

test.each(['six', '6 gigs', '-1GiB', '', '1e9', -5, 1.5, null, [], '9999999TiB'])('%j is no size', (written) =>
  expect(parseBytes(written)).toBeUndefined(),
);

test.each([
  ['5m', 300e6],
  ['300s', 300e6],
  [300, 300e6],
  ['300', 300e6],
  ['1h30m', 5400e6],
  ['250ms', 250e3],
  ['0', 0],
  ['-1', -1],
  [-1, -1],
  ['-5m', -1],
  ['forever', -1],
])('%s is a duration', (written, micros) => expect(parseDuration(written)).toBe(micros));

test.each(['5 minutes', 'm', '5m3', '', '--5m', Number.NaN, null, {}])('%j is no duration', (written) =>
  expect(parseDuration(written)).toBeUndefined(),
);

test('what is shown is read back as the same', () => {
  fc.assert(
    fc.property(fc.nat({ max: 2 ** 45 }), (n) => {
      expect(parseBytes(showBytes(n))).toBe(n);
      expect(parseDuration(showDuration(n))).toBe(n);
    }),
  );
});

test('text holds numbers and lists only where there is nothing but text', () => {
  expect(whole(1, 9).read('4', 'text')).toBe(4);
  expect(whole(1, 9).read('4', 'file')).toBeUndefined();
  expect(texts('names').read('a, b', 'text')).toEqual(['a', 'b']);
  expect(texts('names').read('a, b', 'file')).toEqual(['a, b']);
});
