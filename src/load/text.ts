/** Prompts without a meaning: common words, so that about each is a token, by chance, so that no two prompts begin alike. */
import { createRandom } from '../sim/random.ts';

const WORDS = (
  'the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you were all her ' +
  'she there would their we him been has when who will no more if out so up said what its about than into them can only other time new ' +
  'some could these two may first then do any like my now over such our man me even most made after also did many off before must well ' +
  'back through years where much your way down should because long each just state those people too good world day men life still'
).split(' ');

/** So many words; the same seed, conversation and turn, the same ones. */
export function wordsOf(seed: number, conversation: number, turn: number, count: number): string {
  const random = createRandom(Math.imul(seed + 1, 0x27d4eb2f) ^ Math.imul(conversation + 1, 0x165667b1) ^ (turn << 24));
  return Array.from({ length: count }, () => WORDS[random.below(WORDS.length)] as string).join(' ');
}

export interface Message {
  readonly role: 'user' | 'assistant';
  readonly content: string;
}

/**
 * Chat as a text to go on with, for models and servers that know no messages. An answer stands right where it was given, its first
 * space included: else a server that has the tokens would not find them again.
 */
export const asText = (messages: readonly Message[]): string =>
  `${messages.map(({ role, content }) => (role === 'user' ? `Question: ${content}` : `Answer:${content}`)).join('\n\n')}\n\nAnswer:`;
