/** The facts of a GGUF file that Berth schedules by: what it is, how big, how much KV cache a token takes. */
import { open, stat } from 'node:fs/promises';
import { BerthError } from '../errors.ts';
import type { Bytes } from '../core/ids.ts';
import { FILE_TYPES } from './gguf-types.ts';
import { readHeader } from './gguf-reader.ts';
import type { GgufHeader, TensorInfo } from './gguf-reader.ts';

export interface GgufFacts {
  readonly fileBytes: Bytes;
  readonly version: number;
  readonly architecture: string;
  /** `general.type`: `model`, `adapter`, `mmproj`, …; `model` where the file doesn't say. */
  readonly type: string;
  readonly name: string | null;
  readonly parameters: number;
  /** `Q4_K_M`, `F16`, …: from `general.file_type`, else the type that holds most bytes. */
  readonly quantization: string | null;
  readonly trainedContextTokens: number | null;
  readonly layers: number | null;
  readonly embeddingLength: number | null;
  readonly feedForwardLength: number | null;
  readonly heads: number | null;
  /** The largest of the layers, where they differ. */
  readonly kvHeads: number | null;
  readonly keyLength: number | null;
  readonly valueLength: number | null;
  /** Layers may attend to the last so many tokens only; null: they attend to all. */
  readonly slidingWindowTokens: number | null;
  /**
   * Elements of the KV cache that one token takes, over all layers, sliding windows left out of account: times 2 gives the bytes
   * of an f16 cache. null where the header doesn't tell (recurrent models).
   */
  readonly kvElementsPerToken: number | null;
  readonly vocabTokens: number | null;
  readonly chatTemplate: boolean;
  readonly tensorCount: number;
  /** Exact bytes of all tensors, padding left out. */
  readonly tensorBytes: Bytes;
  /** This file's number and the number of files of a split model; null: it is one file. */
  readonly shard: { readonly index: number; readonly count: number } | null;
}

const CACHED_FILES = 4_096;
const cache = new Map<string, { readonly key: string; readonly facts: GgufFacts }>();

/** Opens nothing: the error of a file that is missing or no file, else its size and time. */
async function statModel(path: string): Promise<{ size: number; mtimeMs: number }> {
  try {
    const found = await stat(path);
    if (!found.isFile()) throw new BerthError('model_file_invalid', `${path} is no file`);
    return found;
  } catch (error) {
    if (error instanceof BerthError) throw error;
    const code = (error as NodeJS.ErrnoException).code ?? 'unknown error';
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new BerthError('model_file_missing', `${path} is not there`, { cause: error });
    }
    throw new BerthError('model_file_invalid', `${path} can't be read (${code})`, { cause: error });
  }
}

/**
 * The file's facts; cached by path, size and time. Throws `model_file_missing`, or `model_file_invalid` with the reason: a wrong
 * magic or version, a header that lies, a file shorter than its tensors (a cut download).
 */
export async function readGguf(path: string): Promise<GgufFacts> {
  const { size, mtimeMs } = await statModel(path);
  const key = `${size}:${mtimeMs}`;
  const known = cache.get(path);
  if (known?.key === key) return known.facts;
  let facts: GgufFacts;
  try {
    const file = await open(path, 'r');
    try {
      facts = factsOf(await readHeader(file, size), size);
    } finally {
      await file.close();
    }
  } catch (error) {
    const reason =
      error instanceof BerthError ? error.message : ((error as NodeJS.ErrnoException).code ?? 'unknown error');
    throw new BerthError('model_file_invalid', `${path}: ${reason}`, { cause: error });
  }
  cache.delete(path);
  cache.set(path, { key, facts });
  if (cache.size > CACHED_FILES) cache.delete(cache.keys().next().value ?? '');
  return facts;
}

function factsOf(header: GgufHeader, fileBytes: number): GgufFacts {
  const { metadata, tensors } = header;
  checkLength(header, fileBytes);
  const text = (key: string): string | null => {
    const value = metadata.get(key);
    return typeof value === 'string' ? value : null;
  };
  const architecture = text('general.architecture');
  if (architecture === null) throw new BerthError('model_file_invalid', 'the header names no architecture');
  const numbers = (key: string): readonly number[] | null => {
    const value = metadata.get(`${architecture}.${key}`);
    if (typeof value === 'number') return [value];
    return Array.isArray(value) && value.length > 0 ? (value as readonly number[]) : null;
  };
  const most = (key: string): number | null => {
    const values = numbers(key);
    return values === null ? null : Math.max(...values);
  };
  const layers = most('block_count');
  const embeddingLength = most('embedding_length');
  const heads = most('attention.head_count');
  // llama.cpp (llama-model.cpp, load_hparams): the head counts default to each other, the head size to embedding / heads.
  const kvHeadsByLayer = numbers('attention.head_count_kv') ?? numbers('attention.head_count');
  const headLength =
    embeddingLength !== null && heads !== null && heads > 0 ? Math.floor(embeddingLength / heads) : null;
  const keyLength = most('attention.key_length') ?? headLength;
  const valueLength = most('attention.value_length') ?? headLength;
  const splits = metadata.get('split.count');
  const split = metadata.get('split.no');
  const tokens = metadata.get('tokenizer.ggml.tokens');
  const vocabTokens = typeof tokens === 'object' ? tokens.length : most('vocab_size');
  return {
    fileBytes,
    version: header.version,
    architecture,
    type: text('general.type') ?? 'model',
    name: text('general.name'),
    parameters: tensors.reduce((sum, tensor) => sum + tensor.elements, 0),
    quantization: quantizationOf(header),
    trainedContextTokens: most('context_length'),
    layers,
    embeddingLength,
    feedForwardLength: most('feed_forward_length'),
    heads,
    kvHeads: kvHeadsByLayer === null ? null : Math.max(...kvHeadsByLayer),
    keyLength,
    valueLength,
    slidingWindowTokens: most('attention.sliding_window'),
    kvElementsPerToken: kvElements(layers, kvHeadsByLayer, keyLength, valueLength),
    vocabTokens,
    chatTemplate: metadata.has('tokenizer.chat_template'),
    tensorCount: tensors.length,
    tensorBytes: tensors.reduce((sum, tensor) => sum + tensor.bytes, 0),
    shard:
      typeof splits === 'number' && splits > 1 && typeof split === 'number' ? { index: split, count: splits } : null,
  };
}

function checkLength({ tensors, dataOffset }: GgufHeader, fileBytes: number): void {
  const last = tensors.reduce((end, tensor) => Math.max(end, tensor.offset + tensor.bytes), 0);
  if (dataOffset + last > fileBytes && tensors.length > 0) {
    throw new BerthError(
      'model_file_invalid',
      `the file is cut short: it has ${fileBytes} bytes, its tensors need ${dataOffset + last}`,
    );
  }
}

function kvElements(
  layers: number | null,
  kvHeadsByLayer: readonly number[] | null,
  keyLength: number | null,
  valueLength: number | null,
): number | null {
  if (layers === null || kvHeadsByLayer === null || keyLength === null || valueLength === null) return null;
  const heads =
    kvHeadsByLayer.length === 1 ? (kvHeadsByLayer[0] ?? 0) * layers : kvHeadsByLayer.reduce((a, b) => a + b, 0);
  return heads * (keyLength + valueLength);
}

function quantizationOf({ metadata, tensors }: GgufHeader): string | null {
  const fileType = metadata.get('general.file_type');
  const named = typeof fileType === 'number' ? FILE_TYPES.get(fileType) : undefined;
  return named ?? heaviestType(tensors);
}

function heaviestType(tensors: readonly TensorInfo[]): string | null {
  const bytes = new Map<string, number>();
  for (const { type, bytes: size } of tensors) bytes.set(type.name, (bytes.get(type.name) ?? 0) + size);
  let heaviest: string | null = null;
  for (const [name, size] of bytes) if (heaviest === null || size > (bytes.get(heaviest) ?? 0)) heaviest = name;
  return heaviest;
}
