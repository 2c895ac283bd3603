/**
 * Every setting of a node, in one table. Flags of `berth serve`, the environment, the schema of berth.yaml and
 * docs/configuration.md are made from it. It imports no schema library, so that `berth --help` stays quick.
 */
import { MIB, MINUTE, SECOND } from '../core/ids.ts';
import { bytes, choice, duration, text, texts, whole } from './kinds.ts';
import type { Kind } from './kinds.ts';

export interface Option<Value> {
  readonly kind: Kind<Value>;
  /** What holds if nobody says otherwise. */
  readonly default: Value | null;
  /** What `default: null` means. */
  readonly otherwise?: string;
  /** Berth's own variable: stronger than the file. */
  readonly env?: string;
  /** Variables of neighbours that people have set already: weaker than the file. */
  readonly fallbackEnv?: readonly string[];
  /** Flags of `berth serve`, as commander writes them. Strongest. */
  readonly flag?: string;
  /** Its value is never shown, in errors neither. */
  readonly secret?: boolean;
  readonly about: string;
}

export const option = <Value>(spec: Option<Value>): Option<Value> => spec;

const PORT = whole(0, 65_535);
export const TOKENS = whole(1, 16_777_216);
export const KEEP_ALIVE_ABOUT =
  'How long a model stays on the device after its last request. 0 unloads at once, -1 keeps it.';

/** All engines that a model may name. */
export const ENGINES = ['llamacpp', 'llama-server', 'vllm', 'sglang', 'trtllm', 'remote', 'fake'] as const;

/** Those that can be every model's: one that is computed elsewhere needs an address of its own. */
export const USUAL_ENGINES = ENGINES.filter((name) => name !== 'remote');

/** Engines that compute on a GPU where there is one. */
export const GPU_ENGINES: ReadonlySet<string> = new Set(['vllm', 'sglang', 'trtllm']);

export const OPTIONS = {
  'device.kind': option({
    kind: choice('auto', 'cpu', 'nvidia'),
    default: 'auto' as const,
    env: 'BERTH_DEVICE',
    about:
      'What models share. auto: the NVIDIA GPUs, a device each, if there are any and a model of vllm, sglang or trtllm is listed; else the CPU.',
  }),
  'device.gpu': option({
    kind: whole(0, 255),
    default: null,
    otherwise: 'all that there are, where `device.kind` is auto; else 0',
    env: 'BERTH_GPU',
    about: 'The number of the GPU, where it shall be one.',
  }),
  'device.memory': option({
    kind: bytes(1),
    default: null,
    otherwise: '70 % of the machine’s memory, or of the control group’s limit; 90 % of a GPU’s',
    env: 'BERTH_MEMORY',
    flag: '--memory <size>',
    about: 'Memory that all models together may hold; of several GPUs, on each.',
  }),
  'device.lanes': option({
    kind: whole(1, 4096),
    default: null,
    otherwise: 'all cores that the process may use; 1 of a GPU',
    env: 'BERTH_LANES',
    flag: '--lanes <n>',
    about: 'Units of compute to share between models: cores on a CPU. Models take turns on a GPU that is one.',
  }),
  modelsDir: option({
    kind: text('a folder'),
    default: null,
    otherwise: '`models` in BERTH_HOME',
    env: 'BERTH_MODELS_DIR',
    flag: '--models-dir <folder>',
    about: 'Folder whose GGUF files are served; `berth pull` writes into it. Relative to berth.yaml.',
  }),
  'defaults.context': option({
    kind: TOKENS,
    default: 4096,
    env: 'BERTH_CONTEXT',
    fallbackEnv: ['OLLAMA_CONTEXT_LENGTH'],
    flag: '-c, --context <tokens>',
    about: 'Longest prompt + output of a model that names no `context`; never more than the model was trained for.',
  }),
  'defaults.parallel': option({
    kind: whole(1, 256),
    default: 4,
    env: 'BERTH_PARALLEL',
    fallbackEnv: ['OLLAMA_NUM_PARALLEL'],
    flag: '--parallel <n>',
    about: 'Requests that a model computes at once, if it names no `parallel`.',
  }),
  'defaults.batch': option({
    kind: whole(1, 65_536),
    default: 512,
    env: 'BERTH_BATCH',
    about: 'Most tokens in one step of a model that names no `batch`: the prefill chunk.',
  }),
  'defaults.slo': option({
    kind: choice('latency', 'balanced', 'throughput'),
    default: 'balanced' as const,
    about: 'What a model that names no `slo` is run for.',
  }),
  'limits.queue': option({
    kind: whole(1, 1_000_000),
    default: 512,
    env: 'BERTH_QUEUE',
    fallbackEnv: ['OLLAMA_MAX_QUEUE'],
    about: 'Requests that may wait for one model; the next one is refused with `queue_full`.',
  }),
  'limits.queueTimeout': option({
    kind: duration('finite'),
    default: 5 * MINUTE,
    env: 'BERTH_QUEUE_TIMEOUT',
    about: 'Longest wait of a request before it computes; then it fails with `queue_timeout`.',
  }),
  'limits.bodyBytes': option({
    kind: bytes(1024),
    default: 16 * MIB,
    env: 'BERTH_BODY_BYTES',
    about: 'Largest HTTP body.',
  }),
  'limits.loadTimeout': option({
    kind: duration('finite'),
    default: 5 * MINUTE,
    env: 'BERTH_LOAD_TIMEOUT',
    fallbackEnv: ['OLLAMA_LOAD_TIMEOUT'],
    about: 'A model that takes longer to load has failed.',
  }),
  'residency.minimumStay': option({
    kind: duration('finite'),
    default: 2 * SECOND,
    about: 'A loaded model is not evicted sooner, so that two models don’t throw each other out.',
  }),
  'residency.keepAlive': option({
    kind: duration('forever'),
    default: 5 * MINUTE,
    env: 'BERTH_KEEP_ALIVE',
    fallbackEnv: ['OLLAMA_KEEP_ALIVE'],
    flag: '--keep-alive <duration>',
    about: KEEP_ALIVE_ABOUT,
  }),
  'residency.sleepFor': option({
    kind: duration('forever'),
    default: 60 * MINUTE,
    about: 'How long a model then stays asleep (weights mapped, no compute buffers) before its process ends.',
  }),
  'residency.patience': option({
    kind: duration('finite'),
    default: 10 * SECOND,
    about: 'Requests for a model that isn’t loaded wait at most so long before a busy model makes room.',
  }),
  'kv.hostMemory': option({
    kind: bytes(0),
    default: null,
    otherwise: '10 % of the machine’s memory, at most half of what is free in `kv.hostFolder`',
    env: 'BERTH_KV_HOST_MEMORY',
    about: 'Memory for the KV of conversations that are not on the device, besides `device.memory`. 0: none.',
  }),
  'kv.disk': option({
    kind: bytes(0),
    default: null,
    otherwise: '10GiB, at most a tenth of what is free on that disk',
    env: 'BERTH_KV_DISK',
    about: 'Disk for the KV of conversations; what lies there outlasts the node. 0: none.',
  }),
  'kv.folder': option({
    kind: text('a folder'),
    default: null,
    otherwise: '`kv` in BERTH_HOME',
    env: 'BERTH_KV_FOLDER',
    about: 'Folder of the KV on disk. Relative to berth.yaml. For one node alone, and closed to other users.',
  }),
  'kv.hostFolder': option({
    kind: text('a folder in memory (tmpfs)'),
    default: null,
    otherwise: '/dev/shm where that is in memory, else none',
    env: 'BERTH_KV_HOST_FOLDER',
    about: 'Folder in whose memory the node makes one of its own for KV.',
  }),
  'kv.minimumTokens': option({
    kind: TOKENS,
    default: 64,
    about: 'KV of fewer tokens is computed again rather than kept.',
  }),
  'http.host': option({
    kind: text('an address or host name'),
    default: '127.0.0.1',
    env: 'BERTH_HOST',
    flag: '--host <address>',
    about: 'Address of the public API. Beyond loopback it needs `http.apiKeys`.',
  }),
  'http.port': option({
    kind: PORT,
    default: 8420,
    env: 'BERTH_PORT',
    flag: '-p, --port <port>',
    about: 'Port of the public API; 0 takes a free one.',
  }),
  'http.adminHost': option({
    kind: text('an address or host name'),
    default: '127.0.0.1',
    env: 'BERTH_ADMIN_HOST',
    flag: '--admin-host <address>',
    about: 'Address of the admin API and of /metrics. Beyond loopback it needs `http.adminKey`.',
  }),
  'http.adminPort': option({
    kind: PORT,
    default: 8421,
    env: 'BERTH_ADMIN_PORT',
    flag: '--admin-port <port>',
    about: 'Port of the admin API; 0 takes a free one.',
  }),
  'http.apiKeys': option({
    secret: true,
    kind: texts('a list of keys'),
    default: [] as readonly string[],
    env: 'BERTH_API_KEYS',
    fallbackEnv: ['LLAMA_API_KEY'],
    about: 'Keys that may use the API. None: everybody who reaches the port, which therefore must be loopback.',
  }),
  'http.adminKey': option({
    secret: true,
    kind: text('a key'),
    default: null,
    otherwise: 'none',
    env: 'BERTH_ADMIN_KEY',
    about: 'Key of the admin API. None: whoever reaches the admin port is the operator, so it must be loopback.',
  }),
  'http.allowedHosts': option({
    kind: texts('a list of host names'),
    default: [] as readonly string[],
    env: 'BERTH_ALLOWED_HOSTS',
    about: 'Host names accepted besides loopback’s and `http.host` (a guard against DNS rebinding).',
  }),
  'http.origins': option({
    kind: texts('a list of origins such as https://chat.example'),
    default: [] as readonly string[],
    env: 'BERTH_ORIGINS',
    fallbackEnv: ['OLLAMA_ORIGINS'],
    about: 'Web pages of these origins may call the API from a browser.',
  }),
  'pull.hubUrl': option({
    kind: text('an address such as https://hub.example'),
    default: null,
    otherwise: 'the hub’s own',
    env: 'BERTH_HUB_URL',
    fallbackEnv: ['HF_ENDPOINT'],
    about: 'Where `hf:` sources are pulled from.',
  }),
  'pull.hubToken': option({
    secret: true,
    kind: text('a token'),
    default: null,
    otherwise: 'none',
    env: 'BERTH_HUB_TOKEN',
    fallbackEnv: ['HF_TOKEN'],
    about: 'Token for gated models of the hub. Better kept in the environment than in a file.',
  }),
  'log.level': option({
    kind: choice('trace', 'debug', 'info', 'warn', 'error', 'silent'),
    default: 'info' as const,
    env: 'BERTH_LOG_LEVEL',
    flag: '--log-level <level>',
    about: 'Least severe line that is logged.',
  }),
} as const;

export type OptionPath = keyof typeof OPTIONS;
export type OptionValues = {
  readonly [Path in OptionPath]: (typeof OPTIONS)[Path] extends Option<infer Value> ? Value | null : never;
};
