import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { heldLength, TextStream } from './text.ts';

/** Cuts bytes at the given places and feeds the parts; returns all text and whether a stop string was met. */
function feed(
  text: string,
  cuts: readonly number[],
  stops: readonly string[],
): { text: string; stopped: boolean; sent: string[] } {
  const stream = new TextStream(stops);
  const bytes = Buffer.from(text, 'utf8');
  const places = [0, ...cuts.map((cut) => cut % (bytes.length + 1)).toSorted((a, b) => a - b), bytes.length];
  const sent = places.slice(1).map((place, index) => stream.push(bytes.subarray(places[index], place)).text);
  const end = stream.end();
  return { text: sent.join('') + end.text, stopped: end.stopped, sent };
}

describe('TextStream', () => {
  it('gives the same text wherever token borders fall, and never half a character', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'grapheme', maxLength: 20 }),
        fc.array(fc.nat(200), { maxLength: 12 }),
        (text, cuts) => {
          const fed = feed(text, cuts, []);
          return (
            fed.text === text &&
            !fed.stopped &&
            fed.sent.every((part) => !part.includes('\uFFFD') || text.includes('\uFFFD'))
          );
        },
      ),
    );
  });

  it('cuts at the first stop string wherever token borders fall', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'é'), maxLength: 24 });
    const stop = fc.string({ unit: fc.constantFrom('a', 'b', 'é'), minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(
        letters,
        fc.array(stop, { minLength: 1, maxLength: 3 }),
        fc.array(fc.nat(60), { maxLength: 20 }),
        (text, stops, cuts) => {
          const fed = feed(text, cuts, stops);
          // Token by token: what decides is which stop string is complete first, and it is cut at its beginning.
          const found = stops.map((one) => text.indexOf(one)).filter((index) => index >= 0);
          return found.length === 0
            ? fed.text === text && !fed.stopped
            : fed.stopped && stops.every((one) => !fed.text.includes(one)) && text.startsWith(fed.text);
        },
      ),
    );
  });

  it('holds back only what may become a stop string', () => {
    expect(heldLength('Hello Us', ['User:'])).toBe(2);
    expect(heldLength('Hello Uz', ['User:'])).toBe(0);
    const stream = new TextStream(['User:']);
    expect(stream.push(Buffer.from('Hi\nUs')).text).toBe('Hi\n');
    expect(stream.push(Buffer.from('ing')).text).toBe('Using');
    expect(stream.push(Buffer.from('User'))).toEqual({ text: '', stopped: false });
    expect(stream.push(Buffer.from(': x'))).toEqual({ text: '', stopped: true });
    expect(stream.push(Buffer.from('more'))).toEqual({ text: '', stopped: true });
  });

  it('sends what was held when the output ends without the stop string', () => {
    const stream = new TextStream(['END']);
    expect(stream.push(Buffer.from('the EN')).text).toBe('the ');
    expect(stream.end()).toEqual({ text: 'EN', stopped: false });
  });
});
