/** Log-probabilities in OpenAI's two shapes: chat's list of tokens, and the parallel arrays of text completions. */
import type { TokenLogprob } from './types.ts';

/** What OpenAI gives for "practically impossible"; JSON has no minus infinity. */
const FLOOR = -9_999;
const finite = (logprob: number): number => (logprob > FLOOR ? logprob : FLOOR);
const entry = (token: string, logprob: number) => ({
  token,
  logprob: finite(logprob),
  bytes: [...Buffer.from(token, 'utf8')],
});

export const chatLogprobs = (list: readonly TokenLogprob[]) => ({
  content: list.map((one) => ({
    ...entry(one.token, one.logprob),
    top_logprobs: one.top.map((other) => entry(other.token, other.logprob)),
  })),
  refusal: null,
});

/** @param offset characters of the text that came before. */
export function textLogprobs(list: readonly TokenLogprob[], offset: number) {
  let at = offset;
  const offsets = list.map((one) => {
    const start = at;
    at += one.token.length;
    return start;
  });
  return {
    tokens: list.map((one) => one.token),
    token_logprobs: list.map((one) => finite(one.logprob)),
    top_logprobs: list.map((one) => Object.fromEntries(one.top.map((other) => [other.token, finite(other.logprob)]))),
    text_offset: offsets,
  };
}
