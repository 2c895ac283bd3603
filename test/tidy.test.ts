/** What keeps the tree readable, checked: who may import whom, how long a file may be, and that the core's lint rules bite. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, posix } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { RefusalCode } from '../src/core/actions.ts';
import type { ErrorCode } from '../src/errors.ts';
import { ERRORS } from '../src/errors.ts';

const ROOT = join(import.meta.dirname, '..');
const MOST_LINES = 400;

/** Which part of `src` a file belongs to: its folder, or the module that a file at the top and its folder make together. */
const PARTS = [
  'core',
  'runtime',
  'engines',
  'kv',
  'models',
  'store',
  'limits',
  'sim',
  'load',
  'gateway',
  'fleet',
  'config',
  'cli',
  'errors',
  'index',
] as const;
type Part = (typeof PARTS)[number];

interface Rule {
  /** Parts, or files of parts, that may be imported. `types:` only with `import type`. */
  readonly may: readonly string[];
  /** What to tell who breaks it. */
  readonly because: string;
}

const RULES: Readonly<Record<Part, Rule>> = {
  core: { may: [], because: 'the core is pure: it knows its events, and nothing of the world' },
  errors: { may: [], because: 'the table of errors is below everything' },
  runtime: {
    may: ['core', 'errors', 'kv', 'types:engines/engine.ts', 'types:models', 'types:config.ts'],
    because: 'the node knows engines by their contract only; cli/commands/serve.ts gives it the real ones',
  },
  engines: {
    may: ['core/ids.ts', 'core/costs.ts', 'models/gguf.ts', 'errors'],
    because: 'an engine is no scheduler: it knows a model’s file, and neither the arbiter nor the node',
  },
  kv: {
    may: ['core/ids.ts', 'errors', 'engines/kv-file.ts', 'types:engines/engine.ts', 'types:runtime/clock.ts'],
    because: 'the KV cache knows files and names; what runs, and when, is the node’s matter',
  },
  models: { may: ['core/ids.ts', 'errors'], because: 'files and their sources, nothing of serving' },
  store: { may: ['core/ids.ts', 'errors'], because: 'rows, nothing of serving' },
  limits: { may: ['core/ids.ts', 'errors'], because: 'pure accounts: what is counted, and by whom, is told to them' },
  sim: {
    may: ['core', 'kv/value.ts', 'runtime/metrics.ts', 'errors'],
    because: 'the simulator runs the core itself, without the node',
  },
  load: {
    may: ['core/ids.ts', 'sim/arrivals.ts', 'sim/generate.ts', 'sim/random.ts', 'errors'],
    because: 'a load knows servers by HTTP only: a Berth node is one of many',
  },
  gateway: {
    may: [
      'runtime/api.ts',
      'runtime/node.ts',
      'core/ids.ts',
      'types:core',
      'types:engines/engine.ts',
      'models',
      'store',
      'limits',
      'errors',
    ],
    because: 'the gateway turns HTTP into submissions; it decides nothing',
  },
  fleet: { may: ['core/ids.ts', 'runtime/metrics.ts', 'errors'], because: 'placement looks at nodes from outside' },
  config: { may: ['core/ids.ts', 'errors'], because: 'the configuration is read before anything exists' },
  cli: {
    may: [
      'core',
      'runtime',
      'engines',
      'kv',
      'models',
      'store',
      'limits',
      'sim',
      'load',
      'gateway',
      'fleet',
      'config',
      'errors',
    ],
    because: 'the command line joins all parts, but the console is a page of its own',
  },
  index: { may: [...PARTS], because: 'the door shows what the parts export' },
};

interface Import {
  /** Both relative to `src`. */
  readonly from: string;
  readonly to: string;
  readonly isType: boolean;
}

const sources = globSync('**/*.ts', { cwd: join(ROOT, 'src') })
  .map((file) => file.replaceAll('\\', '/'))
  .filter((file) => !file.endsWith('.test.ts'))
  .toSorted();

const IMPORT =
  /(?:^|[\n;])\s*(?:import|export)\s+(type\s)?(?:[\w\s*{},$]*?\sfrom\s+)?'(?<static>\.[^']+)'|\bimport\(\s*'(?<dynamic>\.[^']+)'\s*\)/g;

function importsOf(file: string, text: string): Import[] {
  return [...text.matchAll(IMPORT)].map((match) => {
    const target = match.groups?.['static'] ?? match.groups?.['dynamic'] ?? '';
    return { from: file, to: posix.join(posix.dirname(file), target), isType: match[1] !== undefined };
  });
}

function partOf(file: string): Part | null {
  const [first = ''] = file.split('/');
  const name = first.replace(/\.ts$/, '');
  return (PARTS as readonly string[]).includes(name) ? (name as Part) : null;
}

function isAllowed({ from, to, isType }: Import): boolean {
  const part = partOf(from);
  if (part === null) return false;
  if (partOf(to) === part) return true;
  return RULES[part].may.some((entry) => {
    const onlyTypes = entry.startsWith('types:');
    const target = onlyTypes ? entry.slice('types:'.length) : entry;
    return (isType || !onlyTypes) && (to === target || to === `${target}.ts` || to.startsWith(`${target}/`));
  });
}

const read = (file: string): string => readFileSync(join(ROOT, 'src', file), 'utf8');
const imports = sources.flatMap((file) => importsOf(file, read(file)));

describe('imports', () => {
  it('go only where the architecture lets them', () => {
    const offences = imports
      .filter((one) => !isAllowed(one))
      .map(({ from, to, isType }) => {
        const part = partOf(from);
        return `src/${from} imports ${isType ? 'types of ' : ''}src/${to}: ${part === null ? 'a new part of src: give it a rule here' : RULES[part].because}`;
      });
    expect(offences).toEqual([]);
  });

  it('are all seen by this test', () => {
    const text = [
      `import { a } from './a.ts';`,
      `import type { B } from '../b.ts';`,
      `export { c } from './c.ts'; import './d.ts';`,
      `import {\n  e,\n  f,\n} from './e.ts';`,
      `const g = await import('./g.ts');`,
      `import type * as h from './h.ts';`,
      `import { readFile } from 'node:fs';`,
    ].join('\n');
    const found = importsOf('x/y.ts', text).map(({ to, isType }) => (isType ? `type ${to}` : to));
    expect(found).toEqual(['x/a.ts', 'type b.ts', 'x/c.ts', 'x/d.ts', 'x/e.ts', 'x/g.ts', 'type x/h.ts']);
    expect(isAllowed({ from: 'core/arbiter.ts', to: 'runtime/node.ts', isType: true })).toBe(false);
    expect(isAllowed({ from: 'runtime/node.ts', to: 'engines/engine.ts', isType: true })).toBe(true);
    expect(isAllowed({ from: 'runtime/node.ts', to: 'engines/engine.ts', isType: false })).toBe(false);
    expect(isAllowed({ from: 'runtime/node.ts', to: 'engines/fake.ts', isType: true })).toBe(false);
    expect(isAllowed({ from: 'novelty/x.ts', to: 'core/ids.ts', isType: true })).toBe(false);
  });

  it('make no circle in the core', () => {
    const edges = imports.filter(({ from, to, isType }) => !isType && partOf(from) === 'core' && partOf(to) === 'core');
    const circles: string[] = [];
    const walk = (file: string, path: readonly string[]): void => {
      if (path.includes(file)) circles.push([...path.slice(path.indexOf(file)), file].join(' → '));
      else for (const { from, to } of edges) if (from === file) walk(to, [...path, file]);
    };
    walk('core/arbiter.ts', []);
    expect(circles).toEqual([]);
  });
});

describe('files', () => {
  it(`have at most ${MOST_LINES} lines`, () => {
    const long = sources
      .map((file) => ({ file, lines: read(file).split('\n').length - 1 }))
      .filter(({ lines }) => lines > MOST_LINES);
    expect(long).toEqual([]);
  });
});

describe('the core’s purity', () => {
  const folder = mkdtempSync(join(tmpdir(), 'berth-tidy-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const PLANTED: Readonly<Record<string, string>> = {
    'node:fs': `import { readFileSync } from 'node:fs';\nexport const text = readFileSync('x', 'utf8');`,
    'a package': `import { z } from 'zod';\nexport const schema = z.string();`,
    'another part': `import { asBerthError } from '../errors.ts';\nexport const wrap = asBerthError;`,
    'types of another part': `import type { ErrorCode } from '../errors.ts';\nexport const code: ErrorCode = 'internal';`,
    'Date.now': `export const now = (): number => Date.now();`,
    'new Date': `export const now = (): Date => new Date();`,
    'performance.now': `export const now = (): number => performance.now();`,
    'Math.random': `export const chance = (): number => Math.random();`,
    setTimeout: `export const later = (run: () => void): unknown => setTimeout(run, 1);`,
    queueMicrotask: `export const soon = (run: () => void): void => queueMicrotask(run);`,
    'process.env': `export const path = process.env['PATH'];`,
    console: `export const say = (text: string): void => console.log(text);`,
    Promise: `export const later = Promise.resolve(1);`,
    crypto: `export const id = crypto.randomUUID();`,
  };

  function lint(): Map<string, string> {
    mkdirSync(join(folder, 'src', 'core'), { recursive: true });
    copyFileSync(join(ROOT, '.oxlintrc.json'), join(folder, '.oxlintrc.json'));
    const names = Object.keys(PLANTED);
    for (const [index, name] of names.entries()) {
      writeFileSync(join(folder, 'src', 'core', `fault${index}.ts`), `${PLANTED[name]}\n`);
    }
    writeFileSync(
      join(folder, 'src', 'core', 'pure.ts'),
      `import { MILLI } from './ids.ts';\nexport const two = 2 * MILLI;\n`,
    );
    const oxlint = join(ROOT, 'node_modules', 'oxlint', 'bin', 'oxlint');
    const { stdout } = spawnSync(process.execPath, [oxlint, '--format=json', 'src'], { cwd: folder, encoding: 'utf8' });
    const { diagnostics } = JSON.parse(stdout) as { diagnostics: { code: string; filename: string }[] };
    const found = new Map<string, string>();
    for (const { code, filename } of diagnostics) {
      const index = /fault(\d+)\.ts$/.exec(filename)?.[1];
      const name = index === undefined ? filename : (names[Number(index)] ?? filename);
      if (code.includes('no-restricted-')) found.set(name, code);
    }
    return found;
  }

  it('is guarded by lint: each planted fault is found, and nothing is found where there is none', () => {
    expect([...lint().keys()].toSorted()).toEqual(Object.keys(PLANTED).toSorted());
  });

  it('has nothing asynchronous in it, and no way round the lint', () => {
    const impure = /\b(?:async|await|globalThis|Symbol\.asyncIterator|oxlint-disable|eslint-disable)\b/;
    expect(sources.filter((file) => partOf(file) === 'core' && impure.test(read(file)))).toEqual([]);
  });
});

describe('error codes', () => {
  it('are the only ones with which the core refuses', () => {
    // A refusal code that is no error code makes this type `never`, and the assignment an error.
    type Refusals = [RefusalCode] extends [ErrorCode] ? 'all known' : never;
    const known: Refusals = 'all known';
    expect(known).toBe('all known');
    const [, union = ''] = /export type RefusalCode =([^;]+);/.exec(read('core/actions.ts')) ?? [];
    const codes = [...union.matchAll(/'(\w+)'/g)].map(([, code]) => code);
    expect(codes.length).toBeGreaterThan(5);
    expect(codes.filter((code) => !Object.hasOwn(ERRORS, code ?? ''))).toEqual([]);
  });

  it('are each used somewhere', () => {
    const rest = sources
      .filter((file) => file !== 'errors.ts')
      .map(read)
      .join('\n');
    expect(Object.keys(ERRORS).filter((code) => !rest.includes(`'${code}'`))).toEqual([]);
  });
});
