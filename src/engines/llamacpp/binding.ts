/**
 * llama.h of llama.cpp release v0.4.0, as far as Berth calls it, through koffi. Structs are passed by value, so a library of
 * another release would corrupt memory in silence: version, sizes and known defaults are compared before anything else is called.
 */
import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import koffi, { type LibraryHandle, type TypeObject } from 'koffi';
import { BerthError } from '../../errors.ts';

/** What `llama_version()` says in the builds of release v0.4.0, whose header this file was written from. */
export const LLAMA_RELEASE = '0.4.0-dev';

/** An opaque pointer (a `llama_model *`, …). Never null where the type says `Pointer`. */
export type Pointer = bigint;

/** `llama_model_params`, in part: fields that aren't named keep the library's defaults. */
export type ModelParams = Record<string, unknown> & {
  use_extra_bufts: boolean;
  n_gpu_layers: number;
  load_mode: number;
};
/** `llama_context_params`, in part. */
export type ContextParams = Record<string, unknown> & {
  n_ctx: number;
  n_batch: number;
  n_ubatch: number;
  n_seq_max: number;
  n_outputs_max: number;
  n_threads: number;
  n_threads_batch: number;
  pooling_type: number;
  attention_type: number;
  flash_attn_type: number;
  embeddings: boolean;
  kv_unified: boolean;
};
/** `llama_batch`: addresses of typed arrays that must outlive the call. */
export interface Batch {
  n_tokens: number;
  readonly token: bigint;
  readonly embd: null;
  readonly pos: bigint;
  readonly n_seq_id: bigint;
  readonly seq_id: bigint;
  readonly logits: bigint;
}

const pointerStruct = 'void *';
const modelParamsType = koffi.struct('llama_model_params', {
  devices: pointerStruct,
  tensor_buft_overrides: pointerStruct,
  n_gpu_layers: 'int32_t',
  split_mode: 'int32_t',
  load_mode: 'int32_t',
  lazy_mode: 'int32_t',
  main_gpu: 'int32_t',
  tensor_split: pointerStruct,
  progress_callback: pointerStruct,
  progress_callback_user_data: pointerStruct,
  kv_overrides: pointerStruct,
  vocab_only: 'bool',
  check_tensors: 'bool',
  use_extra_bufts: 'bool',
  no_host: 'bool',
  no_alloc: 'bool',
  load_mtp: 'bool',
});
const contextParamsType = koffi.struct('llama_context_params', {
  n_ctx: 'uint32_t',
  n_batch: 'uint32_t',
  n_ubatch: 'uint32_t',
  n_seq_max: 'uint32_t',
  n_rs_seq: 'uint32_t',
  n_outputs_max: 'uint32_t',
  n_outputs_max_per_seq: 'uint32_t',
  n_threads: 'int32_t',
  n_threads_batch: 'int32_t',
  ctx_type: 'int32_t',
  rope_scaling_type: 'int32_t',
  pooling_type: 'int32_t',
  attention_type: 'int32_t',
  flash_attn_type: 'int32_t',
  rope_freq_base: 'float',
  rope_freq_scale: 'float',
  yarn_ext_factor: 'float',
  yarn_attn_factor: 'float',
  yarn_beta_fast: 'float',
  yarn_beta_slow: 'float',
  yarn_orig_ctx: 'uint32_t',
  defrag_thold: 'float',
  cb_eval: pointerStruct,
  cb_eval_user_data: pointerStruct,
  type_k: 'int32_t',
  type_v: 'int32_t',
  abort_callback: pointerStruct,
  abort_callback_data: pointerStruct,
  embeddings: 'bool',
  offload_kqv: 'bool',
  no_perf: 'bool',
  op_offload: 'bool',
  swa_full: 'bool',
  kv_unified: 'bool',
  samplers: pointerStruct,
  n_samplers: 'size_t',
  ctx_other: pointerStruct,
});
const batchType = koffi.struct('llama_batch', {
  n_tokens: 'int32_t',
  token: pointerStruct,
  embd: pointerStruct,
  pos: pointerStruct,
  n_seq_id: pointerStruct,
  seq_id: pointerStruct,
  logits: pointerStruct,
});
koffi.struct('llama_sampler_chain_params', { no_perf: 'bool' });
const logCallbackType = koffi.proto('void llama_log_callback(int level, const char *text, void *user)');

/** Sizes in bytes from a C program compiled against the header, on every 64-bit platform. */
const STRUCT_BYTES: readonly (readonly [string, TypeObject, number])[] = [
  ['llama_model_params', modelParamsType, 80],
  ['llama_context_params', contextParamsType, 160],
  ['llama_batch', batchType, 56],
];

const SIGNATURES = {
  llama_version: 'const char *llama_version()',
  llama_backend_init: 'void llama_backend_init()',
  llama_model_default_params: 'llama_model_params llama_model_default_params()',
  llama_context_default_params: 'llama_context_params llama_context_default_params()',
  llama_model_load_from_file: 'void *llama_model_load_from_file(const char *path, llama_model_params params)',
  llama_model_free: 'void llama_model_free(void *model)',
  llama_init_from_model: 'void *llama_init_from_model(void *model, llama_context_params params)',
  llama_free: 'void llama_free(void *ctx)',
  llama_n_ctx: 'uint32_t llama_n_ctx(void *ctx)',
  llama_get_memory: 'void *llama_get_memory(void *ctx)',
  llama_model_get_vocab: 'void *llama_model_get_vocab(void *model)',
  llama_model_n_ctx_train: 'int32_t llama_model_n_ctx_train(void *model)',
  llama_model_n_embd_out: 'int32_t llama_model_n_embd_out(void *model)',
  llama_model_n_embd: 'int32_t llama_model_n_embd(void *model)',
  llama_model_n_layer: 'int32_t llama_model_n_layer(void *model)',
  llama_model_n_head: 'int32_t llama_model_n_head(void *model)',
  llama_model_n_head_kv: 'int32_t llama_model_n_head_kv(void *model)',
  llama_model_size: 'uint64_t llama_model_size(void *model)',
  llama_model_n_swa: 'int32_t llama_model_n_swa(void *model)',
  llama_model_has_decoder: 'bool llama_model_has_decoder(void *model)',
  llama_model_is_recurrent: 'bool llama_model_is_recurrent(void *model)',
  llama_model_is_hybrid: 'bool llama_model_is_hybrid(void *model)',
  llama_model_meta_val_str: 'int32_t llama_model_meta_val_str(void *model, const char *key, void *buf, size_t size)',
  llama_model_chat_template: 'const char *llama_model_chat_template(void *model, const char *name)',
  llama_vocab_n_tokens: 'int32_t llama_vocab_n_tokens(void *vocab)',
  llama_vocab_get_text: 'const char *llama_vocab_get_text(void *vocab, int32_t token)',
  llama_vocab_is_eog: 'bool llama_vocab_is_eog(void *vocab, int32_t token)',
  llama_vocab_bos: 'int32_t llama_vocab_bos(void *vocab)',
  llama_vocab_eos: 'int32_t llama_vocab_eos(void *vocab)',
  llama_vocab_get_add_bos: 'bool llama_vocab_get_add_bos(void *vocab)',
  llama_tokenize:
    'int32_t llama_tokenize(void *vocab, void *text, int32_t len, void *tokens, int32_t max, bool special, bool parse)',
  llama_token_to_piece:
    'int32_t llama_token_to_piece(void *vocab, int32_t token, void *buf, int32_t len, int32_t lstrip, bool special)',
  llama_decode: 'int32_t llama_decode(void *ctx, llama_batch batch)',
  llama_set_n_threads: 'void llama_set_n_threads(void *ctx, int32_t threads, int32_t threads_batch)',
  llama_get_logits: 'void *llama_get_logits(void *ctx)',
  llama_get_logits_ith: 'void *llama_get_logits_ith(void *ctx, int32_t i)',
  llama_get_embeddings_seq: 'void *llama_get_embeddings_seq(void *ctx, int32_t seq)',
  llama_pooling_type: 'int32_t llama_pooling_type(void *ctx)',
  llama_state_get_size: 'size_t llama_state_get_size(void *ctx)',
  llama_state_get_data: 'size_t llama_state_get_data(void *ctx, void *dst, size_t size)',
  llama_state_set_data: 'size_t llama_state_set_data(void *ctx, void *src, size_t size)',
  llama_memory_clear: 'void llama_memory_clear(void *mem, bool data)',
  llama_memory_seq_cp: 'void llama_memory_seq_cp(void *mem, int32_t from, int32_t to, int32_t p0, int32_t p1)',
  llama_memory_seq_pos_min: 'int32_t llama_memory_seq_pos_min(void *mem, int32_t seq)',
  llama_memory_seq_pos_max: 'int32_t llama_memory_seq_pos_max(void *mem, int32_t seq)',
  llama_state_seq_get_size: 'size_t llama_state_seq_get_size(void *ctx, int32_t seq)',
  llama_state_seq_get_data: 'size_t llama_state_seq_get_data(void *ctx, void *dst, size_t size, int32_t seq)',
  llama_state_seq_set_data: 'size_t llama_state_seq_set_data(void *ctx, void *src, size_t size, int32_t seq)',
  llama_state_seq_get_size_ext: 'size_t llama_state_seq_get_size_ext(void *ctx, int32_t seq, uint32_t flags)',
  llama_state_seq_get_data_ext:
    'size_t llama_state_seq_get_data_ext(void *ctx, void *dst, size_t size, int32_t seq, uint32_t flags)',
  llama_state_seq_set_data_ext:
    'size_t llama_state_seq_set_data_ext(void *ctx, void *src, size_t size, int32_t seq, uint32_t flags)',
  llama_memory_seq_rm: 'bool llama_memory_seq_rm(void *mem, int32_t seq, int32_t p0, int32_t p1)',
  llama_sampler_chain_init: 'void *llama_sampler_chain_init(llama_sampler_chain_params params)',
  llama_sampler_chain_add: 'void llama_sampler_chain_add(void *chain, void *sampler)',
  llama_sampler_init_dist: 'void *llama_sampler_init_dist(uint32_t seed)',
  llama_sampler_init_top_k: 'void *llama_sampler_init_top_k(int32_t k)',
  llama_sampler_init_top_p: 'void *llama_sampler_init_top_p(float p, size_t min_keep)',
  llama_sampler_init_min_p: 'void *llama_sampler_init_min_p(float p, size_t min_keep)',
  llama_sampler_init_temp: 'void *llama_sampler_init_temp(float t)',
  llama_sampler_init_grammar: 'void *llama_sampler_init_grammar(void *vocab, const char *grammar, const char *root)',
  llama_sampler_apply: 'void llama_sampler_apply(void *sampler, void *candidates)',
  llama_sampler_accept: 'void llama_sampler_accept(void *sampler, int32_t token)',
  llama_sampler_sample: 'int32_t llama_sampler_sample(void *sampler, void *ctx, int32_t i)',
  llama_sampler_free: 'void llama_sampler_free(void *sampler)',
  llama_log_set: 'void llama_log_set(void *callback, void *user)',
} as const;

interface ReturnTypes {
  readonly llama_version: string;
  readonly llama_model_default_params: ModelParams;
  readonly llama_context_default_params: ContextParams;
  readonly llama_model_load_from_file: Pointer | null;
  readonly llama_init_from_model: Pointer | null;
  readonly llama_get_memory: Pointer | null;
  readonly llama_model_get_vocab: Pointer;
  readonly llama_model_chat_template: string | null;
  readonly llama_vocab_get_text: string | null;
  readonly llama_model_size: number | bigint;
  readonly llama_model_has_decoder: boolean;
  readonly llama_model_is_recurrent: boolean;
  readonly llama_model_is_hybrid: boolean;
  readonly llama_vocab_is_eog: boolean;
  readonly llama_vocab_get_add_bos: boolean;
  readonly llama_memory_seq_rm: boolean;
  readonly llama_get_logits: Pointer | null;
  readonly llama_get_logits_ith: Pointer | null;
  readonly llama_get_embeddings_seq: Pointer | null;
  readonly llama_sampler_chain_init: Pointer;
  readonly llama_sampler_init_dist: Pointer;
  readonly llama_sampler_init_top_k: Pointer;
  readonly llama_sampler_init_top_p: Pointer;
  readonly llama_sampler_init_min_p: Pointer;
  readonly llama_sampler_init_temp: Pointer;
  readonly llama_sampler_init_grammar: Pointer | null;
}

type Name = keyof typeof SIGNATURES;
/** The functions of llama.h by name. Arguments are checked by koffi, at run time. */
export type LlamaFunctions = {
  readonly [K in Name]: (...args: unknown[]) => K extends keyof ReturnTypes ? ReturnTypes[K] : number;
};

export interface Llama extends LlamaFunctions {
  readonly version: string;
  /** Where the libraries are. */
  readonly folder: string;
  /** Keeps log lines of warnings and errors (level ≥ 3) and calls `onLine` for each line; null: no JavaScript on the way, all dropped. */
  log(onLine: ((level: number, text: string) => void) | null): void;
  /** `madvise(2)`; not 0 where it failed or there is none. */
  advise(address: Pointer, bytes: number, advice: number): number;
  /** All of the file will be read soon: the system fetches what is not in its page cache (`posix_fadvise(2)`, where there is it). */
  willRead(file: number): void;
  /** Memory outside of V8's heap, so that it is gone at once when it is freed; null: there is none. */
  allocate(bytes: number): Pointer | null;
  release(memory: Pointer): void;
  /** Gives freed heap pages back to the system, where the C library can (glibc's malloc_trim). */
  trim(): void;
}

/** Platform packages in order of preference: an accelerator that the user installed, else the pinned CPU build. */
export function platformPackages(platform: string, arch: string): readonly string[] {
  const system = platform === 'darwin' ? 'mac' : platform === 'win32' ? 'win' : platform;
  const base = `${system}-${arch}`;
  return [`${base}-cuda`, `${base}-vulkan`, `${base}-metal`, base];
}

function findFolder(): string {
  const require = createRequire(import.meta.url);
  const names = platformPackages(process.platform, process.arch);
  for (const name of names) {
    try {
      const entry = require.resolve(`@node-llama-cpp/${name}`);
      return join(dirname(dirname(entry)), 'bins', name);
    } catch {
      // not installed: the next one
    }
  }
  throw new BerthError(
    'engine_mismatch',
    `No llama.cpp library is installed for ${process.platform}-${process.arch}; one of ${names.map((name) => `@node-llama-cpp/${name}`).join(', ')} is needed.`,
  );
}

function findLibrary(folder: string, name: string): string {
  const pattern = new RegExp(
    `^(?:lib)?${name}(?:\\.[a-z]+)?\\.v[\\d.]+\\.(?:so|dylib|dll)$|^(?:lib)?${name}\\.(?:so|dylib|dll)$`,
  );
  const file = readdirSync(folder).find((entry) => pattern.test(entry));
  if (file === undefined)
    throw new BerthError('engine_mismatch', `The folder of llama.cpp's libraries holds no ${name} library.`);
  return join(folder, file);
}

function checkLayout(functions: LlamaFunctions, version: string): void {
  const wrong: string[] = [];
  for (const [name, type, bytes] of STRUCT_BYTES) {
    if (koffi.sizeof(type) !== bytes) wrong.push(`sizeof(${name}) is ${koffi.sizeof(type)}, not ${bytes}`);
  }
  const context = functions.llama_context_default_params();
  const model = functions.llama_model_default_params();
  const defaults: readonly (readonly [string, unknown, unknown])[] = [
    ['n_ctx', context.n_ctx, 512],
    ['n_batch', context.n_batch, 2048],
    ['n_ubatch', context.n_ubatch, 512],
    ['n_seq_max', context.n_seq_max, 1],
    ['pooling_type', context.pooling_type, -1],
    ['flash_attn_type', context.flash_attn_type, -1],
    ['type_k', context['type_k'], 1],
    ['offload_kqv', context['offload_kqv'], true],
    ['kv_unified', context.kv_unified, false],
    ['n_gpu_layers', model.n_gpu_layers, -1],
    ['split_mode', model['split_mode'], 1],
    ['use_extra_bufts', model.use_extra_bufts, true],
  ];
  for (const [name, found, expected] of defaults) {
    if (found !== expected) wrong.push(`default ${name} is ${String(found)}, not ${String(expected)}`);
  }
  if (version !== LLAMA_RELEASE) wrong.unshift('another release');
  if (wrong.length > 0) {
    throw new BerthError(
      'engine_mismatch',
      `Berth's runner is written for llama.cpp ${LLAMA_RELEASE}, the installed library says ${version}: ${wrong.join('; ')}.`,
    );
  }
}

/** The C library of this process, for `strlen`-like helpers. */
function findLibc(): LibraryHandle | null {
  const name =
    process.platform === 'darwin' ? 'libSystem.B.dylib' : process.platform === 'win32' ? 'msvcrt.dll' : 'libc.so.6';
  try {
    return koffi.load(name);
  } catch {
    return null;
  }
}

const POSIX_FADV_WILLNEED = 3;

function memoryFunctions(
  libc: LibraryHandle | null,
): Pick<Llama, 'advise' | 'willRead' | 'allocate' | 'release' | 'trim'> {
  const linux = process.platform === 'linux' ? libc : null;
  const madvise = linux?.func('int madvise(void *address, size_t bytes, int advice)');
  const fadvise = linux?.func('int posix_fadvise(int file, int64 offset, int64 bytes, int advice)');
  const mallocTrim = linux?.func('int malloc_trim(size_t pad)');
  const malloc = libc?.func('void *malloc(size_t bytes)');
  const free = libc?.func('void free(void *memory)');
  return {
    advise: (address, bytes, advice) => (madvise === undefined ? -1 : Number(madvise(address, bytes, advice))),
    willRead: (file) => void fadvise?.(file, 0, 0, POSIX_FADV_WILLNEED),
    allocate: (bytes) => (malloc === undefined || free === undefined ? null : (malloc(bytes) as Pointer | null)),
    release: (memory) => void free?.(memory),
    trim: () => void mallocTrim?.(0),
  };
}

/**
 * Loads the libraries and compares release and layout. Call once a process, in the one thread that will call llama.cpp.
 * Throws `engine_mismatch` (naming both releases) if they don't fit.
 */
export function openLlama(): Llama {
  koffi.config({ sync_stack_size: 8 * 1024 * 1024, async_stack_size: 8 * 1024 * 1024 });
  const folder = findFolder();
  const ggml = koffi.load(findLibrary(folder, 'ggml'), { global: true });
  const library = koffi.load(findLibrary(folder, 'llama'));
  const functions = {} as Record<Name, unknown>;
  for (const [name, signature] of Object.entries(SIGNATURES)) functions[name as Name] = library.func(signature);
  const calls = functions as LlamaFunctions;
  const version = calls.llama_version();
  checkLayout(calls, version);

  const libc = findLibc();
  // A function of the C library that ignores what a log callback is given beyond its first integer: logging without JavaScript.
  const silent: unknown = libc?.symbol('abs') ?? null;
  let callback: bigint | null = null;
  const log = (onLine: ((level: number, text: string) => void) | null): void => {
    const previous = callback;
    if (onLine === null && silent !== null) {
      callback = null;
      calls.llama_log_set(silent, null);
    } else {
      callback = koffi.register((level: number, text: string) => onLine?.(level, text), koffi.pointer(logCallbackType));
      calls.llama_log_set(callback, null);
    }
    if (previous !== null) koffi.unregister(previous);
  };
  log(null);
  calls.llama_backend_init();
  ggml.func('void ggml_backend_load_all_from_path(const char *path)')(folder);

  return Object.assign(calls, { version, folder, log, ...memoryFunctions(libc) });
}

/** `bytes` bytes at `pointer`, without a copy. Valid only as long as llama.cpp keeps the memory. */
export function viewAt(pointer: Pointer, bytes: number): ArrayBuffer {
  return koffi.view(pointer, bytes);
}

/** One 32-bit integer at `pointer`. */
export function int32At(pointer: Pointer): number {
  return koffi.decode.int32(pointer);
}

/** The address of a typed array's memory, for arrays of pointers. The array must stay alive while C may read it. */
export function addressOf(array: NodeJS.TypedArray): bigint {
  return koffi.address(array);
}
