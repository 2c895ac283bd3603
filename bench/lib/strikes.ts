/** A stream whose runner is killed, against the same without a kill. */
import { setTimeout as pause } from 'node:timers/promises';
import type { Answer, Ask, StreamToken } from './client.ts';
import { ask } from './client.ts';
import { holderOf } from './processes.ts';
import type { Random } from './random.ts';
import type { Server } from './servers.ts';

/** The likeliest tokens that are told with each token. */
const TOP = 5;
const PROMPT_WORDS: readonly [number, number] = [4, 120];
const OUTPUT_TOKENS: readonly [number, number] = [16, 64];
/** One in so many kills comes before the first token, while the stream waits or its prompt is read. */
const EARLY_EVERY = 5;
/** A kill comes so long after the stream began, or after a token: up to the longest. */
const EARLY_MILLIS = 400;
const AFTER_TOKEN_MILLIS = 30;
/** A kill that comes too late is tried again with a new text; so many for each that is wanted. */
const MOST_TRIES = 20;

export interface Strike {
  readonly model: string;
  readonly maxTokens: number;
  readonly struck: Answer;
  readonly undisturbed: Answer;
  /** Tokens that the client had when the runner was killed. */
  readonly tokensBefore: number;
  /** From the kill, or from the token before where one was still on its way, until the stream went on. */
  readonly resumeMillis: number;
}

export interface Struck {
  readonly strikes: readonly Strike[];
  /** Streams that had ended before their kill came; they are not counted. */
  readonly late: readonly Answer[];
}

export interface Target {
  readonly server: Server;
  readonly model: string;
  /** The name of its file, which only its runner has mapped. */
  readonly file: string;
  /** Which process to kill, of those below the server; left out: the one that has the file. */
  readonly victim?: (server: number) => number | null;
  /** Of two tenants, so that neither has KV of the other: both texts are computed from their beginning, in the same shape. */
  readonly keys: { readonly struck: string; readonly undisturbed: string };
}

/** So many kills -9 of the model's runner, each at a random moment of a stream of its own, one after the other. */
export async function strike(target: Target, kills: number, random: Random): Promise<Struck> {
  const { server, model, file, keys, victim: find = (pid: number) => holderOf(pid, file) } = target;
  const strikes: Strike[] = [];
  const late: Answer[] = [];
  const stream = (key: string, prompt: string, maxTokens: number, onChunk?: Ask['onChunk']): Promise<Answer> =>
    ask({
      url: server.url,
      model,
      prompt,
      maxTokens,
      extra: { ignore_eos: true, logprobs: TOP },
      timeoutMillis: 60_000,
      key,
      ...(onChunk !== undefined && { onChunk }),
    });
  while (strikes.length < kills) {
    if (late.length > kills * MOST_TRIES) throw new Error(`${model}: its streams end before they can be struck`);
    const prompt = random.words(random.between(...PROMPT_WORDS));
    const maxTokens = random.between(...OUTPUT_TOKENS);
    const isEarly = random.between(1, EARLY_EVERY) === 1;
    const afterTokens = isEarly ? 0 : random.between(1, maxTokens - 1);
    const millis = random.next() * (isEarly ? EARLY_MILLIS : AFTER_TOKEN_MILLIS);
    const started = performance.now();
    const moment = Promise.withResolvers<void>();
    let ended = false;
    const answering = stream(keys.struck, prompt, maxTokens, (count) => {
      if (count === afterTokens) moment.resolve();
    }).finally(() => {
      ended = true;
      moment.resolve();
    });
    if (afterTokens > 0) await moment.promise;
    await pause(millis);
    const victim = ended ? null : find(server.pid);
    if (victim === null) {
      const answer = await answering;
      if (answer.error !== null) throw new Error(`${model}: ${answer.error}`);
      late.push(answer);
      continue;
    }
    process.kill(victim, 'SIGKILL');
    const killedAt = performance.now() - started;
    const struck = await answering;
    const undisturbed = await stream(keys.undisturbed, prompt, maxTokens);
    if (undisturbed.error !== null) throw new Error(`${model}, undisturbed: ${undisturbed.error}`);
    strikes.push({ model, maxTokens, struck, undisturbed, ...pauseOf(struck, killedAt) });
  }
  return { strikes, late };
}

/** Where the stream stopped: the longest wait for a chunk that ended after the kill. */
function pauseOf({ chunkMillis }: Answer, killedAt: number): Pick<Strike, 'resumeMillis' | 'tokensBefore'> {
  let resumeMillis = 0;
  for (const [index, at] of chunkMillis.entries()) {
    const since = Math.max(killedAt, chunkMillis[index - 1] ?? 0);
    if (at > killedAt) resumeMillis = Math.max(resumeMillis, at - since);
  }
  return { resumeMillis, tokensBefore: chunkMillis.filter((at) => at <= killedAt).length };
}

export interface Parting {
  readonly position: number;
  /** How much likelier each side found its own token than the other's, in nats; the larger of both. */
  readonly gap: number;
}

/** Where two streams of tokens part; null: nowhere. */
export function partingOf(one: readonly StreamToken[], other: readonly StreamToken[]): Parting | null {
  const length = Math.max(one.length, other.length);
  for (let position = 0; position < length; position++) {
    const [a, b] = [one[position], other[position]];
    if (a === undefined || b === undefined) return { position, gap: Infinity };
    if (a.text !== b.text) return { position, gap: Math.max(gapTo(a, b.text), gapTo(b, a.text)) };
  }
  return null;
}

const gapTo = ({ logprob, top }: StreamToken, text: string): number => logprob - (top[text] ?? -Infinity);

/** By how much the gap between the two likeliest tokens differs, of each token up to where the streams part; in nats. */
export function gapDifferences(one: readonly StreamToken[], other: readonly StreamToken[]): number[] {
  const end = partingOf(one, other)?.position ?? one.length;
  return one.slice(0, end).flatMap((a, index) => {
    const b = other[index] as StreamToken;
    const second = Object.entries(a.top)
      .filter(([text]) => text !== a.text)
      .toSorted(([, x], [, y]) => y - x)[0]?.[0];
    if (second === undefined) return [];
    const difference = Math.abs(gapTo(a, second) - gapTo(b, second));
    return Number.isFinite(difference) ? [difference] : [];
  });
}
