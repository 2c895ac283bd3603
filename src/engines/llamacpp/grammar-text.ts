/** Pieces of GBNF as text: literals, repetitions, ranges of integers, strings that avoid some values, simple patterns. Pure. */
import { refuse } from './schema.ts';

/** Characters of a JSON string that need no escape, as the inside of a negated class. */
const NOT_PLAIN = '"\\\\\\x7F\\x00-\\x1F';
/** llama.cpp refuses larger repetitions. */
const REPETITION_LIMIT = 1_999;
/** Digits of integers with one bound only: all of them are exact in a double. */
const DIGITS_LIMIT = 15;

const escapes: Readonly<Record<string, string>> = { '"': '\\"', '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t' };

/** A GBNF literal that stands for `text`. */
export function literal(text: string): string {
  return `"${text.replaceAll(/["\\\n\r\t]/g, (character) => escapes[character] as string)}"`;
}

/** One character as it must be written inside a class. */
function inClass(character: string): string {
  if (']\\^-'.includes(character)) return `\\x${(character.codePointAt(0) as number).toString(16).padStart(2, '0')}`;
  return escapes[character] ?? character;
}

/** `item` at least `least` and at most `most` (Infinity: unbounded) times. */
export function repeat(item: string, least: number, most: number): string {
  if (most === 0) return '';
  if (most === Infinity) return least === 0 ? `${item}*` : `${item}{${least},}`;
  return `${item}{${least},${most}}`;
}

const nines = (digits: number): string => '9'.repeat(digits);
const zeros = (digits: number): string => '0'.repeat(digits);
const someDigits = (count: number): string => (count === 0 ? '' : count === 1 ? '[0-9]' : `[0-9]{${count}}`);
const digitRange = (from: string, to: string): string => (from === to ? `"${from}"` : `[${from}-${to}]`);

/** Digit strings of one length from `low` to `high`. */
function sameLength(low: string, high: string): string {
  if (low === '') return '';
  if (/^0*$/.test(low) && /^9*$/.test(high)) return someDigits(low.length);
  const [a, b] = [low[0] as string, high[0] as string];
  const rest = low.length - 1;
  if (a === b) return `"${a}" ${sameLength(low.slice(1), high.slice(1))}`.trim();
  const alternatives: string[] = [];
  let from = Number(a);
  let to = Number(b);
  if (low.slice(1) !== zeros(rest)) {
    alternatives.push(`"${a}" (${sameLength(low.slice(1), nines(rest))})`);
    from += 1;
  }
  const last = high.slice(1) === nines(rest) ? null : `"${b}" (${sameLength(zeros(rest), high.slice(1))})`;
  if (last !== null) to -= 1;
  if (from <= to) alternatives.push(`${digitRange(String(from), String(to))} ${someDigits(rest)}`.trim());
  if (last !== null) alternatives.push(last);
  return alternatives.length === 1 ? (alternatives[0] as string) : `(${alternatives.join(' | ')})`;
}

/** Whole numbers from `low` ≥ 0 to `high` (Infinity: none). */
function wholeRange(low: number, high: number): string {
  const alternatives: string[] = [];
  const from = String(low);
  const lastDigits = high === Infinity ? from.length : String(high).length;
  for (let digits = from.length; digits <= lastDigits; digits += 1) {
    const start = digits === from.length ? from : `1${zeros(digits - 1)}`;
    const end = high !== Infinity && digits === lastDigits ? String(high) : nines(digits);
    // No leading zeros: from 0 to 27 is 0..9, then 10..27.
    if (digits === 1 || start[0] !== '0') alternatives.push(sameLength(start, end));
  }
  if (high === Infinity && lastDigits < DIGITS_LIMIT)
    alternatives.push(`[1-9] [0-9]{${lastDigits},${DIGITS_LIMIT - 1}}`);
  return alternatives.join(' | ');
}

/** Integers from `low` to `high`, either of which may be infinite. */
export function integerRange(low: number, high: number): string {
  const alternatives: string[] = [];
  if (low < 0)
    alternatives.push(`"-" (${wholeRange(Math.max(1, high < 0 ? -high : 1), low === -Infinity ? Infinity : -low)})`);
  if (high >= 0) alternatives.push(wholeRange(Math.max(0, low), high));
  return alternatives.join(' | ');
}

interface Trie {
  readonly next: Map<string, Trie>;
  ends: boolean;
}

/** A JSON string (quoted, without escapes) that is none of `names`. */
export function stringWithout(names: readonly string[]): string {
  if (names.length === 0) return 'string';
  const root: Trie = { next: new Map(), ends: false };
  for (const name of names) {
    let node = root;
    for (const character of name) {
      const child = node.next.get(character) ?? { next: new Map<string, Trie>(), ends: false };
      node.next.set(character, child);
      node = child;
    }
    node.ends = true;
  }
  const continuation = (node: Trie): string => {
    const others = [...node.next.keys()].map(inClass).join('');
    const alternatives = [`[^${NOT_PLAIN}${others}] [^${NOT_PLAIN}]*`];
    for (const [character, child] of node.next) alternatives.push(`${literal(character)} ${continuation(child)}`);
    return `(${alternatives.join(' | ')})${node.ends ? '' : '?'}`;
  };
  return `"\\"" ${continuation(root)} "\\""`;
}

const CLASSES: Readonly<Record<string, string>> = { d: '0-9', w: 'a-zA-Z0-9_', s: ' ' };

/** A recursive-descent reader of the regular expressions that a grammar can stand for. */
class PatternReader {
  readonly #text: string;
  readonly #path: string;
  #at = 0;

  constructor(text: string, path: string) {
    this.#text = text;
    this.#path = path;
  }

  read(): string {
    const body = this.#alternatives();
    if (this.#at < this.#text.length) this.#no('it has a closing parenthesis too many');
    return body;
  }

  #no(why: string): never {
    return refuse(this.#path, `${why} (only simple patterns from ^ to $ can be enforced)`);
  }

  #alternatives(): string {
    const found = [this.#sequence()];
    while (this.#text[this.#at] === '|') {
      this.#at += 1;
      found.push(this.#sequence());
    }
    return found.join(' | ');
  }

  #sequence(): string {
    const items: string[] = [];
    while (this.#at < this.#text.length && this.#text[this.#at] !== '|' && this.#text[this.#at] !== ')') {
      items.push(`${this.#atom()}${this.#quantifier()}`);
    }
    return items.length === 0 ? '""' : items.join(' ');
  }

  #atom(): string {
    const character = String.fromCodePoint(this.#text.codePointAt(this.#at) as number);
    this.#at += character.length;
    if (character === '(') return this.#group();
    if (character === '[') return this.#class();
    if (character === '.') return `[^${NOT_PLAIN}]`;
    if (character === '\\') return this.#escape();
    if ('^$*+?{'.includes(character)) this.#no(`${character} stands where it can’t be followed`);
    // As it is written inside a JSON string.
    return literal(JSON.stringify(character).slice(1, -1));
  }

  #group(): string {
    if (this.#text[this.#at] === '?') {
      if (this.#text[this.#at + 1] !== ':') this.#no('it looks around, or names a group');
      this.#at += 2;
    }
    const body = this.#alternatives();
    if (this.#text[this.#at] !== ')') this.#no('a parenthesis isn’t closed');
    this.#at += 1;
    return `(${body})`;
  }

  #escape(): string {
    const character = this.#text[this.#at] ?? this.#no('it ends with a backslash');
    this.#at += 1;
    const named = CLASSES[character];
    if (named !== undefined) return `[${named}]`;
    if (/[a-zA-Z0-9]/.test(character)) this.#no(`\\${character} has no counterpart`);
    return literal(JSON.stringify(character).slice(1, -1));
  }

  #class(): string {
    const negated = this.#text[this.#at] === '^';
    if (negated) this.#at += 1;
    let body = '';
    while (this.#text[this.#at] !== ']') {
      const character = this.#text[this.#at] ?? this.#no('a bracket isn’t closed');
      this.#at += 1;
      if (character === '\\') {
        const escaped = this.#text[this.#at] ?? this.#no('a bracket isn’t closed');
        this.#at += 1;
        if (CLASSES[escaped] !== undefined) body += CLASSES[escaped];
        else if (/[a-zA-Z0-9]/.test(escaped)) this.#no(`\\${escaped} has no counterpart`);
        else body += this.#member(escaped);
      } else if (character === '-' && body !== '' && this.#text[this.#at] !== ']') body += '-';
      else body += this.#member(character);
    }
    this.#at += 1;
    return negated ? `[^${NOT_PLAIN}${body}]` : `[${body}]`;
  }

  #member(character: string): string {
    if (character === '"' || character === '\\' || character < ' ')
      this.#no('a bracket holds a character that JSON must escape');
    return inClass(character);
  }

  #quantifier(): string {
    const rest = this.#text.slice(this.#at);
    const found = /^(?:[*+?]|\{(\d+)(?:,(\d*))?\})/.exec(rest);
    if (found === null) return '';
    this.#at += found[0].length;
    if (rest[found[0].length] === '?' || rest[found[0].length] === '+') this.#no('a repetition is lazy or possessive');
    if (Math.max(Number(found[1] ?? 0), Number(found[2] ?? 0)) > REPETITION_LIMIT)
      this.#no(`it repeats more than ${REPETITION_LIMIT} times`);
    return found[0];
  }
}

/** The inside of a JSON string that matches an ECMA-262 pattern. Throws `unsupported_parameter` where it is more than simple. */
export function patternToGbnf(pattern: string, path: string): string {
  if (!pattern.startsWith('^') || !pattern.endsWith('$') || pattern.endsWith('\\$')) {
    return refuse(path, 'the pattern must begin with ^ and end with $');
  }
  const body = pattern.slice(1, -1);
  const reader = new PatternReader(body, path);
  const read = reader.read();
  // `^a|b$` anchors each alternative on one side only.
  if (/(^|[^|])\|/.test(withoutGroups(body))) return refuse(path, 'alternatives must be within parentheses');
  return read;
}

function withoutGroups(pattern: string): string {
  let text = pattern.replaceAll(/\\./g, 'x').replaceAll(/\[[^\]]*\]/g, 'x');
  for (let before = ''; before !== text; ) {
    before = text;
    text = text.replaceAll(/\([^()]*\)/g, 'x');
  }
  return text;
}
