/** The models that the node hosts, by id and by every name that a client may use. */
import type { ModelId } from '../core/ids.ts';
import type { EngineObserver } from '../engines/engine.ts';
import type { AdapterSpec, Hosted, HostedSpec } from './hosted.ts';
import { revisionOf } from './hosted.ts';

export interface Registry {
  /**
   * Estimates the models that are new; what it resolves to takes the whole list: what is absent loses its name, but keeps its handle until
   * it has been unloaded.
   */
  prepare(specs: readonly HostedSpec[]): Promise<() => void>;
  get(id: ModelId): Hosted | undefined;
  /** By id or alias, or by those of an adapter; null: it has none of that name. */
  idOf(name: string): ModelId | null;
  /** What the name adds to its model; null: nothing. */
  adapterOf(name: string): AdapterSpec | null;
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
  const adapters = new Map<string, AdapterSpec>();
  let order: ModelId[] = [];

  const plain = (name: string): string => (names.has(name) ? name : name.replace(/:latest$/, ''));

  const take = (specs: readonly HostedSpec[], estimates: ReadonlyMap<ModelId, Hosted['estimate']>): void => {
    names.clear();
    adapters.clear();
    order = specs.map(({ id }) => id);
    for (const spec of specs) {
      const known = hosted.get(spec.id);
      const guess = estimates.get(spec.id) ?? guessFromFile(spec);
      if (known === undefined) {
        const model = spec.engine.open(spec.launch, observe(spec.id));
        hosted.set(spec.id, { spec, estimate: guess, model, revision: revisionOf(spec), chargedBytes: 0 });
      } else Object.assign(known, { spec, estimate: guess });
      for (const name of [spec.id, ...spec.aliases]) names.set(name, spec.id);
      for (const adapter of spec.adapters ?? []) {
        for (const name of [adapter.id, ...adapter.aliases]) {
          names.set(name, spec.id);
          adapters.set(name, adapter);
        }
      }
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
    idOf: (name) => names.get(plain(name)) ?? null,
    adapterOf: (name) => adapters.get(plain(name)) ?? null,
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
