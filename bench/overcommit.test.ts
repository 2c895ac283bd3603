import { expect, test } from 'vitest';
import { partingGap } from './overcommit.ts';

const token = (text: string, logprob: number, top: Record<string, number> = {}) => ({ text, logprob, top });
const alone = [
  token(' 100', -0.1),
  token('°C', -0.2),
  token(',', -0.7, { ',': -0.7, '.': -0.9 }),
  token(' which', -1, { ' which': -1, ' so': -1.2, ' s': -3 }),
];

test('a text that is the same has no gap, one that parts has that of its first other token', () => {
  expect(partingGap(' 100°C, which', alone)).toBe(0);
  expect(partingGap(' 100°C, so it will', alone)).toBeCloseTo(0.2);
  expect(partingGap(' 100°C. The', alone)).toBeCloseTo(0.2);
});

test('other words, and a text of another length, are no near-tie', () => {
  expect(partingGap(' Paris', alone)).toBe(Infinity);
  expect(partingGap(' 100°C, which is', alone)).toBe(Infinity);
  expect(partingGap('', alone)).toBe(Infinity);
});
