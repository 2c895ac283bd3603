import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { BerthError } from '../../errors.ts';
import { Gbnf } from './gbnf-recogniser.ts';
import { jsonObjectGbnf, schemaToGbnf } from './grammar.ts';
import { integerRange, patternToGbnf, stringWithout } from './grammar-text.ts';

type Json = Record<string, unknown>;

const accepts = (schema: Json, value: unknown): boolean =>
  new Gbnf(schemaToGbnf(schema)).matches(JSON.stringify(value));
const refusal = (schema: Json): { code: string; param: string | null } => {
  try {
    schemaToGbnf(schema);
  } catch (error) {
    if (error instanceof BerthError) return { code: error.code, param: error.param };
    throw error;
  }
  return { code: 'accepted', param: null };
};

interface Case {
  readonly schema: Json;
  readonly value: fc.Arbitrary<unknown>;
}
const made = (schema: Json, value: fc.Arbitrary<unknown>): Case => ({ schema, value });
const span = fc.nat(4);

/** Schemas of the supported kinds, each with values that are valid by it. */
const leaf: fc.Arbitrary<Case> = fc.oneof(
  fc.constant(made({ type: 'string' }, fc.string({ unit: 'grapheme', maxLength: 8 }))),
  fc.constant(made({ type: 'boolean' }, fc.boolean())),
  fc.constant(made({ type: 'null' }, fc.constant(null))),
  fc.tuple(fc.integer({ min: -3000, max: 3000 }), fc.nat(5000)).map(([minimum, more]) => {
    const maximum = minimum + more;
    return made({ type: 'integer', minimum, maximum }, fc.integer({ min: minimum, max: maximum }));
  }),
  fc.constant(
    made(
      { type: 'number' },
      fc.integer({ min: -1_000_000, max: 1_000_000 }).map((n) => n / 64),
    ),
  ),
  fc.tuple(fc.nat(3), span).map(([minLength, more]) => {
    const maxLength = minLength + more;
    return made({ type: 'string', minLength, maxLength }, fc.string({ minLength, maxLength }));
  }),
  fc
    .uniqueArray(fc.oneof(fc.string({ maxLength: 5 }), fc.integer()), { minLength: 1, maxLength: 4 })
    .map((values) => made({ enum: values }, fc.constantFrom<unknown>(...values))),
);

function objectCase(members: readonly (readonly [Case, boolean])[]): Case {
  const required = members.flatMap(([, isRequired], index) => (isRequired ? [`p${index}`] : []));
  const properties = Object.fromEntries(members.map(([member], index) => [`p${index}`, member.schema]));
  const values = Object.fromEntries(members.map(([member], index) => [`p${index}`, member.value]));
  return made(
    { type: 'object', properties, required, additionalProperties: false },
    fc.record(values, { requiredKeys: required }),
  );
}

const { any: cases } = fc.letrec<{ any: Case }>((tie) => ({
  any: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    leaf,
    fc.tuple(tie('any'), fc.nat(2), fc.nat(2)).map(([item, minItems, more]) => {
      const maxItems = minItems + more;
      return made(
        { type: 'array', items: item.schema, minItems, maxItems },
        fc.array(item.value, { minLength: minItems, maxLength: maxItems }),
      );
    }),
    fc.array(fc.tuple(tie('any'), fc.boolean()), { maxLength: 4 }).map(objectCase),
    fc.tuple(tie('any'), tie('any')).map(([a, b]) => made({ anyOf: [a.schema, b.schema] }, fc.oneof(a.value, b.value))),
  ),
}));

describe('schemaToGbnf', () => {
  it('accepts every value that its schema allows, compact or indented', () => {
    fc.assert(
      fc.property(
        cases.chain(({ schema, value }) => value.map((made) => ({ schema, made }))),
        ({ schema, made }) => {
          const grammar = new Gbnf(schemaToGbnf(schema));
          // Properties come in the schema's order from a model, and from fc.record.
          return grammar.matches(JSON.stringify(made)) && grammar.matches(JSON.stringify(made, null, 2));
        },
      ),
      { numRuns: 150 },
    );
  });

  it('derives only what its schema allows', () => {
    fc.assert(
      fc.property(cases, fc.infiniteStream(fc.double({ min: 0, max: 0.999, noNaN: true })), ({ schema }, numbers) => {
        const text = new Gbnf(schemaToGbnf(schema)).derive(() => numbers.next().value as number);
        return z.fromJSONSchema(schema).safeParse(JSON.parse(text)).success;
      }),
      { numRuns: 150 },
    );
  });

  it('forbids what the schema forbids', () => {
    const schema = {
      type: 'object',
      properties: { a: { type: 'integer' }, b: { type: 'string' } },
      required: ['a'],
      additionalProperties: false,
    };
    expect(accepts(schema, { a: 1 })).toBe(true);
    expect(accepts(schema, { a: 1, b: 'x' })).toBe(true);
    expect(accepts(schema, { b: 'x' })).toBe(false);
    expect(accepts(schema, { a: '1' })).toBe(false);
    expect(accepts(schema, { a: 1, c: 2 })).toBe(false);
    expect(accepts(schema, [])).toBe(false);
  });

  it('lets further properties in only where the schema says so, and never twice the same', () => {
    const schema = {
      type: 'object',
      properties: { name: { type: 'string' } },
      additionalProperties: { type: 'integer' },
    };
    expect(accepts(schema, { name: 'x', other: 1 })).toBe(true);
    expect(accepts(schema, { nam: 1, names: 2 })).toBe(true);
    expect(accepts(schema, { other: 'x' })).toBe(false);
    expect(new Gbnf(schemaToGbnf(schema)).matches('{"name":"x","name":1}')).toBe(false);
  });

  it('follows references, also of a schema to itself', () => {
    const schema = {
      $ref: '#/$defs/node',
      $defs: {
        node: {
          type: 'object',
          properties: { value: { type: 'integer' }, next: { anyOf: [{ $ref: '#/$defs/node' }, { type: 'null' }] } },
          required: ['value', 'next'],
        },
      },
    };
    expect(accepts(schema, { value: 1, next: { value: 2, next: null } })).toBe(true);
    expect(accepts(schema, { value: 1, next: { value: 2 } })).toBe(false);
  });

  it('merges the objects of allOf', () => {
    const schema = {
      allOf: [
        { type: 'object', properties: { a: { type: 'integer' } }, required: ['a'] },
        { properties: { b: { const: 'x' } }, required: ['b'] },
      ],
    };
    expect(accepts(schema, { a: 1, b: 'x' })).toBe(true);
    expect(accepts(schema, { a: 1 })).toBe(false);
  });

  it('reads tuples, unions of types, formats and patterns', () => {
    expect(accepts({ prefixItems: [{ type: 'integer' }, { type: 'string' }] }, [1, 'x'])).toBe(true);
    expect(accepts({ prefixItems: [{ type: 'integer' }, { type: 'string' }] }, ['x', 1])).toBe(false);
    expect(accepts({ type: ['string', 'null'] }, null)).toBe(true);
    expect(accepts({ type: 'string', format: 'date' }, '2024-02-29')).toBe(true);
    expect(accepts({ type: 'string', format: 'date' }, '2024-13-01')).toBe(false);
    expect(accepts({ type: 'string', format: 'date-time' }, '2024-02-29T12:00:01Z')).toBe(true);
    expect(accepts({ type: 'string', format: 'uuid' }, 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6')).toBe(true);
    expect(accepts({ type: 'string', pattern: '^[A-Z]{2}-\\d+$' }, 'AB-12')).toBe(true);
    expect(accepts({ type: 'string', pattern: '^[A-Z]{2}-\\d+$' }, 'A-12')).toBe(false);
  });

  it.each([
    [{ not: { type: 'string' } }, 'unsupported_parameter', '/not'],
    [{ type: 'object', properties: { a: { type: 'number', maximum: 1 } } }, 'unsupported_parameter', '/properties/a'],
    [{ type: 'string', pattern: 'abc' }, 'unsupported_parameter', '/pattern'],
    [{ type: 'string', pattern: '^(?=a)b$' }, 'unsupported_parameter', '/pattern'],
    [{ type: 'array', uniqueItems: true }, 'unsupported_parameter', '/uniqueItems'],
    [{ items: { $ref: 'https://example.org/schema' } }, 'unsupported_parameter', '/items/$ref'],
    [{ items: { $ref: '#/$defs/none' } }, 'invalid_request', '/items/$ref'],
    [{ type: 'strange' }, 'invalid_request', '/type'],
    [{ type: 'integer', minimum: 5, maximum: 4 }, 'unsupported_parameter', ''],
    [{ type: 'string', maxLength: 100_000 }, 'unsupported_parameter', '/maxLength'],
  ])('refuses %j and says where', (schema, code, param) => {
    expect(refusal(schema)).toEqual({ code, param });
  });

  it('knows any JSON object', () => {
    const grammar = new Gbnf(jsonObjectGbnf());
    // Numbers as a model writes them: the grammar bounds their digits.
    const tame = (_: string, value: unknown): unknown => (typeof value === 'number' ? 7.25 : value);
    const objects = fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 2 }));
    fc.assert(
      fc.property(objects, (value) => grammar.matches(JSON.stringify(value, tame))),
      { numRuns: 50 },
    );
    expect(grammar.matches('[]')).toBe(false);
  });
});

describe('the pieces', () => {
  it('a range of integers holds exactly its integers', () => {
    const bound = fc.oneof(fc.integer({ min: -1200, max: 1200 }), fc.constant(Infinity));
    fc.assert(
      fc.property(
        bound,
        bound,
        fc.array(fc.integer({ min: -20_000, max: 20_000 }), { minLength: 20, maxLength: 20 }),
        (a, b, numbers) => {
          const low = a === Infinity ? -Infinity : Math.min(a, b);
          const high = a === Infinity ? b : Math.max(a, b);
          const grammar = new Gbnf(`root ::= ${integerRange(low, high)}\n`);
          const edges = [low - 1, low, high, high + 1].filter(Number.isFinite);
          return [...numbers, ...edges].every((n) => grammar.matches(String(n)) === (low <= n && n <= high));
        },
      ),
    );
  });

  it('a string without some names is any other', () => {
    const name = fc.string({ unit: fc.constantFrom('a', 'b', '-', ']'), maxLength: 4 });
    fc.assert(
      fc.property(fc.uniqueArray(name, { minLength: 1, maxLength: 4 }), name, (names, other) => {
        return new Gbnf(`root ::= ${stringWithout(names)}\n`).matches(`"${other}"`) === !names.includes(other);
      }),
    );
  });

  it.each([
    ['^a(b|cd)?e$', ['ae', 'abe', 'acde'], ['abcde', 'e']],
    ['^\\w+@[^@ ]+$', ['me_2@host'], ['me host', '@x']],
    ['^\\$\\d{1,3}(\\.\\d\\d)?$', ['$5', '$12.50'], ['5', '$1234']],
    ['^[a\\-z]+$', ['a-z'], ['b']],
  ])('the pattern %s', (pattern, yes, no) => {
    const grammar = new Gbnf(`root ::= ${patternToGbnf(pattern, '')}\n`);
    for (const text of yes) expect(grammar.matches(text), text).toBe(true);
    for (const text of no) expect(grammar.matches(text), text).toBe(false);
  });
});
