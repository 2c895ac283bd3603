/** For tests: reads the GBNF that we write, says whether a text matches, and makes up texts that do. Not for left recursion. */
type Node =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'class'; readonly negated: boolean; readonly ranges: readonly (readonly [number, number])[] }
  | { readonly kind: 'rule'; readonly name: string }
  | { readonly kind: 'sequence'; readonly items: readonly Node[] }
  | { readonly kind: 'choice'; readonly options: readonly Node[] }
  | { readonly kind: 'repeat'; readonly item: Node; readonly least: number; readonly most: number };

const ESCAPES: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t' };

class Reader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  body(): Node {
    const node = this.#choice();
    if (this.#at < this.#text.length) throw new Error(`GBNF: unexpected ${this.#text.slice(this.#at, this.#at + 20)}`);
    return node;
  }

  #skip(): void {
    while (this.#text[this.#at] === ' ') this.#at += 1;
  }

  #choice(): Node {
    const options = [this.#sequence()];
    while (this.#text[this.#at] === '|') {
      this.#at += 1;
      options.push(this.#sequence());
    }
    return { kind: 'choice', options };
  }

  #sequence(): Node {
    const items: Node[] = [];
    for (;;) {
      this.#skip();
      const character = this.#text[this.#at];
      if (character === undefined || character === '|' || character === ')') return { kind: 'sequence', items };
      items.push(this.#repeated(this.#atom(character)));
    }
  }

  #repeated(item: Node): Node {
    const found = /^(?:[*+?]|\{(\d+)(,?)(\d*)\})/.exec(this.#text.slice(this.#at));
    if (found === null) return item;
    this.#at += found[0].length;
    if (found[0] === '*') return { kind: 'repeat', item, least: 0, most: Infinity };
    if (found[0] === '+') return { kind: 'repeat', item, least: 1, most: Infinity };
    if (found[0] === '?') return { kind: 'repeat', item, least: 0, most: 1 };
    const least = Number(found[1]);
    return {
      kind: 'repeat',
      item,
      least,
      most: found[2] === '' ? least : found[3] === '' ? Infinity : Number(found[3]),
    };
  }

  #character(): string {
    const character = String.fromCodePoint(this.#text.codePointAt(this.#at) as number);
    this.#at += character.length;
    if (character !== '\\') return character;
    const escaped = this.#text[this.#at] as string;
    this.#at += 1;
    if (escaped !== 'x') return ESCAPES[escaped] ?? escaped;
    this.#at += 2;
    return String.fromCodePoint(Number.parseInt(this.#text.slice(this.#at - 2, this.#at), 16));
  }

  #atom(character: string): Node {
    if (character === '"') {
      this.#at += 1;
      let text = '';
      while (this.#text[this.#at] !== '"') text += this.#character();
      this.#at += 1;
      return { kind: 'text', text };
    }
    if (character === '[') return this.#class();
    if (character === '(') {
      this.#at += 1;
      const inner = this.#choice();
      if (this.#text[this.#at] !== ')') throw new Error('GBNF: a parenthesis is open');
      this.#at += 1;
      return inner;
    }
    const name = /^[a-zA-Z0-9-]+/.exec(this.#text.slice(this.#at))?.[0];
    if (name === undefined) throw new Error(`GBNF: unexpected ${character}`);
    this.#at += name.length;
    return { kind: 'rule', name };
  }

  #class(): Node {
    this.#at += 1;
    const negated = this.#text[this.#at] === '^';
    if (negated) this.#at += 1;
    const ranges: [number, number][] = [];
    while (this.#text[this.#at] !== ']') {
      const from = this.#character().codePointAt(0) as number;
      let to = from;
      if (this.#text[this.#at] === '-' && this.#text[this.#at + 1] !== ']') {
        this.#at += 1;
        to = this.#character().codePointAt(0) as number;
      }
      ranges.push([from, to]);
    }
    this.#at += 1;
    return { kind: 'class', negated, ranges };
  }
}

export class Gbnf {
  readonly #rules = new Map<string, Node>();

  constructor(grammar: string) {
    for (const line of grammar.split('\n').filter((part) => part !== '')) {
      const [name, body] = line.split(' ::= ');
      this.#rules.set(name as string, new Reader(body as string).body());
    }
  }

  #rule(name: string): Node {
    const node = this.#rules.get(name);
    if (node === undefined) throw new Error(`GBNF: no rule ${name}`);
    return node;
  }

  matches(text: string): boolean {
    const characters = Array.from(text);
    const memo = new Map<string, Set<number>>();
    const ends = (node: Node, at: number): Set<number> => {
      switch (node.kind) {
        case 'text': {
          const own = Array.from(node.text);
          return own.every((character, index) => characters[at + index] === character)
            ? new Set([at + own.length])
            : new Set();
        }
        case 'class': {
          const code = characters[at]?.codePointAt(0);
          if (code === undefined) return new Set();
          return node.ranges.some(([from, to]) => from <= code && code <= to) === node.negated
            ? new Set()
            : new Set([at + 1]);
        }
        case 'rule': {
          const key = `${node.name}@${at}`;
          const known = memo.get(key);
          if (known !== undefined) return known;
          const found = ends(this.#rule(node.name), at);
          memo.set(key, found);
          return found;
        }
        case 'sequence': {
          let places = new Set([at]);
          for (const item of node.items) places = new Set([...places].flatMap((place) => [...ends(item, place)]));
          return places;
        }
        case 'choice':
          return new Set(node.options.flatMap((option) => [...ends(option, at)]));
        default: {
          const found = new Set<number>(node.least === 0 ? [at] : []);
          let places = new Set([at]);
          for (let count = 1; count <= node.most && places.size > 0; count += 1) {
            const next = new Set([...places].flatMap((place) => [...ends(node.item, place)]));
            const fresh = new Set([...next].filter((place) => !found.has(place)));
            if (count >= node.least) for (const place of next) found.add(place);
            places = count >= node.least ? fresh : next;
          }
          return found;
        }
      }
    };
    return ends(this.#rule('root'), 0).has(characters.length);
  }

  /** A text of the grammar; `random` gives numbers in [0, 1). Short: repetitions end early, and deep rules prefer short ways out. */
  derive(random: () => number): string {
    return this.#make(this.#rule('root'), 0, random);
  }

  #make(node: Node, depth: number, random: () => number): string {
    const deep = depth > 12;
    switch (node.kind) {
      case 'text':
        return node.text;
      case 'class': {
        if (node.negated) return String.fromCodePoint(pick(node.ranges, random));
        const [from, to] = node.ranges[Math.floor(random() * node.ranges.length)] as readonly [number, number];
        return String.fromCodePoint(from + Math.floor(random() * (to - from + 1)));
      }
      case 'rule':
        return this.#make(this.#rule(node.name), depth + 1, random);
      case 'sequence':
        return node.items.map((item) => this.#make(item, depth, random)).join('');
      case 'choice': {
        const options = deep ? node.options.toSorted((a, b) => weight(a) - weight(b)).slice(0, 1) : node.options;
        return this.#make(options[Math.floor(random() * options.length)] as Node, depth, random);
      }
      default: {
        const count = node.least + (deep ? 0 : Math.floor(random() * Math.min(node.most - node.least + 1, 3)));
        return Array.from({ length: count }, () => this.#make(node.item, depth + 1, random)).join('');
      }
    }
  }
}

/** How many rules a node refers to: what to avoid when deep. */
function weight(node: Node): number {
  if (node.kind === 'rule')
    return ['object', 'array', 'value'].includes(node.name) || node.name.startsWith('ref') ? 100 : 10;
  if (node.kind === 'sequence') return node.items.reduce((sum, item) => sum + weight(item), 0);
  if (node.kind === 'choice') return Math.min(...node.options.map(weight));
  if (node.kind === 'repeat') return node.least * weight(node.item);
  return 1;
}

/** A printable code point outside of the ranges. */
function pick(ranges: readonly (readonly [number, number])[], random: () => number): number {
  const candidates = [...Array.from({ length: 94 }, (_, index) => index + 33), 0xe9, 0x4e2d, 0x1f600];
  const free = candidates.filter((code) => !ranges.some(([from, to]) => from <= code && code <= to));
  return free[Math.floor(random() * free.length)] as number;
}
