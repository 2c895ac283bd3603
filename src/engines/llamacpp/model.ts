/** A loaded model file: weights, vocabulary, metadata. Contexts are made from it and freed before it. */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { totalmem } from 'node:os';
import { BerthError } from '../../errors.ts';
import { MIB } from '../../core/ids.ts';
import type { ContextParams, Llama, Pointer } from './binding.ts';
import { mappedFiles, newFiles } from './pages.ts';

/** The header's `LLAMA_LOAD_MODE_MMAP`: pages of the file, shared and clean, that the system may drop and read again. */
const LOAD_MODE_MMAP = 1;
const ROUNDING_BYTES = 64 * 1024;
const GGUF_MAGIC = 0x46554747;

export interface Model {
  readonly llama: Llama;
  readonly pointer: Pointer;
  readonly vocab: Pointer;
  readonly vocabTokens: number;
  readonly bos: number;
  readonly addsBos: boolean;
  /** null where the model has none. */
  readonly chatTemplate: string | null;
  readonly bosText: string;
  readonly eosText: string;
  readonly trainedContextTokens: number;
  readonly weightBytes: number;
  /** Of a 16-bit cache; 0: it has none. */
  readonly kvBytesPerToken: number;
  /** Whether a larger cache computes the same: not where a model is laid out by the size of its context, or keeps no cache of tokens. */
  readonly elasticCache: boolean;
  /** Layers with a sliding window look back so many tokens; 0: there are none. */
  readonly windowTokens: number;
  /** Whether what was computed of a text is of use to another that begins alike: not where a state is carried from token to token. */
  readonly sharesPrefixes: boolean;
  readonly mappedWeightBytes: number;
  /** The files whose pages are mapped, where the system tells. */
  readonly mappedFiles: ReadonlySet<string>;
  /** llama.h's pooling type of the model itself; -1: it names none. */
  readonly poolingType: number;
}

/**
 * Refuses what llama.cpp need not be asked about, and has the file fetched: the faults of a load would wait for the disk one after the
 * other. Throws `model_file_missing` or `model_file_invalid`.
 */
function openFile(llama: Llama, path: string): void {
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch (error) {
    throw new BerthError('model_file_missing', 'The model’s file does not exist or can’t be read.', { cause: error });
  }
  try {
    const head = Buffer.alloc(8);
    const read = readSync(file, head, 0, 8, 0);
    if (read < 8 || head.readUInt32LE(0) !== GGUF_MAGIC) {
      throw new BerthError(
        'model_file_invalid',
        'The model’s file is no GGUF file: it doesn’t start with the letters GGUF.',
      );
    }
    llama.willRead(file);
  } catch (error) {
    if (error instanceof BerthError) throw error;
    throw new BerthError('model_file_invalid', 'The model’s file can’t be read.', { cause: error });
  } finally {
    closeSync(file);
  }
}

interface Logged<T> {
  readonly result: T;
  readonly mappedBytes: number;
  readonly complaints: string;
}

/** Runs `call` with llama.cpp's log kept; returns its result, the mapped bytes it spoke of, and its last complaints. */
function logged<T>(llama: Llama, call: () => T): Logged<T> {
  const complaints: string[] = [];
  let mappedBytes = 0;
  // Written at once: this thread never returns to its event loop, which would write a stream's text.
  llama.log((level, text) => {
    const mapped = /(\S+_Mapped) model buffer size = +([\d.]+) MiB/.exec(text);
    if (mapped !== null) mappedBytes += Math.round(Number(mapped[2]) * MIB);
    if (level < 3 || level > 4 || text.trim() === '') return;
    writeSync(2, `llama.cpp: ${text.trimEnd()}\n`);
    if (level === 4) {
      complaints.push(text.trim().slice(0, 300));
      if (complaints.length > 3) complaints.shift();
    }
  });
  try {
    return { result: call(), mappedBytes, complaints: complaints.join('; ') };
  } finally {
    llama.log(null);
  }
}

/**
 * Runs `call` in silence, and only if it fails (null) once more with the log, for the reason. A load writes about a thousand
 * lines, which take 5 to 10 ms to bring to JavaScript.
 */
function explained(llama: Llama, call: () => Pointer | null): Logged<Pointer | null> {
  const result = call();
  return result === null ? logged(llama, call) : { result, mappedBytes: 0, complaints: '' };
}

const isMemoryComplaint = (text: string): boolean => /alloc|out of memory|mmap failed|not enough/i.test(text);

/**
 * Loads the model with its weights mapped. `repack`: let llama.cpp copy weights into layouts that are faster on this processor
 * (`use_extra_bufts`); those copies are private memory. `elastic`: caches may start small. Throws `model_file_missing`, `model_file_invalid`, `model_load_failed`.
 */
export function loadModel(
  llama: Llama,
  path: string,
  { repack, elastic }: { readonly repack: boolean; readonly elastic: boolean },
): Model {
  openFile(llama, path);
  const params = llama.llama_model_default_params();
  params.load_mode = LOAD_MODE_MMAP;
  params.use_extra_bufts = repack;
  const before = mappedFiles();
  // What is mapped is seen in procfs; where there is none, the log tells it.
  const run = process.platform === 'linux' ? explained : logged<Pointer | null>;
  const { result: pointer, mappedBytes, complaints } = run(llama, () => llama.llama_model_load_from_file(path, params));
  if (pointer === null) {
    const code = isMemoryComplaint(complaints) ? 'model_load_failed' : 'model_file_invalid';
    throw new BerthError(code, `llama.cpp could not load the model: ${complaints || 'it gave no reason'}.`);
  }
  const vocab = llama.llama_model_get_vocab(pointer);
  const textOf = (token: number): string => (token < 0 ? '' : (llama.llama_vocab_get_text(vocab, token) ?? ''));
  const bos = llama.llama_vocab_bos(vocab);
  const architecture = metadata(llama, pointer, 'general.architecture');
  const pooling = metadata(llama, pointer, `${architecture}.pooling_type`);
  const cacheBytes = kvBytesPerToken(llama, pointer, architecture);
  // LongRoPE has factors for short and for long contexts, chosen by the context's size.
  const sized = metadata(llama, pointer, `${architecture}.rope.scaling.original_context_length`) !== null;
  const weightBytes = Number(llama.llama_model_size(pointer));
  const after = mappedFiles();
  const files = newFiles(before, after);
  // llama.cpp unmaps what lies before the first and behind the last tensor that it uses in place.
  const mapped = after.reduce((sum, { path: file, bytes }) => sum + (files.has(file) ? bytes : 0), mappedBytes);
  return {
    llama,
    pointer,
    vocab,
    vocabTokens: llama.llama_vocab_n_tokens(vocab),
    bos,
    addsBos: llama.llama_vocab_get_add_bos(vocab),
    chatTemplate: llama.llama_model_chat_template(pointer, null) ?? null,
    bosText: textOf(bos),
    eosText: textOf(llama.llama_vocab_eos(vocab)),
    trainedContextTokens: llama.llama_model_n_ctx_train(pointer),
    weightBytes,
    kvBytesPerToken: cacheBytes,
    sharesPrefixes: cacheBytes > 0 && !llama.llama_model_is_recurrent(pointer) && !llama.llama_model_is_hybrid(pointer),
    windowTokens: llama.llama_model_n_swa(pointer),
    elasticCache: elastic && cacheBytes > 0 && !sized,
    // Whole pages, or what the log tells: hundredths of a MiB for each buffer.
    mappedWeightBytes: mapped > weightBytes - ROUNDING_BYTES ? weightBytes : mapped,
    mappedFiles: files,
    poolingType: pooling === null ? -1 : Number(pooling),
  };
}

/** Keys and values, two bytes each, of all layers. */
function kvBytesPerToken(llama: Llama, model: Pointer, architecture: string | null): number {
  // Encoders keep none.
  if (metadata(llama, model, `${architecture}.attention.causal`) === 'false') return 0;
  const usual = llama.llama_model_n_embd(model) / Math.max(llama.llama_model_n_head(model), 1);
  const width = (key: string): number =>
    Number(metadata(llama, model, `${architecture}.attention.${key}_length`) ?? usual);
  const widths = width('key') + width('value');
  return Math.round(2 * llama.llama_model_n_layer(model) * llama.llama_model_n_head_kv(model) * widths);
}

/**
 * Throws `model_load_failed` if the machine can't hold a cache of so many tokens: llama.cpp would spend minutes on its tables
 * before it saw that, and the system might end the process for it.
 */
export function checkCacheFits(model: Model, cells: number): void {
  const bytes = cells * model.kvBytesPerToken;
  const allowed = process.constrainedMemory();
  const machine = allowed > 0 ? Math.min(allowed, totalmem()) : totalmem();
  if (bytes <= machine) return;
  throw new BerthError(
    'model_load_failed',
    `A KV cache of ${cells} tokens needs about ${Math.round(bytes / MIB)} MiB; this machine has ${Math.round(machine / MIB)} MiB.`,
  );
}

/** One scalar of the GGUF's metadata as text, or null. */
function metadata(llama: Llama, model: Pointer, key: string): string | null {
  const buffer = Buffer.alloc(256);
  const bytes = llama.llama_model_meta_val_str(model, key, buffer, buffer.length);
  return bytes < 0 ? null : buffer.toString('utf8', 0, Math.min(bytes, buffer.length - 1));
}

/** Makes a context. Throws `model_load_failed`, with llama.cpp's reason. */
export function makeContext(model: Model, override: Partial<ContextParams>): Pointer {
  const params = Object.assign(model.llama.llama_context_default_params(), override);
  const { result, complaints } = explained(model.llama, () => model.llama.llama_init_from_model(model.pointer, params));
  if (result === null) {
    throw new BerthError(
      'model_load_failed',
      `llama.cpp could not make a context: ${complaints || 'it gave no reason'}.`,
    );
  }
  return result;
}

/**
 * `llama_tokenize`. `addSpecial`: begin as the model was trained to (BOS, where it wants one). `parseSpecial`: control
 * tokens written out in the text become those tokens.
 */
export function tokenize(model: Model, text: string, addSpecial: boolean, parseSpecial: boolean): Int32Array {
  const bytes = Buffer.from(text, 'utf8');
  let tokens = new Int32Array(Math.ceil(bytes.length / 2) + 8);
  let count = model.llama.llama_tokenize(
    model.vocab,
    bytes,
    bytes.length,
    tokens,
    tokens.length,
    addSpecial,
    parseSpecial,
  );
  if (count < 0) {
    tokens = new Int32Array(-count);
    count = model.llama.llama_tokenize(
      model.vocab,
      bytes,
      bytes.length,
      tokens,
      tokens.length,
      addSpecial,
      parseSpecial,
    );
  }
  return tokens.slice(0, Math.max(count, 0));
}

const pieceBuffer = Buffer.alloc(1024);

/** The bytes of one token: not always whole characters. `special`: write control tokens out. */
export function pieceOf(model: Model, token: number, special: boolean): Buffer {
  const { llama, vocab } = model;
  const length = llama.llama_token_to_piece(vocab, token, pieceBuffer, pieceBuffer.length, 0, special);
  if (length >= 0) return Buffer.from(pieceBuffer.subarray(0, length));
  const large = Buffer.alloc(-length);
  llama.llama_token_to_piece(vocab, token, large, large.length, 0, special);
  return large;
}

export function freeModel(model: Model): void {
  model.llama.llama_model_free(model.pointer);
}
