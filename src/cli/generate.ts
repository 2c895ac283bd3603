/** One generation on a running node, streamed. */
import { EventSourceParserStream } from 'eventsource-parser/stream';
import { BerthError } from '../errors.ts';
import { PATIENT_MS, wireError } from './client.ts';
import type { Client } from './client.ts';
import type { SamplingFields } from './sampling.ts';

export interface Message {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

export interface Generation {
  readonly model: string;
  /** Messages for the model's chat template, or a text to continue. */
  readonly input: readonly Message[] | string;
  readonly fields: SamplingFields;
}

export interface Listener {
  text(text: string): void;
  /** What the request waits for (“queued 3”, “loading”); null: it waits no longer. */
  waits(words: string | null): void;
}

export interface Ended {
  readonly text: string;
  readonly finishReason: string | null;
  readonly usage: { readonly prompt_tokens: number; readonly completion_tokens: number } | null;
  /** Where the time went, in milliseconds; null if the node doesn't say. */
  readonly berth: Readonly<Record<string, number>> | null;
}

interface Chunk {
  readonly error?: { readonly message?: unknown; readonly code?: unknown };
  readonly choices?: readonly {
    readonly delta?: { readonly content?: string | null };
    readonly text?: string;
    readonly finish_reason?: string | null;
  }[];
  readonly usage?: Ended['usage'];
  readonly berth?: Ended['berth'];
}

export const endpoint = (generation: Generation): string =>
  typeof generation.input === 'string' ? '/v1/completions' : '/v1/chat/completions';

export const bodyOf = ({ model, input, fields }: Generation) => ({
  model,
  ...(typeof input === 'string' ? { prompt: input } : { messages: input }),
  ...fields,
});

/** Throws the node's error, also one that comes in mid-stream; `request_cancelled` when `signal` aborts. */
export async function generate(
  client: Client,
  generation: Generation,
  listener: Listener,
  signal?: AbortSignal,
): Promise<Ended> {
  const body = await client.stream(endpoint(generation), {
    body: { ...bodyOf(generation), stream: true, stream_options: { include_usage: true } },
    deadlineMs: PATIENT_MS,
    ...(signal === undefined ? {} : { signal }),
  });
  const parser = new EventSourceParserStream({
    onComment: (comment) => {
      const words = comment.trim();
      if (words !== 'keep-alive') listener.waits(words === 'resumed' ? null : words);
    },
  });
  let text = '';
  let finishReason: string | null = null;
  let usage: Ended['usage'] = null;
  let berth: Ended['berth'] = null;
  let done = false;
  try {
    for await (const { data } of body.pipeThrough(new TextDecoderStream()).pipeThrough(parser)) {
      if (data === '[DONE]') {
        done = true;
        break;
      }
      const chunk = JSON.parse(data) as Chunk;
      if (chunk.error !== undefined) throw wireError(chunk.error, 500);
      usage = chunk.usage ?? usage;
      berth = chunk.berth ?? berth;
      const choice = chunk.choices?.[0];
      finishReason = choice?.finish_reason ?? finishReason;
      const piece = choice?.delta?.content ?? choice?.text ?? '';
      if (piece === '') continue;
      listener.waits(null);
      listener.text(piece);
      text += piece;
    }
  } catch (error) {
    if (signal?.aborted === true) throw new BerthError('request_cancelled', 'cancelled');
    if (error instanceof BerthError) throw error;
    throw new BerthError('node_unreachable', 'the connection to the node broke off in mid-answer', { cause: error });
  } finally {
    listener.waits(null);
  }
  if (!done) throw new BerthError('node_unreachable', 'the node ended the answer too early');
  return { text, finishReason, usage, berth };
}
