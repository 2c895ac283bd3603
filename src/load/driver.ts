/**
 * Sends what a plan says, when it says, and writes down what came. Without coordinated omission: a request's times count from when it
 * was meant to be sent. An open loop sends by the clock, however slow the answers are; a later turn is meant to be sent its think time
 * after the answer before it, because nobody goes on with what was not said yet.
 */
import { setMaxListeners } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import type { Micros } from '../core/ids.ts';
import { SECOND } from '../core/ids.ts';
import { createMeter } from './overhead.ts';
import type { Overhead } from './overhead.ts';
import type { PlannedConversation, PlannedTurn } from './plan.ts';
import { ask } from './stream.ts';
import type { Answered, Outcome } from './stream.ts';
import type { Message } from './text.ts';
import { asText, wordsOf } from './text.ts';

/** One request and what became of it. Times are micros from the load's start; no text. */
export interface LoadRecord {
  readonly conversation: number;
  /** 0: the conversation's first. */
  readonly turn: number;
  readonly model: string;
  readonly tenant: string;
  readonly priority: 'interactive' | 'batch';
  readonly intendedAt: Micros;
  readonly sentAt: Micros;
  /** When each piece of text came. */
  readonly piecesAt: readonly Micros[];
  readonly endedAt: Micros;
  readonly outcome: Outcome;
  /** As the server counted; of one that tells nothing, of a cancelled one too: as planned, and a token for each piece. */
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly outputTokens: number;
}

export interface DriveOptions {
  /** Base address, such as `http://127.0.0.1:8420`. */
  readonly url: string;
  readonly api: 'chat' | 'completions';
  /** Keys by tenant; null: none is sent. */
  readonly keyOf: (tenant: string) => string | null;
  readonly conversations: Iterable<PlannedConversation>;
  /** Of a closed loop. null: open, by the plan's own times. */
  readonly concurrency: number | null;
  /** No request is sent that was meant to be sent later. null: until the plan ends. */
  readonly durationMicros: Micros | null;
  /** What has not ended so long after that is cut off. */
  readonly graceMicros: Micros;
  /** Of each request, from when it is sent. */
  readonly timeoutMicros: Micros;
  readonly seed: number;
  readonly tokensPerWord?: (model: string) => number;
  /** Fields of every body besides the usual ones. */
  readonly fields?: Readonly<Record<string, unknown>>;
  /** Ends the load now. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: Progress) => void;
}

export interface Progress {
  readonly sent: number;
  readonly running: number;
  readonly ended: number;
  readonly failed: number;
  readonly elapsedMicros: Micros;
}

export interface Driven {
  /** In the order of their ends. */
  readonly records: readonly LoadRecord[];
  /** Planned turns of conversations that had begun, which were never sent: the one before had failed, or the load was over. */
  readonly unsent: number;
  /** From the start to the last end. */
  readonly elapsedMicros: Micros;
  readonly overhead: Overhead;
}

/** Connections that an open loop may hold: what comes beyond is not sent and counts as failed, `too_many_open`. */
const MOST_OPEN = 8_192;
/** So seldom is progress told. */
const PROGRESS_MILLIS = 250;
/** The words are common ones: most tokenizers have a token for each. */
const TOKENS_PER_WORD = 1;
const REFUSED_PAUSE_MICROS = SECOND / 10;

export async function drive(options: DriveOptions): Promise<Driven> {
  const { concurrency, durationMicros, onProgress } = options;
  const origin = performance.now();
  const now = (): Micros => Math.round((performance.now() - origin) * 1_000);
  const over = new AbortController();
  // Each request that runs listens to it.
  setMaxListeners(0, over.signal);
  const stop = (): void => over.abort();
  options.signal?.addEventListener('abort', stop);
  if (options.signal?.aborted === true) stop();
  const deadline = durationMicros === null ? null : setTimeout(stop, (durationMicros + options.graceMicros) / 1_000);
  const meter = createMeter();
  const stage = createStage(options, now, over.signal, (lag) => meter.sent(lag));
  const ticks =
    onProgress === undefined
      ? null
      : setInterval(() => onProgress({ ...stage.progress(), elapsedMicros: now() }), PROGRESS_MILLIS);
  try {
    if (concurrency === null) await open(options.conversations, stage, now, over.signal);
    else await closed(options.conversations, concurrency, stage, now, over.signal);
  } finally {
    if (deadline !== null) clearTimeout(deadline);
    if (ticks !== null) clearInterval(ticks);
    options.signal?.removeEventListener('abort', stop);
  }
  return { records: stage.records, unsent: stage.unsent(), elapsedMicros: now(), overhead: meter.stop() };
}

type Stage = ReturnType<typeof createStage>;

/** Plays conversations, and keeps the records of all of them. */
function createStage(options: DriveOptions, now: () => Micros, signal: AbortSignal, sent: (lag: Micros) => void) {
  const records: LoadRecord[] = [];
  const until = options.durationMicros ?? Infinity;
  const url = new URL(options.api === 'chat' ? 'v1/chat/completions' : 'v1/completions', withSlash(options.url));
  let [begun, unsent, failed] = [0, 0, 0];

  const send = async (
    { id, model, tenant, priority }: PlannedConversation,
    planned: PlannedTurn,
    turn: number,
    intendedAt: Micros,
    messages: readonly Message[],
    keepText: boolean,
  ): Promise<Answered> => {
    const input = options.api === 'chat' ? { messages } : { prompt: asText(messages) };
    const body = {
      model,
      ...input,
      max_tokens: planned.maxTokens,
      stream: true,
      stream_options: { include_usage: true },
      temperature: 0,
      ...(priority === 'batch' ? { service_tier: 'flex' } : {}),
      ...options.fields,
    };
    const sentAt = now();
    const isTooMany = begun - records.length >= MOST_OPEN;
    begun++;
    sent(Math.max(0, sentAt - intendedAt));
    const answer: Answered = isTooMany
      ? { outcome: 'too_many_open', piecesAt: [], endedAt: sentAt, text: '', usage: null }
      : await ask({
          url,
          key: options.keyOf(tenant),
          body,
          timeoutMicros: options.timeoutMicros,
          cancelAfter: planned.cancelAfter,
          signal,
          now,
          keepText,
        });
    const { outcome, piecesAt, endedAt, usage } = answer;
    if (outcome !== 'done' && outcome !== 'cancelled') failed++;
    records.push({
      conversation: id,
      turn,
      model,
      tenant,
      priority,
      intendedAt,
      sentAt,
      piecesAt,
      endedAt,
      outcome,
      promptTokens: usage?.promptTokens ?? planned.promptTokens,
      cachedTokens: usage?.cachedTokens ?? 0,
      outputTokens: usage?.outputTokens ?? piecesAt.length,
    });
    return answer;
  };

  return {
    records,
    unsent: () => unsent,
    progress: () => ({ sent: begun, running: begun - records.length, ended: records.length, failed }),
    /** Resolves when its last answer has ended. */
    async converse(conversation: PlannedConversation, startAt: Micros): Promise<'ended' | 'failed' | 'too_late'> {
      const messages: Message[] = [];
      const perWord = options.tokensPerWord?.(conversation.model) ?? TOKENS_PER_WORD;
      let intendedAt = startAt;
      for (const [turn, planned] of conversation.turns.entries()) {
        const left = conversation.turns.length - turn;
        intendedAt += planned.thinkMicros;
        if (intendedAt < until) await sleepUntil(intendedAt, now, signal);
        if (intendedAt >= until || signal.aborted) {
          if (turn === 0) return 'too_late';
          unsent += left;
          return 'ended';
        }
        const words = Math.max(1, Math.round(planned.promptTokens / perWord));
        messages.push({ role: 'user', content: wordsOf(options.seed, conversation.id, turn, words) });
        const { outcome, text, endedAt } = await send(conversation, planned, turn, intendedAt, messages, left > 1);
        if (outcome !== 'done' && outcome !== 'cancelled') {
          unsent += left - 1;
          return 'failed';
        }
        messages.push({ role: 'assistant', content: text });
        intendedAt = endedAt;
      }
      return 'ended';
    },
  };
}

/** Begins each conversation at its time. */
async function open(
  conversations: Iterable<PlannedConversation>,
  stage: Stage,
  now: () => Micros,
  signal: AbortSignal,
): Promise<void> {
  const running = new Set<Promise<unknown>>();
  for (const conversation of conversations) {
    await sleepUntil(conversation.startMicros, now, signal);
    if (signal.aborted) break;
    const played = stage.converse(conversation, conversation.startMicros);
    running.add(played);
    void played.then(() => running.delete(played));
  }
  await Promise.all(running);
}

/** Keeps so many conversations going. */
async function closed(
  conversations: Iterable<PlannedConversation>,
  concurrency: number,
  stage: Stage,
  now: () => Micros,
  signal: AbortSignal,
): Promise<void> {
  const next = conversations[Symbol.iterator]();
  const work = async (): Promise<void> => {
    while (!signal.aborted) {
      const { done, value } = next.next();
      if (done === true) return;
      const end = await stage.converse(value, now());
      // An endless plan would be skipped over for ever.
      if (end === 'too_late') return;
      // A server that refuses at once must not be asked in a busy loop.
      if (end === 'failed') await sleepUntil(now() + REFUSED_PAUSE_MICROS, now, signal);
    }
  };
  await Promise.all(Array.from({ length: concurrency }, work));
}

async function sleepUntil(at: Micros, now: () => Micros, signal: AbortSignal): Promise<void> {
  const millis = (at - now()) / 1_000;
  if (millis <= 0 || signal.aborted) return;
  await pause(millis, undefined, { signal }).catch(() => undefined);
}

const withSlash = (url: string): string => (url.endsWith('/') ? url : `${url}/`);
