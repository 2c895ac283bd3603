/** The programs that `--peer NAME=PATH` may name, and what it names. */
import { closest } from '../../src/config/closest.ts';
import { PEERS } from '../harness.ts';
import { CROSS_PEERS } from './cross-tools.ts';

/** How to get each, in words. */
export const KNOWN_PEERS: Readonly<Record<string, string>> = {
  ...PEERS,
  ...Object.fromEntries(Object.entries(CROSS_PEERS).map(([name, { how }]) => [name, how])),
};

/** Paths by name. @throws Error, made for people, on what is no NAME=PATH, and on a name that no benchmark knows */
export function readPeers(texts: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    texts.map((text) => {
      const at = text.indexOf('=');
      if (at < 1 || at === text.length - 1)
        throw new Error(`--peer wants NAME=PATH, such as llama-server=PATH, not ${JSON.stringify(text)}`);
      const name = text.slice(0, at);
      if (!Object.hasOwn(KNOWN_PEERS, name)) throw new Error(unknown(name));
      return [name, text.slice(at + 1)];
    }),
  );
}

function unknown(name: string): string {
  const known = Object.keys(KNOWN_PEERS);
  const meant = closest(name, known);
  const guess = meant === null ? '' : ` Did you mean ${meant}?`;
  return `--peer: no benchmark knows a program ${JSON.stringify(name)}.${guess} Known are ${known.join(', ')}.`;
}
