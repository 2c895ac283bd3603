import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
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

test.each([
  [[], /name a trace with --trace FILE/],
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
  const again = await cli(null, ['simulate', '--cluster', 'profile.json', '--trace', 'trace.csv', '--json'], {
    cwd: folder,
  });
  expect(JSON.parse(again.out)).toMatchObject({ where: 'the profiled node', policies: [{ requests: 2, finished: 2 }] });
});
