import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Llama } from './binding.ts';
import { ElasticContext, grownCells } from './elastic.ts';
import type { Model } from './model.ts';

/** A library whose contexts hold a number each, standing for their sequences' KV. */
function makeLibrary(options: { mostCells?: number; losesState?: boolean } = {}): {
  model: Model;
  contexts: Map<bigint, { cells: number; state: number; threads: number }>;
  allocated: Set<bigint>;
} {
  const contexts = new Map<bigint, { cells: number; state: number; threads: number }>();
  const allocated = new Set<bigint>();
  let next = 1n;
  let stored = 0;
  const at = (pointer: bigint): { cells: number; state: number; threads: number } => {
    const found = contexts.get(pointer);
    if (found === undefined) throw new Error('a context was used that is freed');
    return found;
  };
  const llama = {
    llama_context_default_params: () => ({}),
    llama_init_from_model: (_: bigint, params: { n_ctx: number; n_threads: number }) => {
      if (params.n_ctx > (options.mostCells ?? Infinity)) return null;
      expect(contexts.size).toBe(0);
      contexts.set(next, { cells: params.n_ctx, state: 0, threads: params.n_threads });
      next += 1n;
      return next - 1n;
    },
    llama_get_memory: (pointer: bigint) => pointer,
    llama_free: (pointer: bigint) => contexts.delete(pointer),
    llama_set_n_threads: (pointer: bigint, threads: number) => {
      at(pointer).threads = threads;
    },
    llama_state_get_size: () => 64,
    llama_state_get_data: (pointer: bigint) => {
      stored = at(pointer).state;
      return 60;
    },
    llama_state_set_data: (pointer: bigint, _: bigint, bytes: number) => {
      if (options.losesState === true) return 0;
      at(pointer).state = stored;
      return bytes;
    },
    llama_memory_clear: (pointer: bigint) => {
      at(pointer).state = 0;
    },
    log: () => {},
    allocate: () => {
      allocated.add(1_000n);
      return 1_000n;
    },
    release: (memory: bigint) => allocated.delete(memory),
    trim: () => {},
  } as unknown as Llama;
  const model = { llama, pointer: 7n, vocabTokens: 10, kvBytesPerToken: 100, elasticCache: true, poolingType: -1 };
  return { model: model as unknown as Model, contexts, allocated };
}

const shape = { cells: 8192, seats: 4, stepTokens: 64 };

describe('an elastic context', () => {
  it('starts small, grows with all that it holds, and never holds two caches', () => {
    const { model, contexts, allocated } = makeLibrary();
    const context = new ElasticContext(model, shape);
    expect(context).toMatchObject({ cells: 1024, growthBytes: 8192 * 100, isMade: false });
    expect(context.prepare()).toBe(true);
    expect(context.growthBytes).toBe(7168 * 100);
    expect(context.prepare()).toBe(false);
    context.setLanes(2);
    const first = context.pointer;
    Object.assign(contexts.get(first) ?? {}, { state: 42 });
    expect(context.grow(1100, 1000)).toBe(true);
    expect(context).toMatchObject({ cells: 2048, growthBytes: 6144 * 100 });
    expect(contexts.get(context.pointer)).toEqual({ cells: 2048, state: 42, threads: 2 });
    expect(context.pointer).not.toBe(first);
    expect(context.grow(100_000, 2000)).toBe(true);
    expect(context).toMatchObject({ cells: 8192, growthBytes: 0, elastic: false });
    expect(allocated.size).toBe(0);
    context.dispose();
    expect(contexts.size).toBe(0);
  });

  it('takes the size of the first request if that comes first', () => {
    const { model, contexts } = makeLibrary();
    const context = new ElasticContext(model, shape);
    context.grow(3000, 0);
    expect([...contexts]).toEqual([]);
    expect(contexts.get(context.pointer)?.cells).toBe(3072);
  });

  it('says so when what it held did not come along', () => {
    const { model, contexts } = makeLibrary({ losesState: true });
    const context = new ElasticContext(model, shape);
    context.prepare();
    expect(context.grow(1100, 0)).toBe(true);
    expect(context.grow(3000, 1000)).toBe(false);
    expect(contexts.get(context.pointer)).toMatchObject({ cells: 4096, state: 0 });
  });

  it('stays as it is where there is no memory for more, and promises no more', () => {
    const { model, contexts } = makeLibrary({ mostCells: 2048 });
    const context = new ElasticContext(model, shape);
    context.prepare();
    Object.assign(contexts.get(context.pointer) ?? {}, { state: 42 });
    expect(context.grow(5000, 1000)).toBe(true);
    expect(context).toMatchObject({ cells: 1024, growthBytes: 0, elastic: false });
    expect(contexts.get(context.pointer)).toMatchObject({ cells: 1024, state: 42 });
  });

  it('is of full size where a model depends on the size, and waits for a first text where it embeds', () => {
    const { model } = makeLibrary();
    const rigid = new ElasticContext({ ...model, elasticCache: false }, shape);
    expect(rigid).toMatchObject({ cells: 8192, growthBytes: 8192 * 100 });
    rigid.prepare();
    expect(rigid.growthBytes).toBe(0);
    rigid.dispose();
    const embedding = new ElasticContext({ ...model, poolingType: 1 }, shape);
    expect(embedding.prepare()).toBe(false);
    expect(embedding.growthBytes).toBe(8192 * 100);
    expect(embedding.memory).not.toBeNull();
    expect(embedding.growthBytes).toBe(7168 * 100);
  });

  it('grows to what is wanted, at least twofold, and never beyond its full size', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 64 }), fc.nat(100_000), fc.nat(100_000), (now, wanted, more) => {
        const before = now * 256;
        const full = before + 1 + more;
        const cells = grownCells(before, wanted, full);
        expect(cells).toBeLessThanOrEqual(full);
        expect(cells).toBeGreaterThanOrEqual(Math.min(full, Math.max(wanted, 2 * before)));
      }),
    );
  });
});
