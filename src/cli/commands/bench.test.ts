/** `bench` against the real gateway with a stub node behind it. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { SECOND } from '../../core/ids.ts';
import type { Listening } from '../../gateway/listen.ts';
import type { LoadReport } from '../../load/report.ts';
import { showProgress } from '../bench-report.ts';
import { answerOf, cli, listen, stubModel, StubNode } from '../stub-node.ts';
import type { Ran } from '../stub-node.ts';

const folder = mkdtempSync(join(tmpdir(), 'berth-bench-cli-'));
const node = new StubNode([stubModel('smol'), stubModel('tiny')]);
let at: Listening;
beforeAll(async () => {
  at = await listen(node);
});
afterAll(async () => {
  await at.close();
  rmSync(folder, { recursive: true, force: true });
});
beforeEach(() => {
  node.submissions.length = 0;
  node.answer = () => answerOf('Hello', ' there.');
});
const bench = (...options: string[]): Promise<Ran> => cli(at, ['bench', ...options], { cwd: folder });

test('without options’ help it finds the models, and prints a line for each and one for all', async () => {
  const { code, out, err } = await bench('--requests', '12', '--concurrency', '3');
  expect({ code, err }).toEqual({ code: 0, err: '' });
  const [head, ...lines] = out.split('\n');
  expect(head).toMatch(/^MODEL +REQ +ERR +TTFT P50 +P95 +P99 +ITL P50 .* TOK\/S +GOOD %$/);
  expect(lines.slice(0, 3).map((line) => line.split(/ {3,}/)[0])).toEqual(
    expect.arrayContaining(['smol', 'tiny', 'all']),
  );
  expect(out).toMatch(/^total {5}12 of 12 answered in /m);
  expect(out).toMatch(/^goodput {3}100\.0 %, /m);
  expect(out).toMatch(/^switches {2}not told by this server$/m);
  expect(out).toMatch(/^own cost {2}sent .* late \(p99; /m);
  expect(node.submissions).toHaveLength(12);
  expect(node.submissions[0]?.request).toMatchObject({ maxTokens: 64, ignoreEos: true, sampling: { temperature: 0 } });
});

test('options become requests: models, lengths, urgency', async () => {
  const line = ['--requests', '5', '--models', 'tiny', '--output-tokens', '7', '--batch', '1', '--api', 'completions'];
  expect((await bench(...line, '--prompt-tokens', '3', '--rate', '1000', '--no-ignore-eos')).code).toBe(0);
  expect(node.submissions).toHaveLength(5);
  expect(node.submissions[0]).toMatchObject({
    model: 'tiny',
    priority: 'batch',
    request: { maxTokens: 7, ignoreEos: false },
  });
});

test('where both kinds were sent, each has its line', async () => {
  const mixed = await bench('--requests', '20', '--batch', '50%');
  expect(mixed.out).toMatch(/^PRIORITY +REQ .*\n(?:interactive|batch) .*\n(?:interactive|batch) /m);
  const { out } = await bench('--requests', '2', '--batch', '1');
  expect(out).not.toContain('PRIORITY');
});

test('an address may be a base URL as SDKs take it', async () => {
  const { code } = await cli(null, ['bench', `${at.url}/v1`, '--requests', '1']);
  expect(code).toBe(0);
  expect(node.submissions).toHaveLength(1);
});

test('it writes all figures, and a picture', async () => {
  writeFileSync(join(folder, 'keys'), 'team-a=sk-1\nteam-b=sk-2\n');
  const files = ['--json', 'out.json', '--plot', 'out.svg'];
  const { code, out } = await bench('--requests', '20', '--keys', 'keys', '--seed', '3', ...files);
  expect(code).toBe(0);
  expect(out).toMatch(/^TENANT +REQ /m);
  expect(out).toMatch(/^gap {7}\d+ weighted tokens between the tenants/m);
  const written = readFileSync(join(folder, 'out.json'), 'utf8');
  const told = JSON.parse(written) as LoadReport & { readonly seed: number };
  expect([told.seed, told.all.requests, told.all.outputTokens]).toEqual([3, 20, 220]);
  expect(told.tenants.map(({ name }) => name).toSorted()).toEqual(['team-a', 'team-b']);
  expect(written).not.toContain('sk-1');
  expect(readFileSync(join(folder, 'out.svg'), 'utf8')).toMatch(/^<svg .*<\/svg>\n$/s);
  const printed = await bench('--requests', '2', '--json', '-');
  expect(JSON.parse(printed.out)).toMatchObject({
    all: { requests: 2 },
    priorities: [{ name: 'interactive', requests: 2 }],
  });
});

test('a trace is played', async () => {
  const rows = ['00:00:00.001,q,30,4', '00:00:00.002,r,30,5'];
  writeFileSync(join(folder, 't.csv'), `Request Time,Model Name,Input Length,Output Length\n${rows.join('\n')}\n`);
  expect((await bench('--arrivals', 'trace:t.csv')).code).toBe(0);
  expect(node.submissions.map(({ model, request }) => [model, 'maxTokens' in request && request.maxTokens])).toEqual([
    ['smol', 4],
    ['tiny', 5],
  ]);
});

test('Ctrl-C ends it, with a report of what was', async () => {
  node.answer = () => [{ type: 'queued', position: 1 }];
  const handlers = new Set<() => void>();
  const running = cli(at, ['bench', '--models', 'smol'], {
    cwd: folder,
    onSignal: (handler) => {
      handlers.add(handler);
      return () => handlers.delete(handler);
    },
  });
  await expect.poll(() => node.submissions.length).toBeGreaterThan(0);
  for (const handler of handlers) handler();
  const { code, out, err } = await running;
  expect(code).toBe(8);
  expect(out).toMatch(/^errors {4}cut_off 8$/m);
  expect(err).toContain('interrupted');
  expect(handlers.size).toBe(0);
});

test.each([
  [['--concurrency', '2', '--rate', '1'], '--concurrency is a closed loop'],
  [['--arrivals', 'poisson'], '--arrivals: say how many a second with --rate'],
  [['--arrivals', 'trace:none.csv'], 'none.csv can’t be opened'],
  [['--arrivals', 'trace:x.csv', '--turns', '2'], '--turns: a trace'],
  [['--duration', 'long'], '--duration: expected a duration'],
  [['--models', 'a=2,b', '--zipf', '1'], '--zipf gives the models their weights'],
  [['--keys', 'nowhere'], '--keys: '],
  [['http://127.0.0.1:1', '--start'], '--start starts a node itself'],
])('%j is refused', async (options, message) => {
  const { code, err } = await bench('--requests', '1', ...options);
  expect(code).toBe(2);
  expect(err).toContain(message);
});

test('where nobody is, or nothing is answered, it says so and fails', async () => {
  expect(await cli(null, ['bench', '--requests', '1'])).toMatchObject({ code: 3, out: '' });
  const { code, out, err } = await bench('--requests', '2', '--models', 'absent');
  expect(code).toBe(5);
  expect(out).toMatch(/^errors {4}model_not_found 2$/m);
  expect(err).toContain('none of 2 requests was answered: model_not_found');
});

test('in a terminal it shows how far it is, and takes that away', async () => {
  const { err } = await cli(at, ['bench', '--duration', '400ms', '--rate', '50'], { stderrIsTty: true, cwd: folder });
  expect(err).toMatch(/\d s · (?:[6-9]\d|100) % · \d+ sent · \d+ running · 0 failed/);
  expect(err.endsWith('\r\u001b[K')).toBe(true);
});

test.each([
  ['30 s, of which a quarter is gone', { durationMicros: 30 * SECOND, requests: null }, ' · 25 %'],
  ['20 requests, of which half are answered', { durationMicros: null, requests: 20 }, ' · 50 %'],
  ['whichever comes first', { durationMicros: 10 * SECOND, requests: 20 }, ' · 75 %'],
  ['time that is up, while the last are answered', { durationMicros: 5 * SECOND, requests: null }, ' · 100 %'],
  ['a trace, whose end nobody knows', { durationMicros: null, requests: null }, ''],
])('how far it is: %s', (_, planned, share) => {
  const progress = { sent: 12, running: 2, ended: 10, failed: 1, elapsedMicros: 7.5 * SECOND };
  expect(showProgress(progress, planned)).toBe(`8 s${share} · 12 sent · 2 running · 1 failed`);
});

test('--start loads a node of its own', async () => {
  // Ports that are free, and a folder of its own: it must not meet a node of this machine.
  const env = { BERTH_HOME: folder, BERTH_PORT: '0', BERTH_ADMIN_PORT: '0' };
  const line = ['bench', '--start', '--engine', 'fake', '--requests', '4', '--output-tokens', '4', '--json', '-'];
  const { code, out, err } = await cli(null, line, { cwd: folder, env });
  expect({ code, err }).toEqual({ code: 0, err: '' });
  const { all, models, switches } = JSON.parse(out) as LoadReport & { readonly switches: number };
  expect([all.done, all.outputTokens]).toEqual([4, 16]);
  expect(['fake-small', 'fake-large']).toEqual(expect.arrayContaining(models.map(({ name }) => name)));
  expect(switches).toBe(models.length);
});
