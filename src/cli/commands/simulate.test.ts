import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { CLUSTER } from '../../../test/support/cluster.ts';
import { berthSetting } from '../../sim/columns.ts';
import { generate } from '../../sim/generate.ts';
import type { Profile } from '../../sim/profile.ts';
import { simulate as runSimulation } from '../../sim/simulate.ts';
import type { Ran } from '../stub-node.ts';
import { cli, stubTerminal } from '../stub-node.ts';
import type { SimulateOptions } from './simulate.ts';
import { simulateTrace } from './simulate.ts';

const folder = mkdtempSync(join(tmpdir(), 'berth-simulate-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
writeFileSync(join(folder, 'cluster.json'), JSON.stringify(CLUSTER));
writeFileSync(
  join(folder, 'trace.csv'),
  'Request Time,Model Name,Input Length,Output Length\n00:00:00.100,m_00,100,20\n00:00:00.200,m_01,100,20\n',
);
const simulate = (...options: string[]): Promise<Ran> =>
  cli(null, ['simulate', '--cluster', 'cluster.json', ...options], { cwd: folder });

test('simulate compares policies in a table', async () => {
  const { code, out, err } = await simulate('--trace', 'trace.csv', '--policy', 'berth,static');
  expect({ code, err }).toEqual({ code: 0, err: 'berth …\nstatic …\n' });
  const [head, ...rows] = out.trim().split('\n');
  expect(head).toMatch(/^POLICY +STRICT % .* DROPPED$/);
  expect(rows.map((row) => row.split(/ {3,}/).slice(0, 2))).toEqual([
    ['berth', '100.00'],
    ['static', '100.00'],
  ]);
});

test('simulate makes a trace, prints JSON and draws', async () => {
  const made = ['--generate', 'gamma', '--requests', '50', '--models', '6', '--tenants', '2'];
  const { code, out } = await simulate(...made, '--column', 'honest', '--plot', 'out.svg', '--json');
  expect(code).toBe(0);
  expect(JSON.parse(out)).toMatchObject({ where: '2 GPUs, honest', policies: [{ policy: 'berth', requests: 50 }] });
  expect(readFileSync(join(folder, 'out.svg'), 'utf8')).toMatch(/^<svg .*berth<\/text>\n<\/svg>\n$/s);
  expect((await simulate(...made, '--json')).out).toBe((await simulate(...made, '--json')).out);
});

test('simulate shows a table for each column, one above the other, or JSON by column', async () => {
  const columns = ['compat', 'honest', 'resident'];
  const { code, out, err } = await simulate('--trace', 'trace.csv', '--policy', 'berth,static', '--column', 'all');
  const told = columns.map((column) => `berth, ${column} …\nstatic, ${column} …\n`).join('');
  expect({ code, err }).toEqual({ code: 0, err: told });
  const tables = out.trimEnd().split('\n\n');
  expect(tables.map((text) => text.split('\n').map((line) => line.split(/ {3,}/)[0]))).toEqual(
    columns.map((column) => [`2 GPUs, ${column}`, 'POLICY', 'berth', 'static']),
  );
  interface Printed {
    readonly where: string;
    readonly policies: readonly object[];
    readonly columns: Readonly<Record<string, object>>;
  }
  const jsonOf = async (column: string): Promise<Printed> => {
    const ran = await simulate('--trace', 'trace.csv', '--column', column, '--json');
    return JSON.parse(ran.out) as Printed;
  };
  const all = await jsonOf('all');
  expect(Object.keys(all.columns)).toEqual(columns);
  for (const column of columns) {
    const { where, policies } = await jsonOf(column);
    expect(all.columns[column]).toEqual({ where, policies });
  }
});

test.each([
  [[], /name a trace with --trace FILE/],
  [['--trace', 'trace.csv', '--column', 'free'], /--column: "free" is none of compat, honest, resident, all/],
  [['--trace', 'trace.csv', '--column', 'all', '--plot', 'x.svg'], /--plot draws one column: name it/],
  [['--trace', 'none.csv'], /none\.csv can’t be opened/],
  [['--trace', 'trace.csv', '--policy', 'best'], /--policy: "best" is none of berth, aegaeon, /],
  [['--trace', 'trace.csv', '--gpus', '0'], /--gpus: expected a whole number from 1 on, received 0/],
  [['--trace', 'trace.csv', '--slo-scale', 'tight'], /--slo-scale: expected a number above 0, received tight/],
  [['--trace', 'cluster.json'], /is no row of a trace/],
])('simulate %j says what is wrong', async (options, message) => {
  const { code, err } = await simulate(...options);
  expect(code).toBe(2);
  expect(err).toMatch(message);
});

const made: SimulateOptions = {
  generate: 'poisson',
  cluster: 'cluster.json',
  policy: 'berth,lru-by-count',
  column: 'honest',
  sloScale: '1',
  models: '12',
  tenants: '1',
  zipf: '1',
  seed: '1',
  requests: '400',
  rate: '2',
};

async function withFaults(faults: string, more: Partial<SimulateOptions> = {}): Promise<string> {
  const terminal = stubTerminal({}, { cwd: folder });
  await simulateTrace(terminal.io, { ...made, ...more, faults });
  return terminal.out();
}

test('with faults it says what went wrong, how all requests ended, and what that cost', async () => {
  const [head, berth, lru] = (await withFaults('3,10')).trim().split('\n\n')[1]?.split('\n') ?? [];
  expect(head).toMatch(/^POLICY +CRASHES +HANGS .* OF THEM LOST +RECOMPUTED$/);
  const cells = (row = ''): string[] => row.split(/ {3,}/);
  const [name, crashes, , , , finished, cancelled, refused, failed] = cells(berth);
  expect(name).toBe('berth');
  expect(Number(crashes)).toBeGreaterThan(0);
  const ended = [finished, cancelled, refused, failed].map(Number).reduce((sum, count) => sum + count, 0);
  expect(ended).toBe(400);
  expect(cells(lru)[0]).toBe('lru-by-count');
  expect(await withFaults('3,10')).toBe(await withFaults('3,10'));
  expect(await withFaults('3,10', { json: true })).toMatch(/"requestsLost": \d+/);
});

test.each([
  ['', /--faults SEED: expected a whole number from 0 on, received /],
  ['1.5', /--faults SEED: expected a whole number from 0 on, received 1\.5/],
  ['1,0', /--faults SEED,RATE: expected a number above 0, received 0/],
  ['1,2,3', /--faults: expected SEED or SEED,RATE, received "1,2,3"/],
])('--faults %j says what is wrong', async (faults, message) => {
  await expect(async () => withFaults(faults)).rejects.toThrow(message);
});

test('profile makes of a journal what simulate takes for a cluster', async () => {
  const models = ['model-000', 'model-001'];
  const entries: object[] = [];
  runSimulation(
    generate({
      requests: 30,
      perSecond: 1,
      pattern: 'poisson',
      models: 2,
      tenants: 1,
      zipf: 0,
      seed: 1,
      meanPromptTokens: 50,
      meanOutputTokens: 40,
    }),
    {
      ...berthSetting(CLUSTER, { column: 'honest', gpus: 1, sloScale: 1, models }),
      onDecision: (_, now, events, actions) => void entries.push({ now, events, actions }),
    },
  );
  const lines = [{ journal: 'berth', version: 1 }, ...entries].map((line) => JSON.stringify(line));
  writeFileSync(join(folder, 'journal.jsonl'), `${lines.join('\n')}\n`);
  const { code, out } = await cli(null, ['profile', 'journal.jsonl'], { cwd: folder });
  expect(code).toBe(0);
  const ofTwo = entries.flatMap((entry) => [
    { device: 'cpu', now: 0, events: [], actions: [] },
    { device: 'gpu0', ...entry },
  ]);
  const text = [{ journal: 'berth', version: 1 }, ...ofTwo].map((line) => JSON.stringify(line)).join('\n');
  writeFileSync(join(folder, 'two.jsonl'), text);
  expect((await cli(null, ['profile', 'two.jsonl', '--device', 'gpu0'], { cwd: folder })).out).toBe(out);
  expect((await cli(null, ['profile', 'two.jsonl'], { cwd: folder })).err).toMatch('cpu, gpu0: say which');
  expect((await cli(null, ['profile', 'journal.jsonl', '--device', 'gpu1'], { cwd: folder })).err).toMatch(
    'there is no device gpu1',
  );
  // The simulated device's own: a step of 10.1 ms for one sequence, a load of 14 GB or 18 GB at 16 GB/s.
  const [small, middle] = (JSON.parse(out) as Profile).models;
  expect(small?.costs.moves.loadMicros).toBe(875_000);
  expect(middle?.costs.moves.loadMicros).toBe(1_125_000);
  expect((small?.costs.decode.base ?? 0) + (small?.costs.decode.perSequence ?? 0)).toBeCloseTo(10_100, -2);
  writeFileSync(join(folder, 'profile.json'), out);
  for (const [option, value] of [
    ['--gpus', '2'],
    ['--column', 'honest'],
  ] as const) {
    const refused = await cli(null, ['simulate', '--cluster', 'profile.json', '--trace', 'trace.csv', option, value], {
      cwd: folder,
    });
    expect(refused.code).toBe(2);
    expect(refused.err).toMatch(
      `${option}: profile.json is the profile of one device as it was measured; leave ${option} out`,
    );
  }
  const again = await cli(null, ['simulate', '--cluster', 'profile.json', '--trace', 'trace.csv', '--json'], {
    cwd: folder,
  });
  expect(JSON.parse(again.out)).toMatchObject({ where: 'the profiled node', policies: [{ requests: 2, finished: 2 }] });
});

const docs = join(import.meta.dirname, '..', '..', '..', 'docs');
/** What `docs/simulator.md` says to type, in the order of the page. */
const examples = [
  ...readFileSync(join(docs, 'simulator.md'), 'utf8').matchAll(/^berth (simulate .*?)(?: +#.*)?$/gm),
].map(([, words = '']) => words.split(' '));
/** The files that an example reads, by their paths in a clone. */
const filesOf = (words: readonly string[]): string[] =>
  words.filter((_, index) => ['--cluster', '--trace'].includes(words[index - 1] ?? ''));

cpSync(join(docs, 'examples'), join(folder, 'docs', 'examples'), { recursive: true });
const runnable = examples.filter((words) =>
  filesOf(words).every((file) => file.startsWith('docs/') && existsSync(join(folder, file))),
);

test('the page’s examples begin with some that need nothing but a clone', () => {
  expect(runnable.length).toBeGreaterThan(3);
  expect(examples.slice(0, runnable.length)).toEqual(runnable);
});

test.each(runnable.map((words) => [words.join(' '), words] as const))('berth %s runs', async (_, words) => {
  const { code, out, err } = await cli(null, [...words, '--requests', '60'], { cwd: folder });
  expect({ code, err }).toEqual({ code: 0, err: expect.stringMatching(/^(?:\S+(?:, \w+)? …\n)+$/) as string });
  expect(out).toMatch(words.includes('--json') ? /"requests": 60/ : /^berth +\d/m);
});
