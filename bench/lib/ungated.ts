/**
 * The same runners without the node: engine models in the bench's own process, each with one endless slice, so that nobody but the
 * kernel decides who computes. What scheduling and the gateway cost is the difference. This bypasses the core on purpose.
 */
import { modelId } from '../../src/core/ids.ts';
import type { EngineModel, ModelLaunch } from '../../src/engines/engine.ts';
import { createLlamaCppEngine } from '../../src/engines/llamacpp/adapter.ts';
import { request } from '../../test/contract/stories.ts';

export interface UngatedModel {
  /** Greedy, to the last token. Resolves with how many tokens came; rejects if the engine fails it. */
  generate(prompt: string, maxTokens: number): Promise<number>;
}

export interface Ungated {
  readonly models: readonly UngatedModel[];
  close(): Promise<void>;
}

export type UngatedLaunch = Pick<ModelLaunch, 'path' | 'contextTokens' | 'kvTokens' | 'parallel'>;

/** Loads all models; each may compute on so many lanes whenever it has work. */
export async function openUngated(launches: readonly UngatedLaunch[], lanes: number): Promise<Ungated> {
  // A waiting spare would take memory and, while it starts, a core.
  const engine = createLlamaCppEngine({ spare: false });
  const models: UngatedModel[] = [];
  try {
    for (const [index, launch] of launches.entries()) {
      const slices = { open: false, next: 1, wanted: 0 };
      const grant = (): void => {
        if (slices.open || slices.wanted === 0) return;
        slices.open = true;
        model.slice({ sliceId: slices.next++, lanes, micros: null });
      };
      const model: EngineModel = engine.open(
        { ...launch, modelId: modelId(`ungated-${index}`), batchTokens: 512, memoryLimitBytes: 0 },
        {
          sliceEnded() {
            slices.open = false;
            grant();
          },
          died: (reason) => console.error(`an ungated runner died: ${reason}`),
          memory() {},
        },
      );
      await model.ensureLoaded();
      models.push({
        async generate(prompt, maxTokens) {
          slices.wanted++;
          const done = submit(
            model,
            `${index}-${slices.next}-${slices.wanted}-${performance.now()}`,
            prompt,
            maxTokens,
          );
          grant();
          try {
            return await done;
          } finally {
            slices.wanted--;
          }
        },
      });
    }
  } catch (error) {
    await engine.close();
    throw error;
  }
  return { models, close: () => engine.close() };
}

function submit(model: EngineModel, id: string, prompt: string, maxTokens: number): Promise<number> {
  return new Promise((resolve, reject) => {
    let tokens = 0;
    model.submit(request(id, { input: { type: 'text', text: prompt }, maxTokens }), (event) => {
      if (event.type === 'tokens') tokens += event.tokenIds.length;
      else if (event.type === 'finished') resolve(tokens);
      else if (event.type === 'failed') reject(new Error(`${event.code}: ${event.message}`));
    });
  });
}
