import { expect, it } from 'vitest';
import { sumOf } from './node-metrics.ts';

it('adds a metric over its labels and leaves alone those whose names begin alike', () => {
  const text = `# HELP a_total of something
# TYPE a_total counter
a_total{model="x y"} 1.5
a_total{model="z"} 2
a_total_more{model="z"} 100
b 7
`;
  expect(sumOf(text, 'a_total')).toBe(3.5);
  expect(sumOf(text, 'b')).toBe(7);
  expect(sumOf(text, 'c')).toBe(0);
});
