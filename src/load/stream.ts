/**
 * One request to an OpenAI-compatible server, its answer streamed. Never rejects: what went wrong is a code in what it returns. By
 * node:http and not by fetch, whose pool hands out connections that the server is about to close; each request has its own.
 */
import type { ClientRequest, IncomingMessage } from 'node:http';
import { Agent, request as httpRequest } from 'node:http';
import { Agent as TlsAgent, request as httpsRequest } from 'node:https';
import { createParser } from 'eventsource-parser';
import type { Micros } from '../core/ids.ts';

export interface Question {
  /** The whole address of the endpoint. */
  readonly url: URL;
  readonly key: string | null;
  readonly body: Readonly<Record<string, unknown>>;
  readonly timeoutMicros: Micros;
  /** Hangs up after so many pieces of text. null: never. */
  readonly cancelAfter: number | null;
  /** The load is over: hangs up. */
  readonly signal: AbortSignal;
  readonly now: () => Micros;
  /** Keeps the answer's text, for a next turn. */
  readonly keepText: boolean;
}

/**
 * `done`; `cancelled`: we hung up, as planned; `cut_off`: we hung up because the load was over; else what went wrong: the server's
 * own code, `http_STATUS`, `timeout`, `stream_cut` (ended in mid-answer), or the system's (`ECONNREFUSED`).
 */
export type Outcome = string;

export interface Answered {
  readonly outcome: Outcome;
  /** When each piece of text came. */
  readonly piecesAt: readonly Micros[];
  readonly endedAt: Micros;
  readonly text: string;
  /** By the server's count; null: it tells none. */
  readonly usage: Usage | null;
}

export interface Usage {
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly outputTokens: number;
}

interface Chunk {
  readonly choices?: readonly {
    readonly text?: string | null;
    readonly delta?: { readonly content?: string | null; readonly reasoning_content?: string | null };
    readonly finish_reason?: string | null;
  }[];
  readonly usage?: {
    readonly prompt_tokens?: number;
    readonly completion_tokens?: number;
    readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null;
  } | null;
  readonly error?: unknown;
}

const agents = { http: new Agent({ keepAlive: false }), https: new TlsAgent({ keepAlive: false }) };
/** Of an error's body; its text is never kept. */
const MOST_ERROR_CHARACTERS = 16 * 1024;
/** Codes are shown: nothing that could be a text of somebody. */
const CODE = /^[\w.-]{1,64}$/;

export function ask(question: Question): Promise<Answered> {
  const { now, signal, cancelAfter, keepText } = question;
  const { promise, resolve } = Promise.withResolvers<Answered>();
  const piecesAt: Micros[] = [];
  let text = '';
  let usage: Usage | null = null;
  let isWhole = false;
  let failure: string | null = null;
  let ended = false;
  let outgoing: ClientRequest | null = null;

  const end = (outcome: Outcome): void => {
    if (ended) return;
    ended = true;
    clearTimeout(timer);
    signal.removeEventListener('abort', cutOff);
    resolve({ outcome, piecesAt, endedAt: now(), text, usage });
    outgoing?.destroy();
  };
  const cutOff = (): void => end('cut_off');
  const timer = setTimeout(() => end('timeout'), question.timeoutMicros / 1_000);
  signal.addEventListener('abort', cutOff);
  if (signal.aborted) cutOff();
  if (ended) return promise;

  const take = (data: string): void => {
    if (data === '[DONE]') isWhole = true;
    const chunk = parse(data);
    if (chunk === null || ended) return;
    if (chunk.error !== undefined && chunk.error !== null) failure = codeOf(chunk.error) ?? 'stream_error';
    if (chunk.usage) usage = usageOf(chunk.usage);
    const choice = chunk.choices?.[0];
    // Servers that don't say [DONE] say why they stopped.
    if (typeof choice?.finish_reason === 'string') isWhole = true;
    const piece = (choice?.text ?? choice?.delta?.content ?? '') || (choice?.delta?.reasoning_content ?? '');
    if (piece === '') return;
    piecesAt.push(now());
    if (keepText) text += piece;
    if (piecesAt.length === cancelAfter) end('cancelled');
  };
  const read = (incoming: IncomingMessage): void => {
    const status = incoming.statusCode ?? 0;
    const parser = createParser({ onEvent: ({ data }) => take(data) });
    let refusal = '';
    incoming.setEncoding('utf8');
    incoming.on('data', (data: string) => {
      if (status === 200) parser.feed(data);
      else if (refusal.length < MOST_ERROR_CHARACTERS) refusal += data;
    });
    incoming.on('end', () => {
      if (status !== 200) end(codeOf(parse(refusal)?.error) ?? `http_${status}`);
      else end(failure ?? (isWhole ? 'done' : 'stream_cut'));
    });
    incoming.on('error', () => end(failure ?? 'stream_cut'));
  };

  const body = JSON.stringify(question.body);
  const isTls = question.url.protocol === 'https:';
  const headers = {
    'content-type': 'application/json',
    accept: 'text/event-stream',
    'content-length': Buffer.byteLength(body),
    ...(question.key === null ? {} : { authorization: `Bearer ${question.key}` }),
  };
  outgoing = (isTls ? httpsRequest : httpRequest)(
    question.url,
    { method: 'POST', headers, agent: isTls ? agents.https : agents.http },
    read,
  );
  outgoing.on('error', (error: NodeJS.ErrnoException) => end(error.code ?? 'connection'));
  outgoing.end(body);
  return promise;
}

function parse(text: string): Chunk | null {
  try {
    const value = JSON.parse(text) as unknown;
    return typeof value === 'object' && value !== null ? value : null;
  } catch {
    return null;
  }
}

/** OpenAI's `error.code`, else its `type`. llama-server's codes are numbers. */
function codeOf(error: unknown): string | null {
  if (typeof error !== 'object' || error === null) return null;
  const { code, type } = error as { readonly code?: unknown; readonly type?: unknown };
  for (const text of [code, type]) if (typeof text === 'string' && CODE.test(text)) return text;
  return null;
}

const usageOf = (told: NonNullable<Chunk['usage']>): Usage => ({
  promptTokens: told.prompt_tokens ?? 0,
  cachedTokens: told.prompt_tokens_details?.cached_tokens ?? 0,
  outputTokens: told.completion_tokens ?? 0,
});
