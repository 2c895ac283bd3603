import { stripVTControlCharacters } from 'node:util';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  bar,
  humanAgo,
  humanBytes,
  humanCount,
  humanDuration,
  humanSpan,
  shortDigest,
  table,
  truncate,
} from './output.ts';

test('a table is as wide as its cells, numbers to the right, no spaces at line ends', () => {
  const shown = table({
    headers: ['NAME', 'RUN', 'STATE'],
    rows: [
      ['smollm2', '2', 'loaded'],
      ['m', '10', ''],
    ],
    right: ['RUN'],
  });
  expect(shown).toBe('NAME      RUN   STATE\nsmollm2     2   loaded\nm          10\n');
});

test('emphasis doesn’t shift columns', () => {
  const plain = table({ headers: ['A', 'B'], rows: [['1', '2']] });
  const styled = table({ headers: ['A', 'B'], rows: [['1', '2']], styled: true });
  expect(styled).toContain('\u001b[1m');
  expect(stripVTControlCharacters(styled)).toBe(plain);
});

test.each([
  [0, '0 B'],
  [1023, '1023 B'],
  [1024, '1 KiB'],
  [98_362_432, '93.8 MiB'],
  [253_113_024, '241 MiB'],
  [1024 ** 3 - 1, '1 GiB'],
  [6 * 2 ** 30, '6 GiB'],
])('%d bytes are %s', (bytes, shown) => expect(humanBytes(bytes)).toBe(shown));

test.each([
  [134_515_008, '135M'],
  [7_240_000_000, '7.2B'],
  [999_999, '1M'],
  [12, '12'],
])('%d is %s', (count, shown) => expect(humanCount(count)).toBe(shown));

test.each([
  [240e6, '4 minutes'],
  [60e6, '1 minute'],
  [3600e6, '1 hour'],
  [1e6, '1 second'],
  [400_000, 'less than a second'],
  [3 * 86_400e6, '3 days'],
])('%d µs are %s', (micros, shown) => expect(humanSpan(micros)).toBe(shown));

test.each([
  [-1, 'for ever'],
  [0, '0 µs'],
  [850, '850 µs'],
  [12_500, '12.5 ms'],
  [3_200_000, '3.2 s'],
  [310e6, '5 m 10 s'],
  [7_500e6, '2 h 5 m'],
  [300e6, '5 m'],
])('%d µs are exactly %s', (micros, shown) => expect(humanDuration(micros)).toBe(shown));

test('a moment ago is just now', () => {
  expect(humanAgo(300)).toBe('just now');
  expect(humanAgo(120e6)).toBe('2 minutes ago');
});

test('a cut name keeps its beginning and end, and its bound', () => {
  expect(truncate('short', 10)).toBe('short');
  expect(truncate('meta-llama-3.1-8b-instruct-q4_k_m', 16)).toBe('meta-llama…4_k_m');
  fc.assert(
    fc.property(fc.string(), fc.integer({ min: 4, max: 40 }), (text, most) => truncate(text, most).length <= most),
  );
});

test('a digest is shown as Ollama does', () => {
  expect(shortDigest('sha256:b179c9523d0e6a0f98a3')).toBe('b179c9523d0e');
  expect(shortDigest('b179c9523d0e6a0f98a3')).toBe('b179c9523d0e');
  expect(shortDigest(null)).toBe('-');
});

test('a bar never leaves its brackets', () => {
  expect(bar(0.5, 10)).toBe('[#####-----]');
  fc.assert(fc.property(fc.double({ noNaN: true }), (fraction) => bar(fraction, 8).length === 10));
});
