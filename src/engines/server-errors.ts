/** What servers of the OpenAI kind say went wrong, as errors that a client may see: never in their own words, which may quote a prompt. */
import { BerthError } from '../errors.ts';
import { HttpFailure } from './http-client.ts';

const TOO_LONG =
  /maximum context length|longer than the max|max_model_len|context.?length.?exceeded|input (?:length|ids)[^.]*exceed|exceeds? the (?:model|maximum|context)|exceed_context_size|too many tokens/i;

export function explainServer(name: string, thrown: unknown): BerthError {
  if (thrown instanceof BerthError) return thrown;
  if (!(thrown instanceof HttpFailure)) {
    return new BerthError('engine_error', `The connection to ${name} broke in the middle of the answer.`, {
      cause: thrown,
    });
  }
  const { status } = thrown;
  const { kind, code, said } = wordsOf(thrown.body);
  if (status < 500 && TOO_LONG.test(`${kind} ${code} ${said}`))
    return new BerthError('context_length_exceeded', 'The prompt is longer than the model’s context.');
  if (/tool.?call|tool.?choice|auto.?tool/i.test(said)) {
    return new BerthError(
      'unsupported_parameter',
      `${name} was started without a parser for this model’s tool calls: name one in the model’s \`args\`.`,
      { param: 'tools' },
    );
  }
  if (/chat.?template/i.test(said)) {
    return new BerthError('unsupported_parameter', 'The model has no chat template: use /v1/completions.', {
      param: 'messages',
    });
  }
  if (status < 500 && /grammar|schema|structured|guided|regex/i.test(said)) {
    return new BerthError('invalid_request', `${name} can’t make a grammar of this schema.`, {
      param: 'response_format',
    });
  }
  if (/does not support (?:the )?(?:embeddings?|completions?|chat)/i.test(said) || status === 404 || status === 405) {
    return new BerthError('unsupported_parameter', `The model can’t do this on ${name}: it is of another kind.`);
  }
  return new BerthError(
    status === 400 || status === 422 ? 'invalid_request' : 'engine_error',
    `${name} refused the request (${status}${kind === '' ? '' : `, ${kind}`}).`,
  );
}

/** `{error: {type, message}}`, or both at the top, or `{detail}`. */
function wordsOf(body: unknown): { readonly kind: string; readonly code: string; readonly said: string } {
  const top = (typeof body === 'object' && body !== null ? body : {}) as Record<string, unknown>;
  const inner = (typeof top['error'] === 'object' && top['error'] !== null ? top['error'] : top) as Record<
    string,
    unknown
  >;
  const said: string =
    [inner['message'], top['error'], top['detail'], body].find((text) => typeof text === 'string') ?? '';
  // A kind is one word, or it is something else.
  const word = (text: unknown): string => (typeof text === 'string' && /^[\w .-]{1,60}$/.test(text) ? text : '');
  const code = word(inner['code']);
  return { kind: word(inner['type']) || code, code, said };
}

/** Errors that only say that another one came before. */
const FOLLOWS = /Engine core initialization failed|See (?:root cause|stack trace)|died unexpectedly/i;
const ERROR = /(?:\b[A-Z]\w*(?:Error|Exception|Interrupt)\b: .+|\berror: .+)$/;
const MOST_CHARACTERS = 400;

/** The last error that a Python server printed, without what its logger put before it; null: it printed none. */
export function lastError(lines: readonly string[]): string | null {
  const errors = lines.flatMap((line) => ERROR.exec(line)?.[0] ?? []);
  const said = errors.findLast((line) => !FOLLOWS.test(line)) ?? errors.at(-1);
  return said === undefined ? null : said.slice(0, MOST_CHARACTERS);
}
