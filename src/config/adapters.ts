/** LoRA adapters: models that another one computes (`base`, `adapter`). */
import { BerthError } from '../errors.ts';
import type { ModelEntry } from './parse.ts';

export interface AdapterConfig {
  /** The id of the model that computes it. */
  readonly base: string;
  /** An absolute path: a folder of the PEFT kind. */
  readonly path: string;
}

/** Engines that compute LoRA adapters of their models. */
const ADAPTER_ENGINES: ReadonlySet<string> = new Set(['vllm']);

/** What an adapter's entry may say: who may use it and what it costs. How it is run is said by its base. */
const OWN: ReadonlySet<string> = new Set(['base', 'adapter', 'aliases', 'overflow', 'tenants', 'limits', 'price']);

/** What is wrong with one entry, by the field. */
export function adapterProblems(
  entry: ModelEntry,
  all: readonly ModelEntry[],
): { readonly key: string; readonly message: string }[] {
  const { base, adapter } = entry.values;
  if (base === undefined && adapter === undefined) return [];
  if (typeof base !== 'string')
    return adapter === undefined
      ? []
      : [{ key: 'adapter', message: 'an adapter needs a `base`: the model that it adapts' }];
  if (typeof adapter !== 'string')
    return [{ key: 'base', message: 'a model with a `base` needs an `adapter`: the folder of its LoRA weights' }];
  const foreign = Object.entries(entry.values).find(([name, value]) => value !== undefined && !OWN.has(name));
  if (foreign !== undefined) {
    const message = `an adapter is run as its base is: say it there (here may stand ${[...OWN].join(', ')})`;
    return [{ key: foreign[0], message }];
  }
  const found = all.find(({ id }) => id.toLowerCase() === base.toLowerCase());
  if (found === undefined) return [{ key: 'base', message: `no model here is called ${base}` }];
  return found.values.base === undefined ? [] : [{ key: 'base', message: `${base} is an adapter itself` }];
}

interface Based {
  readonly id: string;
  readonly engine: string | null;
  readonly adapter: AdapterConfig | null;
  readonly tenants: readonly string[] | null;
  readonly price: object | null;
}

/** What an adapter does not say itself, its base says for it. Throws `config_invalid` where the base's engine can't have any. */
export function withBases<Model extends Based>(models: readonly Model[]): Model[] {
  return models.map((model) => {
    const base = models.find(({ id }) => id === model.adapter?.base);
    if (base === undefined) return model;
    if (!ADAPTER_ENGINES.has(base.engine ?? 'llamacpp')) {
      const engines = [...ADAPTER_ENGINES].join(', ');
      throw new BerthError(
        'config_invalid',
        `models.${model.id}.base: adapters need a base of the engine ${engines}, and ${base.id} has ${base.engine ?? 'llamacpp'}`,
        { param: `models.${model.id}.base` },
      );
    }
    return { ...model, tenants: model.tenants ?? base.tenants, price: model.price ?? base.price };
  });
}
