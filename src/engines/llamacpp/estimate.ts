/** A first guess of a model's memory from its file, until a loaded one has been measured. */
import { access, constants, stat } from 'node:fs/promises';
import { gguf } from '@huggingface/gguf';
import type { Bytes } from '../../core/ids.ts';
import { MIB } from '../../core/ids.ts';
import { BerthError } from '../../errors.ts';
import type { ModelLaunch } from '../engine.ts';

/** Private bytes of a started runner without a model (measured: 54 MiB): Node, llama.cpp's libraries, their buffers. */
export const RUNNER_BYTES: Bytes = 58 * MIB;
/** Private bytes of a loaded vocabulary, by token (measured: 150 to 180 with 49,152 and 262,144 tokens). */
const VOCABULARY_TOKEN_BYTES = 180;
/** llama.cpp's cache is f16 unless told otherwise. */
const KV_ELEMENT_BYTES = 2;
const COMPUTE_ELEMENT_BYTES = 4;
/** Buffers of a layer that live at once in a step, in units of the wider of the embedding and the feed-forward; a guess. */
const LIVE_BUFFERS = 4;

/** Throws `model_file_missing` where the file is not there or may not be read. */
export async function requireFile(path: string): Promise<void> {
  try {
    await access(path, constants.R_OK);
  } catch (error) {
    throw new BerthError('model_file_missing', `There is no readable file ${path}.`, { cause: error });
  }
}

/** Throws `model_file_missing`, or `model_file_invalid` with the reason. */
export async function estimateMemory(launch: ModelLaunch): Promise<{ loadedBytes: Bytes; asleepBytes: Bytes }> {
  await requireFile(launch.path);
  const [{ size }, header] = await Promise.all([stat(launch.path), readHeader(launch.path)]);
  const architecture = String(header['general.architecture']);
  const number = (name: string): number | null => largest(header[`${architecture}.${name}`]);
  const layers = number('block_count') ?? 0;
  const embedding = number('embedding_length') ?? 0;
  const heads = number('attention.head_count') ?? 1;
  // As llama.cpp defaults them: each head has a KV head, and a head is its share of the embedding.
  const kvHeads = number('attention.head_count_kv') ?? heads;
  const keyLength = number('attention.key_length') ?? embedding / heads;
  const valueLength = number('attention.value_length') ?? embedding / heads;
  const kvBytes = layers * kvHeads * (keyLength + valueLength) * KV_ELEMENT_BYTES * launch.kvTokens;
  const tokens = header['tokenizer.ggml.tokens'];
  const vocabulary = number('vocab_size') ?? (Array.isArray(tokens) ? tokens.length : 0);
  const width = Math.max(embedding, number('feed_forward_length') ?? 0);
  const computeBytes =
    COMPUTE_ELEMENT_BYTES * (launch.batchTokens * width * LIVE_BUFFERS + 2 * launch.parallel * vocabulary);
  // The weights of a sleeping model are only mapped; its vocabulary stays.
  const asleepBytes = RUNNER_BYTES + vocabulary * VOCABULARY_TOKEN_BYTES;
  return {
    loadedBytes: Math.ceil(size + kvBytes + computeBytes + asleepBytes),
    asleepBytes,
  };
}

async function readHeader(path: string): Promise<Readonly<Record<string, unknown>>> {
  try {
    const { metadata } = await gguf(path, { allowLocalFile: true });
    return { ...metadata };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new BerthError('model_file_invalid', `${path} is no sound GGUF file: ${reason}.`, { cause: error });
  }
}

/** Some models have a value per layer. */
function largest(value: unknown): number | null {
  if (Array.isArray(value)) return value.reduce((most: number, one: unknown) => Math.max(most, Number(one)), 0);
  return typeof value === 'number' || typeof value === 'bigint' ? Number(value) : null;
}
