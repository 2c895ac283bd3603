/**
 * JSON schema (draft 2020-12, the part that structured outputs use) to GBNF, llama.cpp's grammar notation. Everything that the
 * grammar allows is valid by the schema; not everything valid is allowed: properties keep the schema's order, and further
 * properties appear only where the schema speaks of them. What can't be expressed is refused, naming its path.
 */
import { BerthError } from '../../errors.ts';
import { integerRange, literal, patternToGbnf, repeat, stringWithout } from './grammar-text.ts';
import { isSchema, mergeSchemas, refuse, resolvePointer, type Schema } from './schema.ts';

/** A rule's body, by its name. All that JSON needs; the unused ones cost llama.cpp nothing. */
const JSON_RULES: Readonly<Record<string, string>> = {
  ws: '| " " | "\\n" [ \\t]{0,16}',
  char: '[^"\\\\\\x7F\\x00-\\x1F] | "\\\\" (["\\\\/bfnrt] | "u" [0-9a-fA-F]{4})',
  string: '"\\"" char* "\\""',
  whole: '"0" | [1-9] [0-9]{0,15}',
  integer: '"-"? whole',
  number: '"-"? whole ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,3})?',
  positive: 'whole ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,3})?',
  boolean: '"true" | "false"',
  null: '"null"',
  value: 'object | array | string | number | boolean | null',
  pair: 'string ":" ws value',
  object: '"{" ws (pair ("," ws pair)* ws)? "}"',
  array: '"[" ws (value ("," ws value)* ws)? "]"',
};

const FORMATS: Readonly<Record<string, string>> = {
  date: '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])',
  time: '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? ("Z" | [+-] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])',
  uuid: '[0-9a-fA-F]{8} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{4} "-" [0-9a-fA-F]{12}',
  email:
    '[a-zA-Z0-9] [a-zA-Z0-9._+-]{0,62} "@" [a-zA-Z0-9] [a-zA-Z0-9-]{0,61} ("." [a-zA-Z0-9] [a-zA-Z0-9-]{0,61}){1,4}',
  ipv4: 'octet "." octet "." octet "." octet',
  uri: '[a-zA-Z] [a-zA-Z0-9+.-]{0,31} "://" [a-zA-Z0-9._~:/?#@!$&\'()*+,;=%-]+',
};

/** Keywords that say more than a grammar can. */
const REFUSED = [
  'not',
  'if',
  'then',
  'else',
  'patternProperties',
  'propertyNames',
  'contains',
  'dependentSchemas',
  'dependentRequired',
  'minProperties',
  'maxProperties',
  'multipleOf',
  '$dynamicRef',
];
const TYPES = ['object', 'array', 'string', 'integer', 'number', 'boolean', 'null'];
const RULES_LIMIT = 2_000;
const DEPTH_LIMIT = 64;
/** llama.cpp refuses larger repetitions. */
const REPETITION_LIMIT = 1_999;

class GrammarBuilder {
  readonly #root: Schema;
  readonly #rules = new Map<string, string>();
  readonly #names = new Map<string, string>();
  readonly #references = new Map<string, string>();
  #depth = 0;

  constructor(root: Schema) {
    this.#root = root;
    for (const [name, body] of Object.entries(JSON_RULES)) this.#rules.set(name, body);
    this.#rules.set('octet', '"25" [0-5] | "2" [0-4] [0-9] | "1" [0-9] [0-9] | [1-9] [0-9] | [0-9]');
  }

  build(before: string, after: string): string {
    const value = this.#visit(this.#root, '');
    const lines = [
      `root ::= ${[before && literal(before), value, after && literal(after)].filter((part) => part !== '').join(' ')}`,
    ];
    for (const [name, body] of this.#rules) lines.push(`${name} ::= ${body}`);
    return `${lines.join('\n')}\n`;
  }

  /** The name of a rule with this body. */
  #rule(body: string): string {
    const known = this.#names.get(body);
    if (known !== undefined) return known;
    const name = `r${this.#names.size}`;
    if (this.#names.size >= RULES_LIMIT)
      throw new BerthError('unsupported_parameter', `The schema needs more than ${RULES_LIMIT} grammar rules.`);
    this.#names.set(body, name);
    this.#rules.set(name, body);
    return name;
  }

  /** The name of the rule that stands for a schema. */
  #visit(schema: unknown, path: string): string {
    if (schema === true) return 'value';
    if (schema === false) return refuse(path, 'false allows no value');
    if (!isSchema(schema))
      throw new BerthError('invalid_request', `A schema must be an object or a boolean (at ${path || 'the root'}).`, {
        param: path,
      });
    if (this.#depth >= DEPTH_LIMIT) return refuse(path, `schemas are nested deeper than ${DEPTH_LIMIT}`);
    this.#depth += 1;
    try {
      return this.#visitObject(schema, path);
    } finally {
      this.#depth -= 1;
    }
  }

  #visitObject(schema: Schema, path: string): string {
    const found = REFUSED.find(
      (keyword) => schema[keyword] !== undefined && !(keyword === 'multipleOf' && schema[keyword] === 1),
    );
    if (found !== undefined)
      return refuse(`${path}/${found}`, `the keyword ${found} can’t be enforced while generating`);
    if (typeof schema['$ref'] === 'string') return this.#reference(schema, schema['$ref'], path);
    if (schema['const'] !== undefined) return this.#rule(literal(JSON.stringify(schema['const'])));
    if (schema['enum'] !== undefined) return this.#enumeration(schema['enum'], `${path}/enum`);
    for (const keyword of ['anyOf', 'oneOf'] as const) {
      if (schema[keyword] !== undefined) return this.#alternatives(schema, keyword, path);
    }
    if (schema['allOf'] !== undefined) return this.#intersection(schema, path);
    const { type } = schema;
    if (Array.isArray(type)) {
      return this.#rule(type.map((one: unknown) => this.#visit({ ...schema, type: one }, path)).join(' | '));
    }
    return this.#typed(schema, type ?? this.#impliedType(schema), path);
  }

  #impliedType(schema: Schema): string | undefined {
    if (['properties', 'required', 'additionalProperties'].some((keyword) => schema[keyword] !== undefined))
      return 'object';
    if (['items', 'prefixItems', 'minItems', 'maxItems'].some((keyword) => schema[keyword] !== undefined))
      return 'array';
    if (['minLength', 'maxLength', 'pattern', 'format'].some((keyword) => schema[keyword] !== undefined))
      return 'string';
    return undefined;
  }

  #typed(schema: Schema, type: unknown, path: string): string {
    switch (type) {
      case undefined:
        return 'value';
      case 'object':
        return this.#object(schema, path);
      case 'array':
        return this.#array(schema, path);
      case 'string':
        return this.#string(schema, path);
      case 'integer':
      case 'number':
        return this.#numeric(schema, type, path);
      case 'boolean':
      case 'null':
        return type;
      default:
        throw new BerthError(
          'invalid_request',
          `The type at ${path || 'the root'} must be one of ${TYPES.join(', ')}.`,
          { param: `${path}/type` },
        );
    }
  }

  #reference(schema: Schema, pointer: string, path: string): string {
    const siblings = Object.keys(schema).filter(
      (key) =>
        !['$ref', '$defs', 'definitions', '$schema', '$id', 'title', 'description', 'default', 'examples'].includes(
          key,
        ),
    );
    if (siblings.length > 0) {
      const { $ref: _, ...rest } = schema;
      return this.#visit(mergeSchemas([rest, resolvePointer(this.#root, pointer, path)], path, this.#root), path);
    }
    const known = this.#references.get(pointer);
    if (known !== undefined) return known;
    // Named before it's visited, so that a schema may refer to itself.
    const name = `ref${this.#references.size}`;
    this.#references.set(pointer, name);
    this.#rules.set(name, this.#visit(resolvePointer(this.#root, pointer, path), path));
    return name;
  }

  #enumeration(values: unknown, path: string): string {
    if (!Array.isArray(values) || values.length === 0)
      throw new BerthError('invalid_request', `enum must be a list of values (at ${path}).`, { param: path });
    return this.#rule(values.map((value: unknown) => literal(JSON.stringify(value))).join(' | '));
  }

  #alternatives(schema: Schema, keyword: 'anyOf' | 'oneOf', path: string): string {
    const { [keyword]: list, ...base } = schema;
    if (!Array.isArray(list) || list.length === 0)
      throw new BerthError('invalid_request', `${keyword} must be a list of schemas (at ${path}).`, {
        param: `${path}/${keyword}`,
      });
    const names = list.map((alternative: unknown, index) => {
      const place = `${path}/${keyword}/${index}`;
      return this.#visit(mergeSchemas([base, alternative], place, this.#root), place);
    });
    return this.#rule(names.join(' | '));
  }

  #intersection(schema: Schema, path: string): string {
    const { allOf, ...base } = schema;
    if (!Array.isArray(allOf))
      throw new BerthError('invalid_request', `allOf must be a list of schemas (at ${path}).`, {
        param: `${path}/allOf`,
      });
    return this.#visit(mergeSchemas([base, ...(allOf as unknown[])], `${path}/allOf`, this.#root), path);
  }

  #object(schema: Schema, path: string): string {
    const properties = schema['properties'] === undefined ? {} : schema['properties'];
    if (!isSchema(properties))
      throw new BerthError('invalid_request', `properties must be an object (at ${path}).`, {
        param: `${path}/properties`,
      });
    const required = new Set(Array.isArray(schema['required']) ? (schema['required'] as string[]) : []);
    const names = Object.keys(properties);
    const further = schema['additionalProperties'] ?? (names.length === 0 && required.size === 0);
    // A required property that isn't described may hold anything.
    const all = [...names, ...[...required].filter((name) => !Object.hasOwn(properties, name))];
    if (further === false && all.length > names.length)
      return refuse(`${path}/required`, 'it requires a property that additionalProperties forbids');
    const pairs = all.map((name) => {
      const value = Object.hasOwn(properties, name)
        ? this.#visit(properties[name], `${path}/properties/${name}`)
        : 'value';
      return { rule: this.#rule(`${literal(JSON.stringify(name))} ":" ws ${value}`), optional: !required.has(name) };
    });
    const extra =
      further === false
        ? null
        : this.#rule(`${stringWithout(all)} ":" ws ${this.#visit(further, `${path}/additionalProperties`)}`);
    // Two chains from the last property to the first: with and without a property before it.
    let after = extra === null ? '' : this.#rule(`("," ws ${extra})*`);
    let first = extra === null ? '' : this.#rule(`(${extra} ${after})?`);
    for (const { rule, optional } of pairs.toReversed()) {
      const starting = `${rule} ${after}`.trim();
      first = this.#rule(optional ? (first === '' ? `(${starting})?` : `${starting} | ${first}`) : starting);
      after = this.#rule(optional ? `("," ws ${rule})? ${after}`.trim() : `"," ws ${rule} ${after}`.trim());
    }
    return this.#rule(first === '' ? '"{" ws "}"' : `"{" ws ${first} ws "}"`);
  }

  #array(schema: Schema, path: string): string {
    if (schema['uniqueItems'] === true)
      return refuse(`${path}/uniqueItems`, 'uniqueItems can’t be enforced while generating');
    const prefix = Array.isArray(schema['prefixItems']) ? (schema['prefixItems'] as unknown[]) : [];
    const least = this.#count(schema, 'minItems', path) ?? (prefix.length > 0 ? prefix.length : 0);
    const most =
      this.#count(schema, 'maxItems', path) ??
      (prefix.length > 0 && schema['items'] === undefined ? prefix.length : Infinity);
    if (least > most) return refuse(`${path}/minItems`, 'minItems is larger than maxItems');
    if (prefix.length > 0 && (most < prefix.length || least < prefix.length))
      return refuse(`${path}/prefixItems`, 'all of prefixItems must be within minItems and maxItems');
    const head = prefix.map((item, index) => this.#visit(item, `${path}/prefixItems/${index}`));
    const item = schema['items'] === false ? null : this.#visit(schema['items'] ?? true, `${path}/items`);
    if (head.length > 0) {
      const tail =
        item === null || most === head.length
          ? ''
          : repeat(`("," ws ${item})`, least - head.length, most - head.length);
      return this.#rule(`"[" ws ${head.join(' "," ws ')} ${tail} ws "]"`);
    }
    if (most === 0 || item === null) return this.#rule('"[" ws "]"');
    const list = `${item} ${most === 1 ? '' : repeat(`("," ws ${item})`, Math.max(least - 1, 0), most - 1)}`;
    return this.#rule(least === 0 ? `"[" ws (${list} ws)? "]"` : `"[" ws ${list} ws "]"`);
  }

  #string(schema: Schema, path: string): string {
    const { pattern, format } = schema;
    const least = this.#count(schema, 'minLength', path);
    const most = this.#count(schema, 'maxLength', path);
    const bounded = least !== null || most !== null;
    if ([pattern !== undefined, format !== undefined, bounded].filter(Boolean).length > 1)
      return refuse(path, 'only one of pattern, format and a length can be enforced at once');
    if (typeof pattern === 'string') return this.#rule(`"\\"" (${patternToGbnf(pattern, `${path}/pattern`)}) "\\""`);
    if (typeof format === 'string') {
      if (format === 'date-time')
        return this.#rule(`"\\"" ${FORMATS['date'] as string} "T" ${this.#rule(FORMATS['time'] as string)} "\\""`);
      const body = Object.hasOwn(FORMATS, format)
        ? (FORMATS[format] as string)
        : refuse(`${path}/format`, `the format ${format} can’t be enforced`);
      return this.#rule(`"\\"" ${body} "\\""`);
    }
    if (!bounded) return 'string';
    if ((least ?? 0) > (most ?? Infinity)) return refuse(`${path}/minLength`, 'minLength is larger than maxLength');
    return this.#rule(`"\\"" ${repeat('char', least ?? 0, most ?? Infinity)} "\\""`);
  }

  #numeric(schema: Schema, type: 'integer' | 'number', path: string): string {
    const bound = (keyword: string): number | null => (typeof schema[keyword] === 'number' ? schema[keyword] : null);
    const [minimum, above, maximum, below] = [
      bound('minimum'),
      bound('exclusiveMinimum'),
      bound('maximum'),
      bound('exclusiveMaximum'),
    ];
    if (minimum === null && above === null && maximum === null && below === null) return type;
    if (type === 'number') {
      if (minimum === 0 && above === null && maximum === null && below === null) return 'positive';
      return refuse(path, 'bounds of a number can’t be enforced, except minimum 0; those of an integer can');
    }
    const low = Math.max(
      minimum === null ? -Infinity : Math.ceil(minimum),
      above === null ? -Infinity : Math.floor(above) + 1,
    );
    const high = Math.min(
      maximum === null ? Infinity : Math.floor(maximum),
      below === null ? Infinity : Math.ceil(below) - 1,
    );
    if (low > high) return refuse(path, 'no integer lies within the bounds');
    return this.#rule(integerRange(low, high));
  }

  #count(schema: Schema, keyword: string, path: string): number | null {
    const value = schema[keyword];
    if (value === undefined) return null;
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 0)
      throw new BerthError('invalid_request', `${keyword} must be a whole number (at ${path || 'the root'}).`, {
        param: `${path}/${keyword}`,
      });
    if (value > REPETITION_LIMIT)
      return refuse(`${path}/${keyword}`, `more than ${REPETITION_LIMIT} can’t be enforced`);
    return value;
  }
}

/**
 * The grammar of the texts that a schema allows; `before` and `after` surround the value. Throws `unsupported_parameter` for
 * what can't be expressed and `invalid_request` for what is no schema; `param` is the JSON pointer of the place.
 */
export function schemaToGbnf(schema: Readonly<Record<string, unknown>> | boolean, before = '', after = ''): string {
  const root = typeof schema === 'boolean' ? { allOf: [schema] } : schema;
  return new GrammarBuilder(root).build(before, after);
}

/** Any JSON object. */
export function jsonObjectGbnf(): string {
  return schemaToGbnf({ type: 'object' });
}
