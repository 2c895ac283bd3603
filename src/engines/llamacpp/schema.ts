/** Reading JSON schemas: local references and the intersection of object schemas. Pure. */
import { BerthError } from '../../errors.ts';

export type Schema = Readonly<Record<string, unknown>>;

export const isSchema = (value: unknown): value is Schema =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Throws `unsupported_parameter` at a JSON pointer. */
export function refuse(path: string, why: string): never {
  throw new BerthError(
    'unsupported_parameter',
    `The JSON schema can’t be used at ${path === '' ? 'its root' : path}: ${why}.`,
    { param: path },
  );
}

/** What a local reference (`#`, `#/$defs/name`, RFC 6901) points to. */
export function resolvePointer(root: Schema, pointer: string, path: string): unknown {
  if (!pointer.startsWith('#'))
    return refuse(`${path}/$ref`, 'only references within the schema (#/…) can be followed');
  let found: unknown = root;
  for (const part of pointer.slice(1).split('/').slice(1)) {
    const key = decodeURIComponent(part).replaceAll('~1', '/').replaceAll('~0', '~');
    const container = found as Record<string, unknown> | null;
    if (typeof container !== 'object' || container === null || !Object.hasOwn(container, key)) {
      throw new BerthError('invalid_request', `The reference at ${path}/$ref points to nothing.`, {
        param: `${path}/$ref`,
      });
    }
    found = container[key];
  }
  return found;
}

const ANNOTATIONS = new Set([
  'title',
  'description',
  'default',
  'examples',
  '$schema',
  '$id',
  '$comment',
  'deprecated',
  'readOnly',
  'writeOnly',
  '$defs',
  'definitions',
]);
const MERGE_LIMIT = 32;

/** One schema that allows what all of them allow. Refuses pairs of keywords that it can't intersect. */
export function mergeSchemas(schemas: readonly unknown[], path: string, root: Schema, depth = 0): Schema {
  if (depth > MERGE_LIMIT) return refuse(path, 'references within allOf go around in a circle');
  let merged: Record<string, unknown> = {};
  for (const candidate of schemas) {
    if (candidate === true) continue;
    if (!isSchema(candidate)) return refuse(path, 'it allows no value, or is no schema');
    let schema: Schema = candidate;
    if (typeof schema['$ref'] === 'string') {
      const { $ref: _, ...rest } = schema;
      const { $ref } = schema;
      // Nothing to intersect with: the reference stays, so that it may be recursive.
      if (
        Object.keys(merged).every((key) => ANNOTATIONS.has(key)) &&
        Object.keys(rest).length === 0 &&
        schemas.length <= 2 &&
        candidate === schemas.at(-1)
      ) {
        return { $ref };
      }
      schema = mergeSchemas([rest, resolvePointer(root, $ref, path)], path, root, depth + 1);
    }
    if (Array.isArray(schema['allOf'])) {
      const { allOf, ...rest } = schema;
      schema = mergeSchemas([rest, ...(allOf as unknown[])], path, root, depth + 1);
    }
    merged = mergeTwo(merged, schema, path);
  }
  return merged;
}

function mergeTwo(left: Record<string, unknown>, right: Schema, path: string): Record<string, unknown> {
  forbidLost(left, right, path);
  forbidLost(right, left, path);
  const merged: Record<string, unknown> = { ...left };
  for (const [key, value] of Object.entries(right)) {
    const present = merged[key];
    if (present === undefined || ANNOTATIONS.has(key)) merged[key] = value;
    else if (key === 'properties') merged[key] = mergeProperties(present as Schema, value as Schema);
    else if (key === 'required') merged[key] = [...new Set([...(present as string[]), ...(value as string[])])];
    else if (key === 'minimum' || key === 'minLength' || key === 'minItems')
      merged[key] = Math.max(present as number, value as number);
    else if (key === 'maximum' || key === 'maxLength' || key === 'maxItems')
      merged[key] = Math.min(present as number, value as number);
    else if (key === 'additionalProperties' && present === true) merged[key] = value;
    else if (key === 'additionalProperties' && value === true) merged[key] = present;
    else if (JSON.stringify(present) !== JSON.stringify(value))
      return refuse(path, `two different values of ${key} can’t be combined`);
  }
  return merged;
}

/** `additionalProperties: false` in one part forbids the properties that only another part has. */
function forbidLost(strict: Schema, other: Schema, path: string): void {
  if (strict['additionalProperties'] !== false) return;
  const known = isSchema(strict['properties']) ? strict['properties'] : {};
  const lost = Object.keys(isSchema(other['properties']) ? other['properties'] : {}).find(
    (name) => !Object.hasOwn(known, name),
  );
  if (lost !== undefined)
    refuse(path, `additionalProperties: false in one part forbids the property ${lost} of another`);
}

function mergeProperties(left: Schema, right: Schema): Schema {
  const merged: Record<string, unknown> = { ...left };
  for (const [name, value] of Object.entries(right)) {
    merged[name] =
      Object.hasOwn(merged, name) && JSON.stringify(merged[name]) !== JSON.stringify(value)
        ? { allOf: [merged[name], value] }
        : value;
  }
  return merged;
}
