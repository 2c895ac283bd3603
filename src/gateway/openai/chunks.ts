/** What the chunks of chat and text streams share. */
import { BerthError } from '../../errors.ts';
import type { NodeApi } from '../../runtime/api.ts';
import type { Caller } from './params.ts';
import type { Run, Totals } from './run.ts';
import { berthField, usageField } from './run.ts';

/** The fields that are the same in every chunk of an answer. */
export interface Head {
  readonly id: string;
  readonly created: number;
  readonly model: string;
  readonly fingerprint: string;
}

/** What a stream has used so far, of all its choices. */
export type UsageSoFar = { -readonly [Field in 'promptTokens' | 'cachedTokens' | 'outputTokens']: number };

export interface StreamOptions {
  readonly includeUsage: boolean;
  /** It stands in each chunk, as vLLM's `continuous_usage_stats`; null: in the last one only. */
  readonly soFar: UsageSoFar | null;
  /** Choices in all. */
  readonly count: number;
}

export const fingerprintOf = (node: NodeApi): string => `berth_${node.status().version}`;

/** The answer's id is the node's id of the request with OpenAI's prefix instead of `req`. */
export const headOf = (prefix: 'chatcmpl' | 'cmpl', caller: Caller, run: Run, fingerprint: string): Head => ({
  id: `${prefix}-${caller.id.slice('req-'.length)}`,
  created: Math.floor(Date.now() / 1_000),
  model: run.modelId,
  fingerprint,
});

interface StreamBody {
  readonly stream: boolean | undefined;
  readonly stream_options:
    | { readonly include_usage: boolean | undefined; readonly continuous_usage_stats: boolean | undefined }
    | undefined;
}

/** @throws BerthError invalid_request */
export function checkStreamOptions(body: StreamBody): void {
  if (body.stream_options === undefined || body.stream === true) return;
  throw new BerthError('invalid_request', '`stream_options` needs `stream: true`.', { param: 'stream_options' });
}

export const streamOptionsOf = ({ stream_options: asked }: StreamBody, count: number): StreamOptions => ({
  includeUsage: asked?.include_usage === true,
  soFar:
    asked?.include_usage === true && asked.continuous_usage_stats === true
      ? { promptTokens: 0, cachedTokens: 0, outputTokens: 0 }
      : null,
  count,
});

/**
 * Writes the text around a choice once, so that a chunk costs one concatenation. The last choice's finish waits for the totals,
 * which come in the same turn: without a usage chunk it is the one that carries `berth`.
 */
export function chunkFrame(head: Head & { readonly object: string }, options: StreamOptions) {
  const begin = `{"id":${JSON.stringify(head.id)},"object":"${head.object}","created":${head.created},"model":${JSON.stringify(head.model)},"system_fingerprint":${JSON.stringify(head.fingerprint)},"choices":[`;
  const { soFar } = options;
  const plainEnd = options.includeUsage ? '],"usage":null}' : ']}';
  const end = soFar === null ? () => plainEnd : () => `],"usage":${JSON.stringify(usageField(soFar))}}`;
  let ended = 0;
  let held = '';
  return {
    chunk: (choice: string): string => begin + choice + end(),
    finish(choice: string): string | null {
      ended += 1;
      if (ended < options.count) return begin + choice + end();
      held = choice;
      return null;
    },
    last(totals: Totals): readonly string[] {
      const berth = JSON.stringify(berthField(totals, head.model));
      if (!options.includeUsage) return [`${begin}${held}],"berth":${berth}}`];
      return [begin + held + end(), `${begin}],"usage":${JSON.stringify(usageField(totals))},"berth":${berth}}`];
    },
  };
}
