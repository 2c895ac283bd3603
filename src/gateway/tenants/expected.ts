/** How long a prompt probably is, before it is tokenized. What it was is settled afterwards. */
import type { Submission } from '../../runtime/api.ts';

/** Characters of a token of English; other languages have fewer. */
const CHARACTERS = 4;
/** What a chat template puts around a message. */
const AROUND_MESSAGE = 4;

const ofText = (text: string): number => Math.ceil(text.length / CHARACTERS);

export function expectedPrompt(request: Submission['request']): number {
  if (request.kind === 'embed') {
    return request.inputs.reduce((sum, input) => sum + (typeof input === 'string' ? ofText(input) : input.length), 0);
  }
  const { input } = request;
  if (input.type === 'tokens') return input.tokens.length;
  if (input.type === 'text') return ofText(input.text);
  return input.messages.reduce((sum, { content }) => sum + AROUND_MESSAGE + ofText(content), 0);
}
