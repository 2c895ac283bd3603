import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { CLUSTER } from '../../../test/support/cluster.ts';
import type { Ran } from '../stub-node.ts';
import { cli } from '../stub-node.ts';

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
  expect(JSON.parse(out)).toMatchObject({ column: 'honest', gpus: 2, policies: [{ policy: 'berth', requests: 50 }] });
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
