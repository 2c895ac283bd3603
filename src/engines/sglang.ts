/**
 * SGLang as an engine, by its documentation and the source of 0.5.23: it could not be run where this was written, so it is held to a
 * stand-in that speaks the same endpoints (docs/engines.md). It wants a GPU.
 */
import { SECOND } from '../core/ids.ts';
import type { Bytes } from '../core/ids.ts';
import { MIB } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import { createChatTexts } from './checkpoint-chat.ts';
import { estimateBytes, readCheckpoint } from './checkpoint.ts';
import type { CompletionsWire } from './completions.ts';
import { generateByTokens } from './completions.ts';
import type { Engine, ModelLaunch } from './engine.ts';
import type { HttpDialect, ServerCommand, ServerPlace } from './http-dialect.ts';
import { createHttpEngine } from './http-engine.ts';
import type { HttpEngineOptions } from './http-engine.ts';
import type { Environment, Program } from './programs.ts';
import { childEnvironment, findProgram, hasOption, ownArgs } from './programs.ts';
import { explainServer, lastError } from './server-errors.ts';
import { canary, checkRequest, createSalts, PATIENCE, runBy } from './vllm.ts';
import { ask, vllmWire } from './vllm-wire.ts';

export interface SglangOptions extends HttpEngineOptions {
  /** The node's environment. `BERTH_SGLANG` names the Python that has SGLang. */
  readonly env?: Environment;
}

const PYTHON: Program = {
  name: 'python3',
  variable: 'BERTH_SGLANG',
  advice: 'Install SGLang into a virtual environment and name its python with BERTH_SGLANG (docs/engines.md says how).',
};

const OUR_ARGS =
  /^(--host|--port|--api-key|--admin-api-key|--model-path|--model|--served-model-name|--context-length|--max-running-requests|--max-total-tokens|--fastapi-root-path|--ssl-.*|--log-requests.*|--config|--grpc-mode)(=|$)/;
const SGLANG_ENV =
  /^(SGLANG_\w+|SGL_\w+|TORCH\w*|HF_HOME|HF_HUB_CACHE|XDG_CACHE_HOME|FLASHINFER_\w+|KVCACHED_\w+|ENABLE_KVCACHED)$/;
const NO_ENV = /^$/;

/** Of its processes on the device, without weights and KV: a CUDA context, graphs, workspaces. A guess, until one was measured. */
const SERVER_BYTES: Bytes = 1_536 * MIB;
const CONTROL_MICROS = 10 * SECOND;
/** A frozen step is no hung step. */
const WATCHDOG_SECONDS = 100_000;

export function createSglangEngine(options: SglangOptions = {}): Engine {
  const { env = process.env } = options;
  return createHttpEngine(sglangDialect(env), { patience: PATIENCE, ...options });
}

export function sglangDialect(env: Environment): HttpDialect {
  const saltOf = createSalts();
  const wire = sglangWire(saltOf);
  return {
    name: 'sglang',
    capabilities: {
      preempts: 'token',
      sleeps: true,
      exportsKv: false,
      saltsPrefixCache: true,
      adjustableLanes: false,
      embeds: true,
      logprobs: true,
    },
    isManyProcesses: true,
    async command(launch, place) {
      await readCheckpoint(launch.path);
      return sglangCommand(launch, place, env);
    },
    // Asked again and again while it loads: `/health` may compute a token each time.
    readyPath: '/ready',
    canary: (exchange) => canary(exchange, saltOf),
    run: runBy(saltOf, (request, exchange) => generateByTokens(request, exchange, wire)),
    async fallAsleep(client, signal) {
      // It asserts that it is idle, and forgets what it has cached with its memory; told so all the same.
      await client.ask('/flush_cache', {}, { signal, deadlineMicros: CONTROL_MICROS });
      await client.ask('/release_memory_occupation', {}, { signal, deadlineMicros: null });
    },
    async wakeUp(client, signal) {
      await client.ask('/resume_memory_occupation', {}, { signal, deadlineMicros: null });
    },
    explain: (thrown) => explainServer('SGLang', thrown),
    explainStart(lines) {
      const said = lastError(lines);
      if (said === null) return null;
      const isUnknown = /unrecognized arguments|invalid choice|No module named/i.test(said);
      return new BerthError(
        isUnknown ? 'engine_mismatch' : 'model_load_failed',
        isUnknown
          ? `SGLang is not there, or not as Berth knows it (0.5.23): ${said}`
          : `SGLang could not load it: ${said}`,
      );
    },
    check: checkRequest,
    estimate: (launch) => estimateBytes(launch, SERVER_BYTES),
  };
}

/** As vLLM's, but for how text is made into tokens: it takes no messages, and says `text` where vLLM says `prompt`. */
function sglangWire(saltOf: ReturnType<typeof createSalts>): CompletionsWire {
  const shared = vllmWire({ saltOf });
  const chats = createChatTexts();
  return {
    ...shared,
    async tokenize(input, exchange) {
      const { modelId: model, path } = exchange.launch;
      if (input.type === 'tokens') return input.tokens;
      const isChat = input.type === 'chat';
      const prompt = isChat ? await chats.render(path, input) : input.text;
      // A template writes its special tokens itself.
      return (await ask(exchange, '/tokenize', { model, prompt, add_special_tokens: !isChat }))['tokens'] as number[];
    },
    async detokenize(tokens, exchange) {
      const { modelId: model } = exchange.launch;
      return String((await ask(exchange, '/detokenize', { model, tokens }))['text']);
    },
  };
}

export function sglangCommand(launch: ModelLaunch, { port, apiKey }: ServerPlace, env: Environment): ServerCommand {
  const own = ownArgs(launch, OUR_ARGS);
  const flags = {
    '--model-path': launch.path,
    '--served-model-name': launch.modelId,
    '--host': '127.0.0.1',
    '--port': port,
    '--context-length': launch.contextTokens,
    '--max-running-requests': launch.parallel,
    // All of its KV, in tokens: its own choice would be a part of what is free.
    '--max-total-tokens': launch.kvTokens,
    ...(hasOption(own, '--chunked-prefill-size') ? {} : { '--chunked-prefill-size': launch.batchTokens }),
    '--watchdog-timeout': WATCHDOG_SECONDS,
    '--log-level': 'warning',
    // In the arguments, since it reads no variable: other users of the machine can see it there. See docs/engines.md.
    '--api-key': apiKey,
  };
  const switches = [
    '--enable-memory-saver',
    // Else what it wakes with is no model.
    '--enable-weights-cpu-backup',
    '--enable-cache-report',
    '--enable-priority-scheduling',
    '--schedule-low-priority-values-first',
  ];
  return {
    command: findProgram(PYTHON, env),
    args: [
      '-m',
      'sglang.launch_server',
      ...Object.entries(flags).flatMap(([name, value]) => [name, String(value)]),
      ...switches,
      ...own,
    ],
    env: {
      ...childEnvironment(env, SGLANG_ENV, NO_ENV),
      HF_HUB_OFFLINE: '1',
      TRANSFORMERS_OFFLINE: '1',
      NO_COLOR: '1',
    },
  };
}
