/**
 * Reads the header of a GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) without building its vocabulary:
 * long arrays are walked over, and only their length is kept. So Gemma's 262,144 tokens cost a few milliseconds, where a full
 * parser needs about a second.
 */
import type { FileHandle } from 'node:fs/promises';
import { BerthError } from '../errors.ts';
import { ARRAY_VALUE, BOOL_VALUE, STRING_VALUE, TENSOR_TYPES, VALUE_BYTES } from './gguf-types.ts';
import type { TensorType } from './gguf-types.ts';

const MAGIC = 'GGUF';
const WINDOW_BYTES = 256 * 1024;
/** Arrays of numbers up to this length are kept (per-layer head counts); others are known by their length only. */
const KEPT_ARRAY_LENGTH = 1_024;
const MAX_KEYS = 65_536;
const MAX_TENSORS = 1_000_000;
const MAX_NAME_BYTES = 65_536;
const MAX_STRING_BYTES = 64 * 1024 * 1024;
const MAX_ARRAY_DEPTH = 4;
const DEFAULT_ALIGNMENT = 32;

/** An array that was walked over. */
interface SkippedArray {
  readonly length: number;
}
type HeaderValue = string | number | boolean | readonly number[] | SkippedArray;

export interface TensorInfo {
  readonly name: string;
  readonly type: TensorType;
  readonly elements: number;
  readonly bytes: number;
  /** From the start of the tensor data. */
  readonly offset: number;
}

export interface GgufHeader {
  readonly version: number;
  readonly metadata: ReadonlyMap<string, HeaderValue>;
  readonly tensors: readonly TensorInfo[];
  /** Where the tensor data starts in the file. */
  readonly dataOffset: number;
}

const invalid = (reason: string): BerthError => new BerthError('model_file_invalid', reason);

/** A window that moves forward over the file. `fill` must have been awaited for the bytes that the getters take. */
class Cursor {
  readonly #file: FileHandle;
  readonly #fileBytes: number;
  #window: Buffer = Buffer.alloc(0);
  #windowStart = 0;
  #at = 0;

  constructor(file: FileHandle, fileBytes: number) {
    this.#file = file;
    this.#fileBytes = fileBytes;
  }

  get position(): number {
    return this.#windowStart + this.#at;
  }

  has(bytes: number): boolean {
    return this.#at + bytes <= this.#window.length;
  }

  async fill(bytes: number): Promise<void> {
    if (this.has(bytes)) return;
    const start = this.position;
    if (start + bytes > this.#fileBytes) {
      throw invalid(
        `the file ends inside its header: it has ${this.#fileBytes} bytes, the header goes on to at least ${start + bytes}`,
      );
    }
    const window = Buffer.allocUnsafe(Math.min(Math.max(bytes, WINDOW_BYTES), this.#fileBytes - start));
    let filled = 0;
    while (filled < window.length) {
      const { bytesRead } = await this.#file.read(window, filled, window.length - filled, start + filled);
      if (bytesRead === 0) throw invalid('the file became shorter while it was read');
      filled += bytesRead;
    }
    this.#window = window;
    this.#windowStart = start;
    this.#at = 0;
  }

  skip(bytes: number): void {
    this.#at += bytes;
  }

  u32(): number {
    const value = this.#window.readUInt32LE(this.#at);
    this.#at += 4;
    return value;
  }

  u64(what: string): number {
    const value = this.#window.readUInt32LE(this.#at) + this.#window.readUInt32LE(this.#at + 4) * 2 ** 32;
    this.#at += 8;
    if (!Number.isSafeInteger(value)) throw invalid(`${what} is ${value}, which no file can have`);
    return value;
  }

  text(bytes: number): string {
    const value = this.#window.toString('utf8', this.#at, this.#at + bytes);
    this.#at += bytes;
    return value;
  }

  scalar(type: number): number | boolean {
    const window = this.#window;
    const at = this.#at;
    this.#at += VALUE_BYTES.get(type) ?? 0;
    switch (type) {
      case 0:
        return window.readUInt8(at);
      case 1:
        return window.readInt8(at);
      case 2:
        return window.readUInt16LE(at);
      case 3:
        return window.readInt16LE(at);
      case 4:
        return window.readUInt32LE(at);
      case 5:
        return window.readInt32LE(at);
      case 6:
        return window.readFloatLE(at);
      case BOOL_VALUE:
        return window.readUInt8(at) !== 0;
      case 10:
        return Number(window.readBigUInt64LE(at));
      case 11:
        return Number(window.readBigInt64LE(at));
      default:
        return window.readDoubleLE(at);
    }
  }
}

async function readString(cursor: Cursor, what: string, limit: number): Promise<string> {
  await cursor.fill(8);
  const bytes = cursor.u64(`the length of ${what}`);
  if (bytes > limit) throw invalid(`${what} claims ${bytes} bytes, the most is ${limit}`);
  await cursor.fill(bytes);
  return cursor.text(bytes);
}

async function skipStrings(cursor: Cursor, count: number, key: string): Promise<void> {
  for (let index = 0; index < count; index += 1) {
    if (!cursor.has(8)) await cursor.fill(8);
    const bytes = cursor.u64(`a string of ${key}`);
    if (bytes > MAX_STRING_BYTES) throw invalid(`a string of ${key} claims ${bytes} bytes`);
    if (!cursor.has(bytes)) await cursor.fill(bytes);
    cursor.skip(bytes);
  }
}

async function readArray(cursor: Cursor, key: string, depth: number): Promise<readonly number[] | SkippedArray> {
  if (depth > MAX_ARRAY_DEPTH) throw invalid(`${key} nests arrays deeper than ${MAX_ARRAY_DEPTH}`);
  await cursor.fill(12);
  const type = cursor.u32();
  const length = cursor.u64(`the length of ${key}`);
  if (type === STRING_VALUE) {
    await skipStrings(cursor, length, key);
    return { length };
  }
  if (type === ARRAY_VALUE) {
    for (let index = 0; index < length; index += 1) await readArray(cursor, key, depth + 1);
    return { length };
  }
  const each = VALUE_BYTES.get(type);
  if (each === undefined) throw invalid(`${key} has elements of the unknown type ${type}`);
  if (length > KEPT_ARRAY_LENGTH) {
    // In window-sized hops: a length that lies is found at the end of the file, without one huge buffer.
    for (let left = length * each; left > 0; left -= WINDOW_BYTES) {
      const hop = Math.min(left, WINDOW_BYTES);
      await cursor.fill(hop);
      cursor.skip(hop);
    }
    return { length };
  }
  await cursor.fill(length * each);
  return Array.from({ length }, () => Number(cursor.scalar(type)));
}

async function readValue(cursor: Cursor, key: string): Promise<HeaderValue> {
  await cursor.fill(4);
  const type = cursor.u32();
  if (type === STRING_VALUE) return readString(cursor, key, MAX_STRING_BYTES);
  if (type === ARRAY_VALUE) return readArray(cursor, key, 1);
  const bytes = VALUE_BYTES.get(type);
  if (bytes === undefined) throw invalid(`${key} has the unknown type ${type}`);
  await cursor.fill(bytes);
  return cursor.scalar(type);
}

async function readTensor(cursor: Cursor): Promise<TensorInfo> {
  const name = await readString(cursor, 'a tensor’s name', MAX_NAME_BYTES);
  await cursor.fill(4);
  const dimensions = cursor.u32();
  if (dimensions > 8) throw invalid(`tensor ${name} claims ${dimensions} dimensions`);
  await cursor.fill(dimensions * 8 + 12);
  let elements = 1;
  let rowElements = 1;
  for (let index = 0; index < dimensions; index += 1) {
    const size = cursor.u64(`a dimension of tensor ${name}`);
    if (index === 0) rowElements = size;
    elements *= size;
  }
  const typeId = cursor.u32();
  const offset = cursor.u64(`the offset of tensor ${name}`);
  const type = TENSOR_TYPES.get(typeId);
  if (type === undefined) throw invalid(`tensor ${name} has the type ${typeId}, which this release doesn't know`);
  if (!Number.isSafeInteger(elements)) throw invalid(`tensor ${name} claims more elements than any file holds`);
  if (rowElements % type.blockElements !== 0) {
    throw invalid(
      `tensor ${name} has rows of ${rowElements} elements, not a multiple of ${type.name}'s ${type.blockElements}`,
    );
  }
  return { name, type, elements, bytes: (elements / type.blockElements) * type.blockBytes, offset };
}

/** Throws `model_file_invalid` with the reason. Costs I/O of the header's size, memory of one window. */
export async function readHeader(file: FileHandle, fileBytes: number): Promise<GgufHeader> {
  if (fileBytes < 24) throw invalid(`the file has ${fileBytes} bytes, less than a GGUF header`);
  const cursor = new Cursor(file, fileBytes);
  await cursor.fill(24);
  const magic = cursor.text(4);
  if (magic !== MAGIC) throw invalid(`the file doesn't start with the letters ${MAGIC}`);
  const version = cursor.u32();
  if (version > 0xffff) throw invalid('the file is big-endian; only little-endian GGUF files can be used');
  if (version < 2 || version > 3) throw invalid(`GGUF version ${version} is not supported, only 2 and 3`);
  const tensorCount = cursor.u64('the number of tensors');
  const keyCount = cursor.u64('the number of keys');
  if (tensorCount > MAX_TENSORS) throw invalid(`the header claims ${tensorCount} tensors, the most is ${MAX_TENSORS}`);
  if (keyCount > MAX_KEYS) throw invalid(`the header claims ${keyCount} keys, the most is ${MAX_KEYS}`);
  const metadata = new Map<string, HeaderValue>();
  for (let index = 0; index < keyCount; index += 1) {
    const key = await readString(cursor, 'a key', MAX_NAME_BYTES);
    metadata.set(key, await readValue(cursor, key));
  }
  const tensors: TensorInfo[] = [];
  for (let index = 0; index < tensorCount; index += 1) tensors.push(await readTensor(cursor));
  const alignment = metadata.get('general.alignment') ?? DEFAULT_ALIGNMENT;
  if (typeof alignment !== 'number' || alignment < 1 || !Number.isInteger(Math.log2(alignment))) {
    throw invalid('general.alignment is no power of two');
  }
  return { version, metadata, tensors, dataOffset: Math.ceil(cursor.position / alignment) * alignment };
}
