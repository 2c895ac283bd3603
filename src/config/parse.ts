/**
 * berth.yaml as text → its values, or one `config_invalid` that lists everything wrong with it: file:line, the field's path, what
 * was expected, and the likely name of an unknown field.
 */
import { isMap, isScalar, LineCounter, parseDocument } from 'yaml';
import type { Document } from 'yaml';
import { z } from 'zod';
import { BerthError } from '../errors.ts';
import { adapterProblems } from './adapters.ts';
import { closest } from './closest.ts';
import { DEVICE_OPTIONS } from './devices.ts';
import type { DeviceEntry } from './devices.ts';
import { MODEL_OPTIONS } from './model-options.ts';
import type { ModelOptionValues } from './model-options.ts';
import { OPTIONS } from './options.ts';
import type { Option, OptionPath, OptionValues } from './options.ts';
import { overflowProblems } from './overflow.ts';
import { TENANT_ID, TENANT_ID_EXPECTED, TENANT_OPTIONS } from './tenants.ts';
import type { TenantEntry } from './tenants.ts';

type Path = readonly (string | number)[];

export interface ModelEntry {
  readonly id: string;
  readonly values: Partial<ModelOptionValues>;
  readonly path: Path;
}

export interface ConfigFile {
  readonly values: Partial<OptionValues>;
  readonly models: readonly ModelEntry[];
  readonly tenants: readonly TenantEntry[];
  /** Empty: there is one, as `device` says. */
  readonly devices: readonly DeviceEntry[];
}

/** One thing wrong. `key`: the problem is this key of the mapping at `path`. */
interface Problem {
  readonly path: Path;
  readonly key?: string;
  readonly message: string;
}

export function describe(value: unknown, secret = false): string {
  if (value === null || value === undefined) return 'nothing';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'a mapping';
  if (secret) return `a ${typeof value}`;
  const text = typeof value === 'number' ? String(value) : JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}

const field = <Value>(option: Option<Value>) =>
  z
    .unknown()
    .transform((value, context): Value => {
      const read = option.kind.read(value, 'file');
      if (read !== undefined) return read;
      const message = `expected ${option.kind.expected}, received ${describe(value, option.secret)}`;
      context.addIssue({ code: 'custom', message });
      return z.NEVER;
    })
    .optional();

const fieldsOf = (options: object) =>
  Object.fromEntries(Object.entries(options).map(([name, option]) => [name, field(option as Option<unknown>)]));
const MODEL_FIELDS = fieldsOf(MODEL_OPTIONS);

/** An id is a file's name too (as `checkName` of the models folder has it); an alias may be any name that clients ask for. */
const MODEL_ID = /^[a-z0-9][a-z0-9._-]{0,127}$/i;
const ALIAS = /^[\p{L}\p{N}][\p{L}\p{N}._:@+/-]{0,127}$/u;
/** Stands for an id that is no text, of which the schema has complained. */
const UNNAMED = '\0';
const ID_EXPECTED = 'a name of letters, digits, dots, dashes and underscores, at most 128 characters';
const ALIAS_EXPECTED = 'a name of letters, digits and . _ - : / @ +, at most 128 characters';
const name = z.unknown().transform((value, context): string => {
  if (typeof value === 'string') return value; // its letters: see checkNames, which mappings need too
  context.addIssue({ code: 'custom', message: `expected ${ID_EXPECTED}, received ${describe(value)}` });
  return z.NEVER;
});

/** An empty section (all its lines commented out) is no section. */
const orNothing = <Schema extends z.ZodType>(schema: Schema, nothing: unknown) =>
  z.preprocess((value) => value ?? nothing, schema).optional();

const LISTED_MODELS = orNothing(z.array(z.strictObject({ id: name, ...MODEL_FIELDS })), []);
const NAMED_MODELS = orNothing(
  z.record(
    z.string(),
    z.preprocess(
      // `name: ./file.gguf` is short for `name: {source: ./file.gguf}`, and `name:` for `name: {}`.
      (value) => (typeof value === 'string' ? { source: value } : (value ?? {})),
      z.strictObject(MODEL_FIELDS),
    ),
  ),
  {},
);

const DEVICES = orNothing(z.array(z.strictObject({ id: name, ...fieldsOf(DEVICE_OPTIONS) })), []);
const DEVICE_ID = /^[a-z0-9][a-z0-9_-]{0,31}$/;
const DEVICE_ID_EXPECTED = 'a short name of lower-case letters, digits, - and _';

const TENANTS = orNothing(
  z.record(
    z.string(),
    z.preprocess((value) => value ?? {}, z.strictObject(fieldsOf(TENANT_OPTIONS))),
  ),
  {},
);

/** Section → key → its option. The section '' holds what stands at the top. */
const SECTIONS = new Map<string, Map<string, Option<unknown>>>();
for (const [path, option] of Object.entries(OPTIONS)) {
  const [section, key] = path.includes('.') ? (path.split('.') as [string, string]) : (['', path] as const);
  if (!SECTIONS.has(section)) SECTIONS.set(section, new Map());
  SECTIONS.get(section)?.set(key, option);
}

function rootSchema(models: z.ZodType) {
  const shape: Record<string, z.ZodType> = { models, tenants: TENANTS, devices: DEVICES };
  for (const [section, options] of SECTIONS) {
    const fields = Object.fromEntries([...options].map(([key, option]) => [key, field(option)]));
    if (section === '') Object.assign(shape, fields);
    else shape[section] = orNothing(z.strictObject(fields), {});
  }
  return z.strictObject(shape);
}
const WITH_LIST = rootSchema(LISTED_MODELS);
const WITH_NAMES = rootSchema(NAMED_MODELS);

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Reads the text of the file called `file` (its name is for messages only). Throws `config_invalid`. */
export function parseConfig(yaml: string, file: string): ConfigFile {
  const lines = new LineCounter();
  const document = parseDocument(yaml, { lineCounter: lines, prettyErrors: false, version: '1.2' });
  if (document.errors.length > 0) {
    const messages = document.errors.map((e) => `${file}:${lines.linePos(e.pos[0]).line}: no valid YAML: ${e.message}`);
    throw new BerthError('config_invalid', messages.join('\n'));
  }
  const raw: unknown = toPlain(document, file) ?? {};
  const listed = isObject(raw) && Array.isArray(raw['models']);
  const parsed = (listed ? WITH_LIST : WITH_NAMES).safeParse(raw);
  const problems: Problem[] = parsed.success ? [] : parsed.error.issues.flatMap((issue) => explain(issue, raw));
  const models = modelsOf(parsed.success ? parsed.data['models'] : readable(raw));
  const tenants = tenantsOf(parsed.success ? parsed.data['tenants'] : isObject(raw) ? raw['tenants'] : {});
  const devices = devicesIn(parsed.success ? parsed.data['devices'] : isObject(raw) ? raw['devices'] : []);
  problems.push(
    ...checkNames(models),
    ...checkTenants(tenants, models),
    ...models.flatMap(checkPlace),
    ...models.flatMap((model) =>
      [...adapterProblems(model, models), ...overflowProblems(model, models)].map((problem) => ({
        ...problem,
        path: model.path,
      })),
    ),
    ...checkDevices(devices, models),
  );
  if (problems.length > 0) {
    const located = problems.map((problem) => ({ line: lineOf(document, lines, problem), problem }));
    const sorted = located.toSorted((a, b) => a.line - b.line);
    const messages = sorted.map(({ line, problem }) => {
      const where = [...problem.path, ...(problem.key === undefined ? [] : [problem.key])].join('.');
      return `${file}:${line} ${where === '' ? '' : `${where}: `}${problem.message}`;
    });
    throw new BerthError('config_invalid', messages.join('\n'), { param: problems[0]?.path.join('.') ?? '' });
  }
  return { values: parsed.success ? flatten(parsed.data) : {}, models, tenants, devices };
}

function toPlain(document: Document, file: string): unknown {
  try {
    return document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    throw new BerthError('config_invalid', `${file}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function flatten(data: Record<string, unknown>): Partial<OptionValues> {
  const values: Record<string, unknown> = {};
  for (const path of Object.keys(OPTIONS) as OptionPath[]) {
    const [section, key] = path.split('.') as [string, string | undefined];
    const at = data[section];
    const value = key === undefined ? at : isObject(at) ? at[key] : undefined;
    if (value !== undefined) values[path] = value;
  }
  return values;
}

const entry = (id: string, path: Path, values: Record<string, unknown>): ModelEntry => ({ id, path, values });

function modelsOf(models: unknown): ModelEntry[] {
  if (Array.isArray(models)) {
    return (models as Record<string, unknown>[]).map(({ id, ...values }, i) =>
      entry(typeof id === 'string' ? id : UNNAMED, ['models', i], values),
    );
  }
  const named = isObject(models) ? models : {};
  return Object.entries(named).map(([id, values]) => entry(id, ['models', id], isObject(values) ? values : {}));
}

const tenantsOf = (tenants: unknown): TenantEntry[] =>
  Object.entries(isObject(tenants) ? tenants : {}).map(([id, values]) => ({
    id,
    values: isObject(values) ? values : {},
  }));

const devicesIn = (devices: unknown): DeviceEntry[] =>
  (Array.isArray(devices) ? devices : []).filter(isObject).map(({ id, ...values }) => ({
    id: typeof id === 'string' ? id : UNNAMED,
    values,
  }));

function checkDevices(devices: readonly DeviceEntry[], models: readonly ModelEntry[]): Problem[] {
  const problems: Problem[] = [];
  const ids = devices.map(({ id }) => id);
  for (const [index, id] of ids.entries()) {
    const problem = (message: string): number => problems.push({ path: ['devices', index, 'id'], message });
    if (id === UNNAMED) continue;
    if (!DEVICE_ID.test(id)) problem(`expected ${DEVICE_ID_EXPECTED}, received ${describe(id)}`);
    if (ids.indexOf(id) < index) problem(`the id ${id} is taken by another device`);
  }
  const gpus = devices.map(({ values: { kind, gpu } }) => (kind === 'nvidia' ? (gpu ?? 0) : (gpu ?? null)));
  for (const [index, gpu] of gpus.entries()) {
    if (gpu !== null && gpus.indexOf(gpu) < index)
      problems.push({ path: ['devices', index], message: `GPU ${gpu} is another device already` });
  }
  // Without a list the ids depend on the machine.
  for (const { path, values } of devices.length === 0 ? [] : models) {
    const { device } = values;
    if (typeof device === 'string' && !ids.includes(device))
      problems.push({ path: [...path, 'device'], message: noSuchDevice(device, ids) });
  }
  return problems;
}

export const noSuchDevice = (id: string, ids: readonly string[]): string =>
  `there is no device ${describe(id)}: this node has ${ids.join(', ')}`;

/** A tenant that a model names may be one of the database, so a name that isn't here is no mistake. */
function checkTenants(tenants: readonly TenantEntry[], models: readonly ModelEntry[]): Problem[] {
  const check = (id: string, path: Path): Problem[] =>
    TENANT_ID.test(id) ? [] : [{ path, message: `expected ${TENANT_ID_EXPECTED}, received ${describe(id)}` }];
  return [
    ...tenants.flatMap(({ id }) => check(id, ['tenants', id])),
    ...models.flatMap(({ values, path }) =>
      (values.tenants ?? []).flatMap((id, index) => check(id, [...path, 'tenants', index])),
    ),
  ];
}

/** What can be read of the models of a file with errors, so that all of its errors are told at once. */
function readable(raw: unknown): unknown {
  const models: unknown = isObject(raw) ? raw['models'] : [];
  const model = (value: unknown): Record<string, unknown> => {
    const entries = Object.entries(isObject(value) ? value : {}).map(([key, written]) => {
      const option = (MODEL_OPTIONS as Record<string, Option<unknown>>)[key];
      return [key, option === undefined ? written : option.kind.read(written, 'file')];
    });
    return Object.fromEntries(entries) as Record<string, unknown>;
  };
  if (Array.isArray(models)) return models.map(model);
  return isObject(models) ? Object.fromEntries(Object.entries(models).map(([id, value]) => [id, model(value)])) : [];
}

/** A model is computed by an engine here, or elsewhere. */
function checkPlace({ values: { engine, remote, source, device }, path }: ModelEntry): Problem[] {
  const problem = (key: string, message: string): Problem[] => [{ path, key, message }];
  if (engine === 'remote' && remote === undefined)
    return problem('engine', 'a model of the engine remote needs `remote: {url: …}`');
  if (remote === undefined) return [];
  if (engine !== undefined && engine !== 'remote')
    return problem('remote', `a model that is computed elsewhere can’t have the engine ${engine}`);
  if (device !== undefined) return problem('device', 'a model that is computed elsewhere is on no device here');
  return source === undefined ? [] : problem('source', 'a model that is computed elsewhere has no file here');
}

/** A request's `model` must mean one model: ids and aliases share one space of names. */
function checkNames(models: readonly ModelEntry[]): Problem[] {
  const problems: Problem[] = [];
  const owners = new Map<string, string>();
  const claim = (written: string, owner: string, path: Path, form: RegExp, expected: string): void => {
    if (written === UNNAMED) return;
    if (!form.test(written))
      return void problems.push({ path, message: `expected ${expected}, received ${describe(written)}` });
    // Requests may write a name in any case.
    const name = written.toLowerCase();
    const other = owners.get(name);
    if (other === undefined) owners.set(name, owner);
    else problems.push({ path, message: `the name ${written} is taken by the model ${other}` });
  };
  for (const { id, path } of models) {
    claim(id, id, typeof path[1] === 'number' ? [...path, 'id'] : path, MODEL_ID, ID_EXPECTED);
  }
  for (const model of models) {
    for (const [i, alias] of (model.values.aliases ?? []).entries()) {
      claim(alias, model.id, [...model.path, 'aliases', i], ALIAS, ALIAS_EXPECTED);
    }
    const { context, kv } = model.values;
    if (typeof context === 'number' && typeof kv === 'number' && kv < context) {
      problems.push({
        path: [...model.path, 'kv'],
        message: `expected at least the context (${context}), received ${kv}`,
      });
    }
  }
  return problems;
}

function explain(issue: z.core.$ZodIssue, raw: unknown): Problem[] {
  const path = issue.path.filter((step) => typeof step !== 'symbol');
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => ({ path, key, message: `unknown field; ${hint(path, key)}` }));
  }
  if (issue.code === 'custom') return [{ path, message: issue.message }];
  const found = path.reduce<unknown>((at, step) => (at as Record<string | number, unknown> | null)?.[step], raw);
  const expected =
    path[0] === 'models' && path.length === 1
      ? 'a list or a mapping of models'
      : path[0] === 'tenants' && path.length === 1
        ? 'a mapping of tenants'
        : path[0] === 'devices' && path.length === 1
          ? 'a list of devices'
          : 'a mapping of fields';
  return [{ path, message: `expected ${expected}, received ${describe(found)}` }];
}

const ROOT_KEYS = [
  'models',
  'tenants',
  'devices',
  ...[...SECTIONS.keys()].filter((s) => s !== ''),
  ...(SECTIONS.get('')?.keys() ?? []),
];

function hint(path: Path, key: string): string {
  const known =
    path.length === 0
      ? ROOT_KEYS
      : path[0] === 'models'
        ? ['id', ...Object.keys(MODEL_OPTIONS)]
        : path[0] === 'tenants'
          ? Object.keys(TENANT_OPTIONS)
          : path[0] === 'devices'
            ? ['id', ...Object.keys(DEVICE_OPTIONS)]
            : [...(SECTIONS.get(String(path[0]))?.keys() ?? [])];
  const near = closest(key, known);
  if (near !== null) return `did you mean \`${near}\`?`;
  const elsewhere = Object.keys(OPTIONS).find((option) => option.endsWith(`.${key}`));
  if (elsewhere !== undefined) return `did you mean \`${elsewhere}\`?`;
  return `known here: ${known.join(', ')}`;
}

/** The line of the problem's key or value; of its nearest parent where the field itself isn't written. */
function lineOf(document: Document, lines: LineCounter, problem: Problem): number {
  const steps = problem.key === undefined ? problem.path : [...problem.path, problem.key];
  for (let length = steps.length; length > 0; length--) {
    const parent = length === 1 ? document.contents : document.getIn(steps.slice(0, length - 1), true);
    const last = steps[length - 1];
    const pair = isMap(parent)
      ? parent.items.find((item) => isScalar(item.key) && String(item.key.value) === String(last))
      : undefined;
    const node = pair?.key ?? document.getIn(steps.slice(0, length), true);
    const range = (node as { range?: readonly number[] | null } | undefined)?.range;
    if (range?.[0] !== undefined) return lines.linePos(range[0]).line;
  }
  return 1;
}
