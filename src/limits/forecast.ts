/** How many tokens a model's answers usually have: what a request will probably cost, before it is known. */
import type { ModelId } from '../core/ids.ts';

/** Until a model has answered. */
const FIRST_GUESS = 256;
/** The weight of one more answer is 1 / 16. */
const INERTIA = 16;

export class OutputForecast {
  readonly #means = new Map<ModelId, number>();

  /** @param maxTokens the request's own bound; null: none. */
  expect(model: ModelId, maxTokens: number | null): number {
    const mean = Math.ceil(this.#means.get(model) ?? FIRST_GUESS);
    return maxTokens === null ? mean : Math.min(mean, maxTokens);
  }

  learn(model: ModelId, outputTokens: number): void {
    const mean = this.#means.get(model);
    this.#means.set(model, mean === undefined ? outputTokens : mean + (outputTokens - mean) / INERTIA);
  }
}
