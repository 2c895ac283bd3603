/** A small client of the OpenAI API that measures: when each token came, counted from when the request was meant to start. */
import { Agent, request as httpRequest } from 'node:http';
import { createParser } from 'eventsource-parser';

export interface Answer {
  readonly model: string;
  /** 0: the connection failed. */
  readonly status: number;
  readonly error: string | null;
  readonly text: string;
  /** Milliseconds from `intendedAt`. */
  readonly ttftMillis: number;
  readonly totalMillis: number;
  /** When each chunk with text came, milliseconds from `intendedAt`. */
  readonly chunkMillis: readonly number[];
  readonly promptTokens: number;
  readonly outputTokens: number;
  readonly cachedTokens: number;
  /** Of the prompt, what was not at hand: by the server's own count. */
  readonly computedTokens: number;
  /** What a Berth node says of the request; null: it is none. */
  readonly berth: BerthField | null;
  /** Each token of the stream, if /v1/completions was asked for `logprobs`. */
  readonly tokens: readonly StreamToken[];
  /** How often the stream said that it goes on, after its engine had died or it had been preempted. */
  readonly resumes: number;
}

export interface StreamToken {
  readonly text: string;
  readonly logprob: number;
  /** The likeliest ones, by their text. */
  readonly top: Readonly<Record<string, number>>;
}

export interface BerthField {
  readonly load_ms: number;
  readonly restore_ms: number;
  readonly kv_tier: 'device' | 'host' | 'disk' | null;
}

export interface Ask {
  readonly url: string;
  readonly model: string;
  /** Text, or token ids. */
  readonly prompt?: string | readonly number[];
  readonly messages?: readonly { readonly role: string; readonly content: string }[];
  readonly maxTokens: number;
  /** Whose request it is. */
  readonly key?: string;
  readonly extra?: Readonly<Record<string, unknown>>;
  /** `performance.now()` at which it was meant to start; now if absent. */
  readonly intendedAt?: number;
  readonly timeoutMillis?: number;
  /** Hangs up. The answer then has an error, and what had come by then. */
  readonly signal?: AbortSignal;
  /** Called at each chunk with text, with their number so far. */
  readonly onChunk?: (count: number) => void;
}

interface Chunk {
  readonly choices?: readonly {
    readonly text?: string;
    readonly delta?: { readonly content?: string | null };
    readonly logprobs?: {
      readonly tokens?: readonly string[];
      readonly token_logprobs?: readonly number[];
      readonly top_logprobs?: readonly Readonly<Record<string, number>>[];
    } | null;
  }[];
  readonly usage?: {
    readonly prompt_tokens?: number;
    readonly completion_tokens?: number;
    readonly prompt_tokens_details?: { readonly cached_tokens?: number };
  } | null;
  readonly error?: { readonly message?: string };
  readonly berth?: BerthField;
  /** llama-server's. */
  readonly timings?: { readonly prompt_n?: number };
}

// A connection for each request: some servers close idle ones without a word, which must not count against them.
const agent = new Agent({ keepAlive: false, maxSockets: 1024 });

/** Streams one answer. Never rejects: what went wrong is in the answer. */
export function ask({
  url,
  model,
  prompt,
  messages,
  maxTokens,
  key,
  extra = {},
  intendedAt = performance.now(),
  timeoutMillis = 300_000,
  signal,
  onChunk,
}: Ask): Promise<Answer> {
  const isChat = messages !== undefined;
  const body = JSON.stringify({
    model,
    ...(isChat ? { messages } : { prompt }),
    max_tokens: maxTokens,
    stream: true,
    stream_options: { include_usage: true },
    temperature: 0,
    ...extra,
  });
  return new Promise((resolve) => {
    let text = '';
    let usage: Chunk['usage'] = null;
    let berth: BerthField | null = null;
    let computed: number | undefined;
    let error: string | null = null;
    let status = 0;
    const chunkMillis: number[] = [];
    const tokens: StreamToken[] = [];
    let resumes = 0;
    const finish = (): void => {
      const totalMillis = performance.now() - intendedAt;
      const promptTokens = usage?.prompt_tokens ?? 0;
      const cachedTokens = usage?.prompt_tokens_details?.cached_tokens ?? 0;
      resolve({
        model,
        status,
        error,
        text,
        ttftMillis: chunkMillis[0] ?? totalMillis,
        totalMillis,
        chunkMillis,
        promptTokens,
        outputTokens: usage?.completion_tokens ?? 0,
        cachedTokens,
        computedTokens: computed ?? promptTokens - cachedTokens,
        berth,
        tokens,
        resumes,
      });
    };
    const parser = createParser({
      onComment(comment) {
        if (comment.trim() === 'resumed') resumes++;
      },
      onEvent({ data }) {
        if (data === '[DONE]') return;
        const chunk = JSON.parse(data) as Chunk;
        if (chunk.error !== undefined) error = chunk.error.message ?? 'error';
        if (chunk.usage) usage = chunk.usage;
        berth = chunk.berth ?? berth;
        computed = chunk.timings?.prompt_n ?? computed;
        const [choice] = chunk.choices ?? [];
        const { tokens: texts = [], token_logprobs: logprobs = [], top_logprobs: tops = [] } = choice?.logprobs ?? {};
        for (const [index, token] of texts.entries())
          tokens.push({ text: token, logprob: logprobs[index] ?? 0, top: tops[index] ?? {} });
        const piece = choice?.text ?? choice?.delta?.content ?? '';
        if (piece === '') return;
        text += piece;
        chunkMillis.push(performance.now() - intendedAt);
        onChunk?.(chunkMillis.length);
      },
    });
    const outgoing = httpRequest(
      new URL(isChat ? '/v1/chat/completions' : '/v1/completions', url),
      {
        method: 'POST',
        agent,
        ...(signal && { signal }),
        headers: {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(body),
          ...(key !== undefined && { authorization: `Bearer ${key}` }),
        },
      },
      (incoming) => {
        status = incoming.statusCode ?? 0;
        incoming.setEncoding('utf8');
        let plain = '';
        incoming.on('data', (data: string) => {
          if (status === 200) parser.feed(data);
          else plain += data;
        });
        incoming.on('end', () => {
          if (status !== 200) error = plain.slice(0, 300);
          finish();
        });
        incoming.on('error', (failure) => {
          error = failure.message;
          finish();
        });
      },
    );
    outgoing.setTimeout(timeoutMillis, () => outgoing.destroy(new Error('timeout')));
    outgoing.on('error', (failure) => {
      if (error !== null || status !== 0) return;
      error = failure.message;
      finish();
    });
    outgoing.end(body);
  });
}

/** Connections that stay: so many requests a second as embeddings come in would else measure how quickly sockets are made. */
const embedAgent = new Agent({ keepAlive: true, maxSockets: 1024 });

export interface Embedded {
  readonly vector: readonly number[];
  readonly promptTokens: number;
  readonly millis: number;
}

/** One text through /v1/embeddings. Rejects if it is refused. */
export function embed(url: string, model: string, text: string): Promise<Embedded> {
  const started = performance.now();
  const body = JSON.stringify({ model, input: text });
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
    const outgoing = httpRequest(
      new URL('/v1/embeddings', url),
      { method: 'POST', agent: embedAgent, headers },
      (incoming) => {
        let plain = '';
        incoming.setEncoding('utf8');
        incoming.on('data', (data: string) => (plain += data));
        incoming.on('error', reject);
        incoming.on('end', () => {
          const millis = performance.now() - started;
          if (incoming.statusCode !== 200) return reject(new Error(`${incoming.statusCode}: ${plain.slice(0, 300)}`));
          const { data, usage } = JSON.parse(plain) as {
            readonly data: readonly { readonly embedding: readonly number[] }[];
            readonly usage: { readonly prompt_tokens: number };
          };
          resolve({ vector: data[0]?.embedding ?? [], promptTokens: usage.prompt_tokens, millis });
        });
      },
    );
    outgoing.setTimeout(120_000, () => outgoing.destroy(new Error('timeout')));
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}

/** Runs `tasks` with so many in flight; answers in the order of the tasks. */
export async function inFlight<T>(most: number, tasks: readonly (() => Promise<T>)[]): Promise<T[]> {
  const answers: T[] = [];
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < tasks.length) {
      const index = next++;
      answers[index] = await (tasks[index] as () => Promise<T>)();
    }
  };
  await Promise.all(Array.from({ length: Math.min(most, tasks.length) }, work));
  return answers;
}
