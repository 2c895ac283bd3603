/** `run` and `chat` against the real gateway with a stub node behind it. */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { PromptInput } from '../../engines/engine.ts';
import type { Listening } from '../../gateway/listen.ts';
import { answerOf, cli, listen, stubModel, StubNode } from '../stub-node.ts';
import { command } from './chat.ts';

const base = stubModel('base');
const node = new StubNode([stubModel('smol'), { ...base, details: { ...base.details, chatTemplate: false } }]);
let at: Listening;
beforeAll(async () => {
  at = await listen(node);
});
afterAll(() => at.close());
beforeEach(() => {
  node.submissions.length = 0;
  node.answer = () => answerOf('Hello', ' there.');
});

const inputs = (): PromptInput[] =>
  node.submissions.map(({ request }) => (request.kind === 'generate' ? request.input : { type: 'text', text: '' }));

test('run prints the answer and nothing else', async () => {
  expect(await cli(at, ['run', 'smol', 'Say', 'hello.'])).toEqual({ code: 0, out: 'Hello there.\n', err: '' });
  expect(node.submissions[0]?.request).toMatchObject({ sampling: { temperature: 0.7, topP: 0.9 } });
  expect(inputs()[0]).toMatchObject({ type: 'chat', messages: [{ role: 'user', content: 'Say hello.' }] });
});

test('run takes its prompt from a pipe, after the words of the command line', async () => {
  await cli(at, ['run', 'smol', 'Summarise:'], { typed: 'a long text\n' });
  expect(inputs()[0]).toMatchObject({ messages: [{ content: 'Summarise:\n\na long text' }] });
  expect(await cli(at, ['run', 'smol'], { typed: ' \n' })).toMatchObject({ code: 2, out: '' });
});

test('options of run become fields of the request', async () => {
  await cli(at, [
    'run',
    'smol',
    'hi',
    '--system',
    'Be brief.',
    '--max-tokens',
    '5',
    '--temperature',
    '0',
    '--seed',
    '3',
    '--keep-alive',
    '10m',
  ]);
  const [sent] = node.submissions;
  expect(sent?.request).toMatchObject({ maxTokens: 5, sampling: { temperature: 0, seed: 3 } });
  expect(sent?.keepAliveMicros).toBe(600e6);
  expect(inputs()[0]).toMatchObject({ messages: [{ role: 'system', content: 'Be brief.' }, { role: 'user' }] });
  const wrong = await cli(at, ['run', 'smol', 'hi', '--max-tokens', 'many']);
  expect(wrong).toMatchObject({
    code: 2,
    err: expect.stringContaining('maxTokens: expected a whole number from 1') as string,
  });
});

test('a base model continues the text', async () => {
  expect((await cli(at, ['run', 'base', 'The sea'])).code).toBe(0);
  expect(inputs()[0]).toEqual({ type: 'text', text: 'The sea' });
  await cli(at, ['run', 'smol', 'The sea', '--raw']);
  expect(inputs()[1]).toEqual({ type: 'text', text: 'The sea' });
  expect(await cli(at, ['chat', 'base'])).toMatchObject({
    code: 2,
    err: expect.stringContaining('berth run base TEXT') as string,
  });
});

test('in a terminal it shows what it waits for, and takes it away', async () => {
  const { err } = await cli(at, ['run', 'smol', 'hi'], { stderrIsTty: true });
  expect(err).toContain('queued 1…');
  expect(err).toContain('loading…');
  expect(err.endsWith('\r\u001b[K')).toBe(true);
});

test('--verbose tells tokens and times, --json the node’s whole answer', async () => {
  const { err } = await cli(at, ['run', 'smol', 'hi', '--verbose']);
  expect(err).toBe(
    '9 prompt tokens, 11 generated, 100.0 tokens/s, queue 0 µs, load 2 ms, first token 10 ms, total 110 ms, ended by stop\n',
  );
  const { out } = await cli(at, ['run', 'smol', 'hi', '--json']);
  expect(JSON.parse(out)).toMatchObject({
    object: 'chat.completion',
    choices: [{ message: { content: 'Hello there.' } }],
  });
});

test('an error in mid-answer keeps what was said and has its exit code', async () => {
  node.answer = () => [
    ...answerOf('Half').slice(0, -1),
    { type: 'failed', code: 'engine_died', message: 'it was killed' },
  ];
  expect(await cli(at, ['run', 'smol', 'hi'])).toEqual({
    code: 7,
    out: 'Half',
    err: 'error: it was killed.\nThe model’s process ended; Berth loads it again on the next request.\n',
  });
});

test('chat remembers, forgets, and ends', async () => {
  const typed = [
    'one',
    '',
    '"""',
    'two',
    'lines',
    '"""',
    '/clear',
    '/set temperature 0.5',
    '/set seed x',
    'three',
    '/bye',
    'four',
  ].join('\n');
  const { code, out, err } = await cli(at, ['chat', 'smol'], { typed });
  expect(code).toBe(0);
  expect(out).toBe('Hello there.\n'.repeat(3));
  expect(err).toContain('The conversation is forgotten.');
  expect(err).toContain('error: seed: expected a whole number');
  const said = inputs().map((input) =>
    input.type === 'chat' ? input.messages.map(({ role, content }) => `${role}: ${content}`) : [],
  );
  expect(said).toEqual([['user: one'], ['user: one', 'assistant: Hello there.', 'user: two\nlines'], ['user: three']]);
  expect(node.submissions[2]?.request).toMatchObject({ sampling: { temperature: 0.5 } });
});

test('a failed answer is told, and the question isn’t kept', async () => {
  let asked = 0;
  node.answer = () =>
    asked++ === 0 ? [{ type: 'failed', code: 'queue_timeout', message: 'too long' }] : answerOf('Yes.');
  const { code, out, err } = await cli(at, ['chat', 'smol'], { typed: 'one\ntwo\n' });
  expect([code, out]).toEqual([0, 'Yes.\n']);
  expect(err).toContain('error: too long');
  expect(inputs()[1]).toMatchObject({ messages: [{ content: 'two' }] });
});

test('an unknown command of the chat is told with the known ones', () => {
  const talk = { messages: [], system: null, fields: {} };
  expect(command('/nonsense', talk)).toContain('/bye');
  expect(command('/set system Be kind.', talk)).toBe('');
  expect(command('/show', talk)).toBe('{"system":"Be kind.","messages":0}\n');
});
