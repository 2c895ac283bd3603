/** Prompts and token ids as requests bring them, checked against the model's vocabulary. */
import { BerthError } from '../../errors.ts';
import type { TokenLogprob } from '../engine.ts';
import type { GenerateJob } from './commands.ts';
import { type Model, pieceOf, tokenize } from './model.ts';
import type { TokenChoice } from './sampling.ts';

export class TokenReader {
  readonly #model: Model;
  #endTokens: readonly number[] | null = null;

  constructor(model: Model) {
    this.#model = model;
  }

  /** Throws `invalid_request` where there are none, or one that the model doesn't know. */
  promptTokens({ prompt }: GenerateJob): Int32Array {
    const tokens =
      prompt.type === 'text'
        ? tokenize(this.#model, prompt.text, prompt.addSpecial, true)
        : Int32Array.from(prompt.tokens);
    if (tokens.length === 0) throw new BerthError('invalid_request', 'The prompt is empty.', { param: 'prompt' });
    if (prompt.type === 'tokens') for (const token of tokens) this.checkToken(token, 'prompt');
    return tokens;
  }

  /** Throws `invalid_request`. */
  checkToken(token: number, param: string): void {
    if (Number.isInteger(token) && token >= 0 && token < this.#model.vocabTokens) return;
    throw new BerthError('invalid_request', `A token id is outside of the vocabulary of ${this.#model.vocabTokens}.`, {
      param,
    });
  }

  /** All tokens that end a text. */
  endTokens(): readonly number[] {
    const { llama, vocab, vocabTokens } = this.#model;
    this.#endTokens ??= Array.from({ length: vocabTokens }, (_, token) => token).filter((token) =>
      llama.llama_vocab_is_eog(vocab, token),
    );
    return this.#endTokens;
  }

  describe(choice: TokenChoice, logprob: number): TokenLogprob {
    const textOf = (token: number): string => pieceOf(this.#model, token, true).toString('utf8');
    return {
      token: textOf(choice.token),
      tokenId: choice.token,
      logprob,
      top: choice.top.map((other) => ({ token: textOf(other.token), tokenId: other.token, logprob: other.logprob })),
    };
  }
}
