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

export interface StreamOptions {
  readonly includeUsage: boolean;
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

/** @throws BerthError invalid_request */
export function checkStreamOptions(body: { stream: boolean | undefined; stream_options: object | undefined }): void {
  if (body.stream_options === undefined || body.stream === true) return;
  throw new BerthError('invalid_request', '`stream_options` needs `stream: true`.', { param: 'stream_options' });
}

/**
 * Writes the text around a choice once, so that a chunk costs one concatenation. The last choice's finish waits for the totals,
 * which come in the same turn: without a usage chunk it is the one that carries `berth`.
 */
export function chunkFrame(head: Head & { readonly object: string }, options: StreamOptions) {
  const begin = `{"id":${JSON.stringify(head.id)},"object":"${head.object}","created":${head.created},"model":${JSON.stringify(head.model)},"system_fingerprint":${JSON.stringify(head.fingerprint)},"choices":[`;
  const end = options.includeUsage ? '],"usage":null}' : ']}';
  let ended = 0;
  let held = '';
  return {
    chunk: (choice: string): string => begin + choice + end,
    finish(choice: string): string | null {
      ended += 1;
      if (ended < options.count) return begin + choice + end;
      held = choice;
      return null;
    },
    last(totals: Totals): readonly string[] {
      const berth = JSON.stringify(berthField(totals));
      if (!options.includeUsage) return [`${begin}${held}],"berth":${berth}}`];
      return [begin + held + end, `${begin}],"usage":${JSON.stringify(usageField(totals))},"berth":${berth}}`];
    },
  };
}
