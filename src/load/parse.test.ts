import { expect, test } from 'vitest';
import { BerthError } from '../errors.ts';
import { readArrivals, readKeys, readNumber, readRange, readShare, readWeights, readWhole } from './parse.ts';

const refuses = (read: () => unknown): string => {
  try {
    read();
  } catch (error) {
    expect(error).toBeInstanceOf(BerthError);
    expect(error).toMatchObject({ code: 'invalid_request' });
    return (error as Error).message;
  }
  throw new Error('it was taken');
};

test('ranges', () => {
  expect(readRange('--turns', '3')).toEqual({ least: 3, most: 3 });
  expect(readRange('--turns', '2-5')).toEqual({ least: 2, most: 5 });
  for (const text of ['', '0', '5-2', 'many', '1.5', '-3'])
    expect(refuses(() => readRange('--turns', text))).toContain('--turns: expected');
});

test('weights', () => {
  expect(readWeights('--models', 'a, b=3,org/c:q4=0.5')).toEqual([
    { name: 'a', weight: 1 },
    { name: 'b', weight: 3 },
    { name: 'org/c:q4', weight: 0.5 },
  ]);
  expect(readWeights('--models', 'a=b')).toEqual([{ name: 'a=b', weight: 1 }]);
  expect(refuses(() => readWeights('--models', 'a,,b'))).toContain('--models: expected names');
  expect(refuses(() => readWeights('--models', 'a=0'))).toContain('above 0');
  expect(refuses(() => readWeights('--models', 'a,a=2'))).toContain('a is named twice');
});

test('keys, whose errors never show them', () => {
  expect([...readKeys('--keys', '# ours\nteam-a=sk-1\n\n team-b = sk-2=x \n')]).toEqual([
    ['team-a', 'sk-1'],
    ['team-b', 'sk-2=x'],
  ]);
  expect(refuses(() => readKeys('--keys', 'a=1\nsk-secret'))).toBe('--keys: line 2 is not NAME=KEY');
  expect(refuses(() => readKeys('--keys', 'a=1\na=2'))).toBe('--keys: line 2 names a tenant again');
  expect(refuses(() => readKeys('--keys', '# none\n'))).toContain('no line');
});

test('arrivals', () => {
  expect(readArrivals('--arrivals', 'poisson')).toEqual({ kind: 'poisson' });
  expect(readArrivals('--arrivals', 'gamma:2.5')).toEqual({ kind: 'gamma', variation: 2.5 });
  expect(readArrivals('--arrivals', 'trace:a/b:c.csv')).toEqual({ kind: 'trace', file: 'a/b:c.csv' });
  for (const text of ['gamma', 'gamma:0', 'gamma:x', 'trace:', 'often'])
    expect(refuses(() => readArrivals('--arrivals', text))).toContain('--arrivals: expected poisson');
});

test('shares and numbers', () => {
  expect([readShare('--cancel', '0.25'), readShare('--cancel', '25%'), readShare('--cancel', '0')]).toEqual([
    0.25, 0.25, 0,
  ]);
  for (const text of ['2', '-1', '101%', '']) expect(refuses(() => readShare('--cancel', text))).toContain('--cancel');
  expect(readNumber('--rate', '0.5', 0)).toBe(0.5);
  expect(refuses(() => readNumber('--rate', '0', 0))).toBe('--rate: expected a number above 0, received "0"');
  expect(readWhole('--seed', '7', 0)).toBe(7);
  expect(refuses(() => readWhole('--requests', '1.5', 1))).toContain('a whole number from 1 to');
});
