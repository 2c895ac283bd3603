import { describe, expect, it } from 'vitest';
import type { StreamToken } from './client.ts';
import { gapDifferences, partingOf } from './strikes.ts';

const token = (text: string, logprob = -0.1, top: StreamToken['top'] = { [text]: logprob }): StreamToken => ({
  text,
  logprob,
  top,
});

describe('two streams', () => {
  it('that say the same part nowhere', () =>
    expect(partingOf([token('a'), token('b')], [token('a'), token('b')])).toBeNull());

  it('part at a near-tie by little, whichever side was surer', () => {
    const one = [token('a'), token('b', -0.7, { b: -0.7, c: -0.72 })];
    const other = [token('a'), token('c', -0.7, { b: -0.75, c: -0.7 })];
    const parting = partingOf(one, other);
    expect(parting?.position).toBe(1);
    expect(parting?.gap).toBeCloseTo(0.05, 9);
  });

  it('with a token lost, or one twice, part by far more', () => {
    const whole = ['a', 'b', 'c'].map((text) => token(text));
    expect(partingOf(whole, whole.slice(0, 2))).toEqual({ position: 2, gap: Infinity });
    expect(partingOf(whole, [token('a'), token('c')])?.gap).toBe(Infinity);
    expect(partingOf(whole, [token('a'), token('a'), token('b')])?.gap).toBe(Infinity);
  });

  it('tell how far their sums are apart, up to where they part', () => {
    const one = [token('a', -0.1, { a: -0.1, b: -2 }), token('x')];
    const other = [token('a', -0.1, { a: -0.1, b: -2.25 }), token('y')];
    expect(gapDifferences(one, other)).toEqual([0.25]);
  });
});
