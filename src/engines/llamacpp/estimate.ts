/** A first guess of a model's memory from its file, until a loaded one has been measured. */
import { access, constants } from 'node:fs/promises';
import type { Bytes } from '../../core/ids.ts';
import { MIB } from '../../core/ids.ts';
import { BerthError } from '../../errors.ts';
import { readGguf } from '../../models/gguf.ts';
import type { ModelLaunch } from '../engine.ts';

/**
 * Private bytes of a runner without its model: Node, llama.cpp's libraries, their buffers. Measured after a first answer: 33 MiB,
 * and 47 as long as the compile cache is empty; a spare holds 25.
 */
export const RUNNER_BYTES: Bytes = 40 * MIB;
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
  const facts = await readGguf(launch.path);
  const kvBytes = (facts.kvElementsPerToken ?? 0) * KV_ELEMENT_BYTES * launch.kvTokens;
  const vocabulary = facts.vocabTokens ?? 0;
  const width = Math.max(facts.embeddingLength ?? 0, facts.feedForwardLength ?? 0);
  const computeBytes =
    COMPUTE_ELEMENT_BYTES * (launch.batchTokens * width * LIVE_BUFFERS + 2 * launch.parallel * vocabulary);
  // The weights of a sleeping model are only mapped; its vocabulary stays.
  const asleepBytes = RUNNER_BYTES + vocabulary * VOCABULARY_TOKEN_BYTES;
  return { loadedBytes: Math.ceil(facts.fileBytes + kvBytes + computeBytes + asleepBytes), asleepBytes };
}
