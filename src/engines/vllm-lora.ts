/** LoRA adapters on a vLLM server: loaded when somebody first asks for one (`/v1/load_lora_adapter` of 0.32), and then as models of its own. */
import { BerthError } from '../errors.ts';
import { readAdapter } from './adapters.ts';
import type { Adapter, EngineRequest } from './engine.ts';
import { HttpFailure } from './http-client.ts';
import type { HttpClient } from './http-client.ts';
import type { Exchange, HttpDialect } from './http-dialect.ts';

type IsDead = NonNullable<HttpDialect['isDead']>;

/** Letters of the fingerprint in the name: another content is another adapter. */
const LETTERS = 12;

/** Wraps `run`: a request that names an adapter is put to the server under the adapter's name there, once it is loaded. */
export function withAdapters(run: HttpDialect['run'], isDead: IsDead): HttpDialect['run'] {
  /** What each server has, by name there. A server that is started anew has another client, and nothing. */
  const servers = new WeakMap<HttpClient, Map<string, Promise<void>>>();

  const ensure = (adapter: Adapter, name: string, exchange: Exchange): Promise<void> => {
    const loaded = servers.get(exchange.client) ?? new Map<string, Promise<void>>();
    servers.set(exchange.client, loaded);
    const known = loaded.get(name);
    if (known !== undefined) return known;
    const loading = load(adapter, name, exchange, isDead);
    loaded.set(name, loading);
    // Its files may be there the next time.
    loading.catch(() => loaded.delete(name));
    return loading;
  };

  return async (request: EngineRequest, exchange: Exchange) => {
    const { adapter } = request;
    if (adapter === undefined) return run(request, exchange);
    const name = `${adapter.id}.${adapter.fingerprint.slice(0, LETTERS)}`;
    await ensure(adapter, name, exchange);
    return run(request, { ...exchange, launch: { ...exchange.launch, modelId: name as Adapter['id'] } });
  };
}

const MOST_CHARACTERS = 300;

async function load({ id, path }: Adapter, name: string, { client }: Exchange, isDead: IsDead): Promise<void> {
  await readAdapter(path);
  try {
    // Others may wait for it too: it is not called off when the first of them leaves.
    await client.ask('/v1/load_lora_adapter', { lora_name: name, lora_path: path }, { deadlineMicros: null });
  } catch (thrown) {
    // A broken file is a 500 like a broken server.
    if (!(thrown instanceof HttpFailure) || isDead(thrown)) throw thrown;
    const { error } = (thrown.body ?? {}) as { readonly error?: { readonly message?: unknown } };
    const said = typeof error?.message === 'string' ? error.message.slice(0, MOST_CHARACTERS) : thrown.message;
    throw new BerthError('model_load_failed', `vLLM could not load the adapter ${id}: ${said}`, { cause: thrown });
  }
}
