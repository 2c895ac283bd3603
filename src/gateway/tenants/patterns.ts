/** Names of models with `*` for any part: `smol*`, `org/*`, `*`. Upper and lower case are one, as in requests. */
import type { NamedModel } from './types.ts';

export type Matcher = (model: NamedModel) => boolean;

/** null: everything matches. A pattern may name a model's id or one of its aliases. */
export function matcherOf(patterns: readonly string[] | null): Matcher | null {
  if (patterns === null) return null;
  const exact = new Set<string>();
  const wild: (readonly string[])[] = [];
  for (const pattern of patterns) {
    const lower = pattern.toLowerCase();
    if (lower.includes('*')) wild.push(lower.split('*'));
    else exact.add(lower);
  }
  const named = (name: string): boolean => {
    const lower = name.toLowerCase();
    return exact.has(lower) || wild.some((parts) => fits(lower, parts));
  };
  return ({ id, aliases }) => named(id) || aliases.some(named);
}

/** Do the parts occur in this order, the first at the beginning and the last at the end? Linear, whatever the pattern. */
function fits(name: string, parts: readonly string[]): boolean {
  const first = parts[0] ?? '';
  const last = parts.at(-1) ?? '';
  if (!name.startsWith(first)) return false;
  let at = first.length;
  for (const part of parts.slice(1, -1)) {
    const found = name.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return name.length - at >= last.length && name.endsWith(last);
}
