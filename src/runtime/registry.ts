/** The models that the node hosts, by id and by every name that a client may use. */
import type { ModelId } from '../core/ids.ts';
import type { EngineObserver } from '../engines/engine.ts';
import type { Hosted, HostedSpec } from './hosted.ts';
import { revisionOf } from './hosted.ts';

export interface Registry {
  /**
   * Estimates the models that are new; what it resolves to takes the whole list: what is absent loses its name, but keeps its handle until
   * it has been unloaded.
   */
  prepare(specs: readonly HostedSpec[]): Promise<() => void>;
  get(id: ModelId): Hosted | undefined;
  /** By id or alias; null: it has none of that name. */
  idOf(name: string): ModelId | null;
  /** In the configuration's order. */
  listed(): Hosted[];
  /** Listed or not. */
  all(): Iterable<Hosted>;
  /** Opens the model on its engine anew, since its launch has changed. */
  reopen(hosted: Hosted): void;
}

export function createRegistry(observe: (id: ModelId) => EngineObserver): Registry {
  const hosted = new Map<ModelId, Hosted>();
  const names = new Map<string, ModelId>();
  let order: ModelId[] = [];

  const idOf = (name: string): ModelId | null => names.get(name) ?? names.get(name.replace(/:latest$/, '')) ?? null;

  const take = (specs: readonly HostedSpec[], estimates: ReadonlyMap<ModelId, Hosted['estimate']>): void => {
    names.clear();
    order = specs.map(({ id }) => id);
    for (const spec of specs) {
      const known = hosted.get(spec.id);
      const guess = estimates.get(spec.id) ?? guessFromFile(spec);
      if (known === undefined) {
        const model = spec.engine.open(spec.launch, observe(spec.id));
        hosted.set(spec.id, { spec, estimate: guess, model, revision: revisionOf(spec), chargedBytes: 0 });
      } else Object.assign(known, { spec, estimate: guess });
      for (const name of [spec.id, ...spec.aliases]) names.set(name, spec.id);
    }
  };

  return {
    async prepare(specs) {
      const estimates = new Map<ModelId, Hosted['estimate']>();
      for (const spec of specs) {
        const known = hosted.get(spec.id);
        const unchanged = known !== undefined && revisionOf(known.spec) === revisionOf(spec);
        estimates.set(spec.id, unchanged ? known.estimate : await estimate(spec));
      }
      return () => take(specs, estimates);
    },
    get: (id) => hosted.get(id),
    idOf,
    listed: () => order.flatMap((id) => hosted.get(id) ?? []),
    all: () => hosted.values(),
    reopen(model) {
      model.model = model.spec.engine.open(model.spec.launch, observe(model.spec.id));
      model.revision = revisionOf(model.spec);
    },
  };
}

async function estimate(spec: HostedSpec): Promise<Hosted['estimate']> {
  try {
    return await spec.engine.estimate(spec.launch);
  } catch {
    // A file that can't be read now may be there when it is asked for; its load then says what is wrong.
    return guessFromFile(spec);
  }
}

const guessFromFile = (spec: HostedSpec): Hosted['estimate'] => ({ loadedBytes: spec.fileBytes, asleepBytes: 0 });
