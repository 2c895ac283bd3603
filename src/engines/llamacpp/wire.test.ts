import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { fromWire, isFromRunner } from './wire.ts';

const usage = { promptTokens: 1, cachedTokens: 0, outputTokens: 0, prefillMicros: 0, decodeMicros: 0 };

describe('what a runner sends', () => {
  it('is believed when it has the form', () => {
    expect(isFromRunner({ type: 'events', items: [['r', { type: 'tokens', text: 'a', tokenIds: [1] }]] })).toBe(true);
    expect(isFromRunner({ type: 'loadFailed', code: 'model_file_invalid', message: 'no' })).toBe(true);
  });

  it('is not believed otherwise', () => {
    expect(isFromRunner({ type: 'events', items: [['r', { type: 'tokens', text: 'a', tokenIds: ['x'] }]] })).toBe(
      false,
    );
    expect(isFromRunner({ type: 'loadFailed', code: 'no such code', message: 'no' })).toBe(false);
    expect(isFromRunner({ type: 'grew', growthBytes: -1 })).toBe(false);
    expect(isFromRunner({ type: 'loaded', from: 'cold', micros: 1, mappedWeightBytes: 1 })).toBe(false);
    expect(isFromRunner({ type: 'toString' })).toBe(false);
  });

  it('never makes the check itself fail', () => {
    const type = fc.constantFrom('events', 'sliceEnded', 'loaded', 'fatal', 'tokens', 'x');
    const event = fc.record({ type, report: fc.anything(), items: fc.array(fc.tuple(fc.string(), fc.object())) });
    fc.assert(fc.property(fc.oneof(fc.anything(), event), (value) => typeof isFromRunner(value) === 'boolean'));
  });

  it('has vectors as little-endian float32', () => {
    const bytes = Buffer.alloc(12);
    [0.5, -2, 1e-3].forEach((value, i) => bytes.writeFloatLE(value, 4 * i));
    const event = fromWire({ type: 'embedded', vectorsBase64: [bytes.toString('base64')], usage });
    expect(event).toEqual({ type: 'embedded', vectors: [Float32Array.of(0.5, -2, 1e-3)], usage });
  });
});
