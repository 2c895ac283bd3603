/** A conversation as a client has it: the whole history is sent each time. */
import type { Answer, Ask } from './client.ts';
import { ask } from './client.ts';

/** By /v1/chat/completions; models without a chat template get their history as text, by /v1/completions. */
export type Style = 'chat' | 'text';

export interface Conversation {
  readonly model: string;
  /** One turn. Where it fails the history stays as it was. */
  turn(url: string, user: string, maxTokens: number, more?: Pick<Ask, 'signal' | 'timeoutMillis'>): Promise<Answer>;
}

export function beginConversation(model: string, style: Style, system: string): Conversation {
  const messages = [{ role: 'system', content: system }];
  let text = system;
  return {
    model,
    async turn(url, user, maxTokens, more = {}) {
      const prompt = `${text}\n\nQuestion: ${user}\nAnswer:`;
      const asked = [...messages, { role: 'user', content: user }];
      const input = style === 'chat' ? { messages: asked } : { prompt };
      const answer = await ask({ url, model, ...input, maxTokens, extra: { ignore_eos: true }, ...more });
      if (answer.error !== null) return answer;
      messages.push({ role: 'user', content: user }, { role: 'assistant', content: answer.text });
      text = prompt + answer.text;
      return answer;
    },
  };
}

/** Tokens that a model makes of one of `Random.words`, measured on so many. Rejects if it does not answer. */
export async function tokensPerWord(url: string, model: string, words: string): Promise<number> {
  const { promptTokens, error } = await ask({ url, model, prompt: words, maxTokens: 1 });
  if (error !== null) throw new Error(`${model}: ${error}`);
  return promptTokens / words.split(' ').length;
}
