/** Writes small GGUF files for tests: a real header, tensors of zeros. */
type Value = string | number | boolean | readonly string[] | readonly number[];

export interface TinyTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** Number of the tensor's type, 0 = F32. */
  readonly type?: number;
  readonly bytes: number;
}

export interface TinyGguf {
  readonly version?: number;
  readonly metadata?: Readonly<Record<string, Value>>;
  readonly tensors?: readonly TinyTensor[];
}

const ALIGNMENT = 32;
const padded = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const u64 = (value: number): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};
const f32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return bytes;
};
const text = (value: string): Buffer => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);

/** Whole numbers are written as u32, others as f32. */
function valueOf(value: Value): Buffer {
  if (typeof value === 'string') return Buffer.concat([u32(8), text(value)]);
  if (typeof value === 'boolean') return Buffer.concat([u32(7), Buffer.from([value ? 1 : 0])]);
  if (typeof value === 'number')
    return Number.isInteger(value) ? Buffer.concat([u32(4), u32(value)]) : Buffer.concat([u32(6), f32(value)]);
  const [first] = value;
  const type = typeof first === 'string' ? 8 : 4;
  const items = value.map((item) => (typeof item === 'string' ? text(item) : u32(item)));
  return Buffer.concat([u32(9), u32(type), u64(value.length), ...items]);
}

export const TINY_METADATA: Readonly<Record<string, Value>> = {
  'general.architecture': 'llama',
  'general.name': 'Tiny',
  'general.file_type': 0,
  'llama.context_length': 512,
  'llama.block_count': 2,
  'llama.embedding_length': 8,
  'llama.attention.head_count': 2,
  'llama.attention.head_count_kv': 1,
  'tokenizer.ggml.tokens': ['a', 'b', 'c'],
};

/** Two F32 tensors: 96 + 32 bytes. */
const TINY_TENSORS: readonly TinyTensor[] = [
  { name: 'token_embd.weight', shape: [8, 3], bytes: 96 },
  { name: 'output_norm.weight', shape: [8], bytes: 32 },
];

export function tinyGguf({ version = 3, metadata = TINY_METADATA, tensors = TINY_TENSORS }: TinyGguf = {}): Buffer {
  const keys = Object.entries(metadata).map(([key, value]) => Buffer.concat([text(key), valueOf(value)]));
  let offset = 0;
  const infos = tensors.map(({ name, shape, type = 0, bytes }) => {
    const info = Buffer.concat([text(name), u32(shape.length), ...shape.map(u64), u32(type), u64(offset)]);
    offset += padded(bytes);
    return info;
  });
  const header = Buffer.concat([
    Buffer.from('GGUF'),
    u32(version),
    u64(tensors.length),
    u64(keys.length),
    ...keys,
    ...infos,
  ]);
  return Buffer.concat([header, Buffer.alloc(padded(header.length) - header.length + offset)]);
}
