/** KV that outlives its request, on a real runner: on the device, in a file, across a sleep of the model. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gemmaPath, smollm2Path } from '../../../test/models.ts';
import { kvEntryId, tenantId } from '../../core/ids.ts';
import type { KvEvent, KvFile, KvGrant, KvPlan, TokenLogprob } from '../engine.ts';
import type { Answer } from './runner-harness.ts';
import { launchOf, RunnerHarness, textRequest } from './runner-harness.ts';

const folder = mkdtempSync(join(tmpdir(), 'berth-kv-'));
afterAll(async () => {
  await RunnerHarness.stopAll();
  rmSync(folder, { recursive: true, force: true });
});

const file = (name: string, more: Partial<KvFile> = {}): KvFile => ({
  path: join(folder, `${name}.kv`),
  tenantId: tenantId('t'),
  fingerprint: 'f',
  ...more,
});
const plan = (name: string, restore: KvFile | null = null): KvPlan => ({ entryId: kvEntryId(name), restore });
const grant = (name: string): KvGrant => ({ ...file(name), entryId: kvEntryId(name), bytes: 1e9, label: { some: 1 } });

const story = 'The harbour master counted the ships of the evening, one after the other. '.repeat(20);

function usageOf({ last }: Answer) {
  if (last.type !== 'finished') throw new Error(`it ended with ${last.type}`);
  return last.usage;
}

const acceptedOf = ({ events }: Answer) => events.find((event) => event.type === 'accepted');

/** Until the runner says so of this entry. */
async function heard<T extends KvEvent['type']>(
  runner: RunnerHarness,
  type: T,
  name: string,
): Promise<Extract<KvEvent, { type: T }>> {
  for (;;) {
    const { event } = await runner.message('kv');
    if (event.type === type && event.entryId === name) return event as Extract<KvEvent, { type: T }>;
  }
}

/** Two tokens this close, in nats, may change places when the same text is computed in batches of another shape. */
const NEAR_TIE_NATS = 0.5;

/** The same text, or one that parts from it where the two likeliest tokens are as good as equal. */
function expectSame(one: Answer, other: Answer): void {
  const at = one.tokenIds.findIndex((token, index) => token !== other.tokenIds[index]);
  if (at < 0) return expect(one.text).toBe(other.text);
  const [a, b] = [one, other].map(({ events }) => {
    const { top } = events.flatMap((event) => (event.type === 'tokens' ? (event.logprobs ?? []) : []))[
      at
    ] as TokenLogprob;
    return (top[0]?.logprob ?? 0) - (top[1]?.logprob ?? -Infinity);
  }) as [number, number];
  expect([Math.max(a, b), one.text, other.text]).toEqual([expect.toSatisfy(isNearTie), one.text, other.text]);
}
const isNearTie = (gap: number): boolean => gap <= NEAR_TIE_NATS;

describe.each([
  ['SmolLM2', smollm2Path],
  ['Gemma', gemmaPath],
])('KV of %s', (name, path) => {
  const runner = new RunnerHarness();
  const launch = launchOf(path(), { contextTokens: 1024, kvTokens: 2048 });
  let first: Answer;
  const prompt = `${story}Then`;
  const next = (): string => `${prompt}${first.text} And so`;
  /** What the second turn says with nothing at hand. */
  let cold: Answer;

  const ask = async (text: string, kv?: KvPlan, more: Parameters<typeof textRequest>[1] = {}): Promise<Answer> => {
    const request = textRequest(text, {
      maxTokens: 24,
      ignoreEos: true,
      logprobs: 2,
      ...more,
      ...(kv === undefined ? {} : { kv }),
    });
    const [answer] = await runner.ask(request);
    return answer as Answer;
  };

  beforeAll(async () => {
    runner.hasWholeSteps = true;
    await runner.message('started');
    await runner.load(launch);
    first = await ask(prompt, plan(`${name}-first`));
    await heard(runner, 'kept', `${name}-first`);
    cold = await ask(next(), undefined, { tenantId: tenantId('cold') });
  });

  it('is there for the next turn, which computes only what is new and says the same', async () => {
    const warm = await ask(next(), plan(`${name}-second`));
    const { promptTokens, cachedTokens } = usageOf(warm);
    expect(promptTokens - cachedTokens).toBeLessThan(30);
    expect(usageOf(cold).cachedTokens).toBe(0);
    expectSame(warm, cold);
    await heard(runner, 'kept', `${name}-second`);
  });

  it('is not there for another tenant', async () => {
    expect(usageOf(await ask(next(), undefined, { tenantId: tenantId('other') })).cachedTokens).toBe(0);
  });

  it('of those who come together is computed once', async () => {
    const together = ['one', 'two'].map((end) =>
      textRequest(`Together. ${story}${end}`, { maxTokens: 2, ignoreEos: true, tenantId: tenantId('together') }),
    );
    const [, second] = (await runner.ask(...together)) as [Answer, Answer];
    expect(usageOf(second).promptTokens - usageOf(second).cachedTokens).toBeLessThan(20);
  });

  it('goes into a file when the model falls asleep, and comes back from it', async () => {
    runner.tell({ type: 'grantKv', grant: grant(`${name}-second`) });
    runner.tell({ type: 'sleep' });
    const saved = await heard(runner, 'saved', `${name}-second`);
    const { path: at } = file(`${name}-second`);
    const seen = statSync(at);
    expect([seen.size, seen.mode & 0o777]).toEqual([saved.bytes, 0o600]);
    await runner.message('asleep');
    await runner.load(launch);
    const answer = await ask(next(), plan(`${name}-third`, file(`${name}-second`)));
    expect(acceptedOf(answer)).toMatchObject({ restored: 'yes' });
    expect(usageOf(answer).promptTokens - usageOf(answer).cachedTokens).toBe(1);
    expectSame(answer, cold);
  });

  it.each([
    ['of another tenant', file(`${name}-second`, { tenantId: tenantId('other') })],
    ['of another model', file(`${name}-second`, { fingerprint: 'another' })],
    ['that is not there', file('absent')],
  ])('is computed rather than taken from a file %s', async (which, restore) => {
    const answer = await ask(next(), plan(which, restore), { tenantId: tenantId(which) });
    expect(acceptedOf(answer)).toMatchObject({ restored: 'refused', cachedTokens: 0 });
    expectSame(answer, cold);
  });

  it('is computed rather than taken from a file with a flipped bit, or one cut off', async () => {
    const whole = readFileSync(file(`${name}-second`).path);
    runner.tell({ type: 'sleep' });
    await runner.message('asleep');
    await runner.load(launch);
    for (const [index, damaged] of [
      Buffer.from(whole).fill(whole[whole.length - 1000] === 0 ? 1 : 0, whole.length - 1000, whole.length - 999),
      whole.subarray(0, whole.length - 4096),
      whole.subarray(0, 20),
      Buffer.alloc(0),
    ].entries()) {
      const broken = file(`${name}-broken-${index}`);
      writeFileSync(broken.path, damaged);
      const answer = await ask(next(), plan(`${name}-x${index}`, broken));
      expect(acceptedOf(answer)).toMatchObject({ restored: 'refused' });
      expectSame(answer, cold);
      runner.tell({ type: 'dropKv', entryId: kvEntryId(`${name}-x${index}`) });
    }
  });

  it('of a cancelled request is kept if asked for, and it goes on where it was', async () => {
    const request = textRequest('Once upon a time there was a lighthouse keeper who', {
      maxTokens: 200,
      ignoreEos: true,
      tenantId: tenantId('reader'),
      kv: plan(`${name}-cut`),
    });
    runner.tell({ type: 'submit', request });
    runner.slice();
    const tokens = await runner.until('40 tokens', () => {
      const sent = runner
        .eventsOf(request.requestId)
        .flatMap((event) => (event.type === 'tokens' ? event.tokenIds : []));
      return sent.length >= 40 ? sent : undefined;
    });
    runner.tell({ type: 'cancel', requestId: request.requestId, keep: true });
    const kept = await heard(runner, 'kept', `${name}-cut`);
    expect(kept.tokens).toBeGreaterThan(40);
    const { requestId } = textRequest('');
    const kv = plan(`${name}-cut-2`);
    const going = { ...request, requestId, kv, resumeTokens: tokens, maxTokens: tokens.length + 8 };
    const [resumed] = await runner.ask(going);
    const { kv: _, ...unkept } = { ...going, tenantId: tenantId('fresh'), resumeTokens: [] };
    const [whole] = await runner.ask({ ...unkept, requestId: textRequest('').requestId });
    expect(usageOf(resumed as Answer).cachedTokens).toBe(usageOf(resumed as Answer).promptTokens);
    expect([...tokens, ...(resumed as Answer).tokenIds]).toEqual((whole as Answer).tokenIds);
  });

  it('of a long text is gone on from far before its end while it is on the device', async () => {
    const long = `${story}${story}`;
    const tenant = { tenantId: tenantId('branches') };
    expect(usageOf(await ask(long, plan(`${name}-trunk`), tenant)).promptTokens).toBeGreaterThan(512);
    await heard(runner, 'kept', `${name}-trunk`);
    // Others use the cells that are free, and would use those that a window has left.
    await ask(`Elsewhere. ${story}`, undefined, { tenantId: tenantId('passer-by') });
    const half = `${story}But then`;
    for (const text of [long, half]) {
      const branch = await ask(text, undefined, tenant);
      expect(usageOf(branch).promptTokens - usageOf(branch).cachedTokens).toBeLessThan(10);
      expectSame(branch, await ask(text, undefined, { tenantId: tenantId(`cold-${text.length}`) }));
    }
    runner.tell({ type: 'dropKv', entryId: kvEntryId(`${name}-trunk`) });
  });

  // Gemma's sliding window is 512 tokens: what lies behind it at the end is in no file, what lay behind it at the prompt's end is.
  it('of a long text comes back at its end and at its prompt’s, with a window nowhere else', async () => {
    const long = `${story}${story}`;
    const one = await ask(long, plan(`${name}-long`));
    expect(usageOf(one).promptTokens).toBeGreaterThan(512);
    await heard(runner, 'kept', `${name}-long`);
    runner.tell({ type: 'grantKv', grant: grant(`${name}-long`) });
    runner.tell({ type: 'sleep' });
    await heard(runner, 'saved', `${name}-long`);
    await runner.message('asleep');
    await runner.load(launch);
    const further = `${long}${one.text} Far away`;
    const warm = await ask(further, plan(`${name}-long-2`, file(`${name}-long`)));
    expect(acceptedOf(warm)).toMatchObject({ restored: 'yes' });
    runner.tell({ type: 'dropKv', entryId: kvEntryId(`${name}-long-2`) });
    expectSame(warm, await ask(further, undefined, { tenantId: tenantId('long') }));
    const other = `${long} But another end`;
    const branch = await ask(other, plan(`${name}-long-3`, file(`${name}-long`)));
    expect(acceptedOf(branch)).toMatchObject({ restored: 'yes' });
    expect(usageOf(branch).promptTokens - usageOf(branch).cachedTokens).toBeLessThan(10);
    expectSame(branch, await ask(other, undefined, { tenantId: tenantId('other-end') }));
    runner.tell({ type: 'dropKv', entryId: kvEntryId(`${name}-long-3`) });
    const early = await ask(`${story}In the end`, plan(`${name}-long-4`, file(`${name}-long`)));
    expect(acceptedOf(early)).toMatchObject({ restored: name === 'Gemma' ? 'not-needed' : 'yes' });
  });

  it('leaves nothing behind that is not whole', () => {
    expect(readdirSync(folder).filter((entry) => !entry.endsWith('.kv'))).toEqual([]);
  });
});
