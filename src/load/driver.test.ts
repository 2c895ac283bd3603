/** The driver against a server made here, whose answers each test writes. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { MILLI, SECOND } from '../core/ids.ts';
import type { DriveOptions, Driven, LoadRecord } from './driver.ts';
import { drive } from './driver.ts';
import type { PlannedConversation, PlannedTurn } from './plan.ts';

interface Received {
  readonly path: string;
  readonly key: string | undefined;
  readonly body: {
    readonly model: string;
    readonly messages?: readonly { readonly role: string; readonly content: string }[];
    readonly prompt?: string;
    readonly max_tokens: number;
    readonly service_tier?: string;
  };
}

const received: Received[] = [];
let answer: (response: ServerResponse, request: Received) => void = () => {};
const server = createServer((incoming: IncomingMessage, response) => {
  let text = '';
  incoming.on('data', (part: Buffer) => (text += part.toString()));
  incoming.on('end', () => {
    const body = JSON.parse(text) as Received['body'];
    const request = { path: incoming.url ?? '', key: incoming.headers.authorization, body };
    received.push(request);
    answer(response, request);
  });
});
let url = '';
beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(() => {
  received.length = 0;
  server.closeAllConnections();
});
afterAll(() => server.close());

const piece = (text: string): string => `data: ${JSON.stringify({ choices: [{ delta: { content: text } }] })}\n\n`;
const USAGE = { prompt_tokens: 21, completion_tokens: 2, prompt_tokens_details: { cached_tokens: 8 } };
/** A role first, which is no text; then the words; then the count. */
function say(response: ServerResponse, ...words: readonly string[]): void {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  response.write('data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n');
  for (const word of words) response.write(piece(word));
  response.end(`data: ${JSON.stringify({ choices: [], usage: USAGE })}\n\ndata: [DONE]\n\n`);
}

const turn = (rest: Partial<PlannedTurn> = {}): PlannedTurn => ({
  thinkMicros: 0,
  promptTokens: 6,
  maxTokens: 2,
  cancelAfter: null,
  ...rest,
});
const conversation = (id: number, rest: Partial<PlannedConversation> = {}): PlannedConversation => ({
  id,
  startMicros: 0,
  model: 'm',
  tenant: 't',
  priority: 'interactive',
  turns: [turn()],
  ...rest,
});
const play = (conversations: Iterable<PlannedConversation>, rest: Partial<DriveOptions> = {}): Promise<Driven> =>
  drive({
    url,
    api: 'chat',
    keyOf: () => null,
    conversations,
    concurrency: null,
    durationMicros: null,
    graceMicros: 5 * SECOND,
    timeoutMicros: 5 * SECOND,
    seed: 1,
    ...rest,
  });
const only = ({ records }: Driven): LoadRecord => {
  expect(records).toHaveLength(1);
  return records[0] as LoadRecord;
};

test('a request and what came back, as the server counted', async () => {
  answer = (response) => say(response, 'Hello', ' there');
  const driven = await play([conversation(0)], { keyOf: (tenant) => `sk-${tenant}`, fields: { ignore_eos: true } });
  const record = only(driven);
  expect(record).toMatchObject({ outcome: 'done', promptTokens: 21, cachedTokens: 8, outputTokens: 2, turn: 0 });
  expect(record.piecesAt).toHaveLength(2);
  expect(record.intendedAt).toBe(0);
  expect(record.sentAt).toBeLessThanOrEqual(record.piecesAt[0] ?? 0);
  expect(received[0]).toMatchObject({
    path: '/v1/chat/completions',
    key: 'Bearer sk-t',
    body: { model: 'm', max_tokens: 2, stream: true, stream_options: { include_usage: true }, ignore_eos: true },
  });
  expect(received[0]?.body.messages?.[0]?.content.split(' ')).toHaveLength(6);
  expect(driven.unsent).toBe(0);
});

test('turns bring the whole conversation, in messages or as text; no two conversations begin alike', async () => {
  answer = (response) => say(response, 'Yes', '.');
  const turns = [turn(), turn()];
  await play([conversation(0, { turns }), conversation(1)], { concurrency: 1 });
  const [first, second, other] = received.map(({ body }) => body.messages ?? []);
  expect(second?.map(({ role }) => role)).toEqual(['user', 'assistant', 'user']);
  expect(second?.[0]).toEqual(first?.[0]);
  expect(second?.[1]?.content).toBe('Yes.');
  expect(other?.[0]?.content).not.toBe(first?.[0]?.content);
  received.length = 0;
  await play([conversation(0, { turns, priority: 'batch' })], { api: 'completions' });
  expect(received[1]).toMatchObject({ path: '/v1/completions', body: { service_tier: 'flex' } });
  expect(received[1]?.body.prompt).toMatch(/^Question: .+\n\nAnswer:Yes\.\n\nQuestion: .+\n\nAnswer:$/);
});

test('an open loop goes on while nothing is answered, and times count from when requests were meant', async () => {
  const held: ServerResponse[] = [];
  answer = (response) => {
    held.push(response);
    // A closed loop would wait for ever: the first answer comes when the third request is there.
    if (held.length === 3) for (const each of held) say(each, 'late');
  };
  const starts = [0, 15, 30].map((at) => at * MILLI);
  const { records } = await play(starts.map((startMicros, id) => conversation(id, { startMicros })));
  const [first, , last] = records.toSorted((a, b) => a.conversation - b.conversation);
  expect(records.map(({ intendedAt }) => intendedAt).toSorted((a, b) => a - b)).toEqual(starts);
  expect((first?.piecesAt[0] ?? 0) - (last?.intendedAt ?? 0)).toBeGreaterThanOrEqual(0);
});

test('a driver that is held up itself says so, and hides nothing', async () => {
  answer = (response) => say(response, 'x');
  const blocked = function* (): Generator<PlannedConversation> {
    const until = performance.now() + 40;
    while (performance.now() < until);
    yield conversation(0, { startMicros: 5 * MILLI });
  };
  const driven = await play(blocked());
  const record = only(driven);
  expect(record.intendedAt).toBe(5 * MILLI);
  expect(record.sentAt - record.intendedAt).toBeGreaterThanOrEqual(30 * MILLI);
  expect(driven.overhead.lagMostMicros).toBeGreaterThanOrEqual(30 * MILLI);
});

test('a later turn is meant for its think time after the answer', async () => {
  answer = (response) => say(response, 'x');
  const { records } = await play([conversation(0, { turns: [turn(), turn({ thinkMicros: 12 * MILLI })] })]);
  expect((records[1]?.intendedAt ?? 0) - (records[0]?.endedAt ?? 0)).toBe(12 * MILLI);
});

test.each([
  [503, '{"error":{"code":"queue_full","message":"no room"}}', 'queue_full'],
  [503, '{"error":{"code":503,"type":"unavailable_error"}}', 'unavailable_error'],
  [502, 'Bad gateway', 'http_502'],
  [400, '{"error":{"code":"a text of somebody that is no code"}}', 'http_400'],
])('an answer of %i with %s is the error %s, and ends the conversation', async (status, text, code) => {
  answer = (response) => response.writeHead(status).end(text);
  const driven = await play([conversation(0, { turns: [turn(), turn(), turn()] })]);
  expect(only(driven)).toMatchObject({ outcome: code, piecesAt: [] });
  expect(driven.unsent).toBe(2);
});

test('an error in mid-stream, an end in mid-answer, and nobody there', async () => {
  answer = (response, { body }) => {
    response.writeHead(200).write(piece('Hel'));
    if (body.model === 'error') response.end('data: {"error":{"code":"engine_died"}}\n\n');
    else setImmediate(() => response.destroy());
  };
  expect(only(await play([conversation(0, { model: 'error' })])).outcome).toBe('engine_died');
  const cut = only(await play([conversation(0)]));
  expect(cut).toMatchObject({ outcome: 'stream_cut', promptTokens: 6, outputTokens: 1 });
  expect(only(await play([conversation(0)], { url: 'http://127.0.0.1:1' })).outcome).toBe('ECONNREFUSED');
});

test('it hangs up where the plan says so, and the conversation goes on', async () => {
  let closed = 0;
  answer = (response, { body }) => {
    response.on('close', () => closed++);
    response.writeHead(200).write(piece('one') + piece(' two') + piece(' three'));
    if (body.messages?.length === 3) response.end('data: [DONE]\n\n');
  };
  const turns = [turn({ cancelAfter: 2 }), turn()];
  const { records } = await play([conversation(0, { turns })]);
  expect(records.map(({ outcome, outputTokens }) => [outcome, outputTokens])).toEqual([
    ['cancelled', 2],
    ['done', 3],
  ]);
  expect(received[1]?.body.messages?.[1]?.content).toBe('one two');
  expect(closed).toBeGreaterThanOrEqual(1);
});

test('what takes too long is given up; what runs at the end is cut off', async () => {
  answer = (response) => response.writeHead(200).write(piece('slow'));
  expect(only(await play([conversation(0)], { timeoutMicros: 20 * MILLI })).outcome).toBe('timeout');
  const limits = { durationMicros: 10 * MILLI, graceMicros: 10 * MILLI };
  const driven = await play([conversation(0, { turns: [turn(), turn()] })], limits);
  expect(only(driven).outcome).toBe('cut_off');
  expect(driven.unsent).toBe(1);
  const stopped = new AbortController();
  stopped.abort();
  expect((await play([conversation(0)], { signal: stopped.signal })).records).toEqual([]);
});

test('a closed loop keeps so many going, and ends with its time although the plan does not', async () => {
  let [running, most] = [0, 0];
  answer = (response) => {
    most = Math.max(most, ++running);
    setImmediate(() => {
      running--;
      say(response, 'x');
    });
  };
  const endless = function* (): Generator<PlannedConversation> {
    for (let id = 0; ; id++) yield conversation(id);
  };
  const { records, unsent } = await play(endless(), { concurrency: 3, durationMicros: 60 * MILLI });
  expect(records.length).toBeGreaterThan(3);
  expect(most).toBeLessThanOrEqual(3);
  expect(unsent).toBe(0);
  expect(records.every(({ intendedAt }) => intendedAt < 60 * MILLI)).toBe(true);
});

test('progress is told while it runs', async () => {
  const seen: number[] = [];
  answer = (response) => {
    const release = setInterval(() => {
      if (seen.length === 0) return;
      clearInterval(release);
      say(response, 'x');
    }, 1);
  };
  await play([conversation(0)], { onProgress: ({ running }) => seen.push(running) });
  expect(seen[0]).toBe(1);
});
