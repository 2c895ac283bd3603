/** The small languages of `berth bench`'s options. Pure; each throws `invalid_request` naming the option. */
import { BerthError } from '../errors.ts';
import type { Range, Weighted } from './plan.ts';

const wrong = (option: string, expected: string, text: string): BerthError =>
  new BerthError('invalid_request', `${option}: expected ${expected}, received ${JSON.stringify(text)}`);

/** `64`, or `50-150`: both ends included. */
export function readRange(option: string, text: string, least = 1): Range {
  const match = /^(\d+)(?:-(\d+))?$/.exec(text.trim());
  const from = Number(match?.[1] ?? Number.NaN);
  const to = Number(match?.[2] ?? from);
  if (Number.isSafeInteger(from) && Number.isSafeInteger(to) && from >= least && to >= from)
    return { least: from, most: to };
  throw wrong(option, `a whole number from ${least} on, or a range such as 50-150`, text);
}

/** `smol,tiny=3`: names, and how often beside the others (else 1). A name may hold `=`: the last one counts. */
export function readWeights(option: string, text: string): Weighted[] {
  const weights = text.split(',').map((part) => {
    const [, name = '', weight = '1'] = /^(.+?)(?:=([\d.]+))?$/.exec(part.trim()) ?? [];
    if (name === '' || !(Number(weight) > 0)) throw wrong(option, 'names with weights above 0, such as a,b=3', text);
    return { name, weight: Number(weight) };
  });
  const twice = weights.find(({ name }, index) => weights.findIndex((other) => other.name === name) !== index);
  if (twice !== undefined) throw new BerthError('invalid_request', `${option}: ${twice.name} is named twice`);
  return weights;
}

/** A line for each tenant, `NAME=KEY`; `#` begins a comment. Names and keys, never in an error. */
export function readKeys(option: string, text: string): ReadonlyMap<string, string> {
  const keys = new Map<string, string>();
  for (const [index, whole] of text.split('\n').entries()) {
    const line = whole.trim();
    if (line === '' || line.startsWith('#')) continue;
    const at = line.indexOf('=');
    const [name, key] = [line.slice(0, at).trim(), line.slice(at + 1).trim()];
    if (at < 1 || name === '' || key === '')
      throw new BerthError('invalid_request', `${option}: line ${index + 1} is not NAME=KEY`);
    if (keys.has(name)) throw new BerthError('invalid_request', `${option}: line ${index + 1} names a tenant again`);
    keys.set(name, key);
  }
  if (keys.size === 0) throw new BerthError('invalid_request', `${option}: the file holds no line NAME=KEY`);
  return keys;
}

/** `poisson`, `gamma:2.5`, `trace:FILE`. */
export type ArrivalsText =
  | { readonly kind: 'poisson' }
  | { readonly kind: 'gamma'; readonly variation: number }
  | { readonly kind: 'trace'; readonly file: string };

export function readArrivals(option: string, text: string): ArrivalsText {
  if (text === 'poisson') return { kind: 'poisson' };
  const [, name = '', rest = ''] = /^(\w+):(.+)$/.exec(text) ?? [];
  const variation = Number(rest);
  if (name === 'gamma' && variation > 0 && variation <= 100) return { kind: 'gamma', variation };
  if (name === 'trace') return { kind: 'trace', file: rest };
  throw wrong(option, 'poisson, gamma:VARIATION or trace:FILE', text);
}

/** `0.25`, or `25%`. */
export function readShare(option: string, text: string): number {
  const [, amount = '', percent] = /^([\d.]+)(%?)$/.exec(text.trim()) ?? [];
  const share = Number(amount) / (percent === '%' ? 100 : 1);
  if (amount !== '' && share >= 0 && share <= 1) return share;
  throw wrong(option, 'a share from 0 to 1, or a percentage', text);
}

/** Not `above` itself. */
export function readNumber(option: string, text: string, above: number): number {
  const value = Number(text);
  if (text.trim() !== '' && Number.isFinite(value) && value > above) return value;
  throw wrong(option, `a number above ${above}`, text);
}

export function readWhole(option: string, text: string, least: number, most = 10_000_000): number {
  const value = Number(text);
  if (text.trim() !== '' && Number.isSafeInteger(value) && value >= least && value <= most) return value;
  throw wrong(option, `a whole number from ${least} to ${most}`, text);
}
