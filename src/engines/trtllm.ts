/**
 * TensorRT-LLM (`trtllm-serve`) as an engine, by its documentation and source: it could not be run where this was written, so it is held
 * to a stand-in that speaks the same endpoints (docs/engines.md). It wants a GPU. Its completions take no salt, so its prefix cache is
 * off; and they tell text or token ids, not both, so text is asked for (`trtllm-text.ts`).
 */
import { createHmac, randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Bytes } from '../core/ids.ts';
import { MIB } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import { estimateBytes, readCheckpoint } from './checkpoint.ts';
import type { Engine, EngineRequest, ModelLaunch } from './engine.ts';
import type { HttpClient } from './http-client.ts';
import type { HttpDialect, ServerCommand, ServerPlace } from './http-dialect.ts';
import { createHttpEngine } from './http-engine.ts';
import type { HttpEngineOptions } from './http-engine.ts';
import type { Environment, Program } from './programs.ts';
import { childEnvironment, findProgram, ownArgs } from './programs.ts';
import { explainServer, lastError } from './server-errors.ts';
import { createTextWire } from './trtllm-text.ts';
import { checkRequest, PATIENCE, runBy } from './vllm.ts';
import { ask } from './vllm-wire.ts';

export interface TrtllmOptions extends HttpEngineOptions {
  /** The node's environment. `BERTH_TRTLLM` names the program. */
  readonly env?: Environment;
}

const PROGRAM: Program = {
  name: 'trtllm-serve',
  variable: 'BERTH_TRTLLM',
  advice: 'Install TensorRT-LLM and name its trtllm-serve with BERTH_TRTLLM (docs/engines.md says how).',
};

const OUR_ARGS =
  /^(--host|--port|--max_batch_size|--max_num_tokens|--max_seq_len|--config|--extra_llm_api_options|--enable_sleep_mode|--grpc|--server_role|--metadata_server_config_file)(=|$)/;
const TRTLLM_ENV = /^(TRTLLM_\w+|TLLM_\w+|TORCH\w*|HF_HOME|HF_HUB_CACHE|XDG_CACHE_HOME|OMPI_\w+|UCX_\w+)$/;
const OUR_ENV = /^TRTLLM_RUNTIME_CONTROL_API_KEY$/;

/** As SGLang's: a guess. */
const SERVER_BYTES: Bytes = 2_048 * MIB;

export function createTrtllmEngine(options: TrtllmOptions = {}): Engine {
  const { env = process.env } = options;
  return createHttpEngine(trtllmDialect(env), { patience: PATIENCE, ...options });
}

export function trtllmDialect(env: Environment): HttpDialect {
  const wire = createTextWire();
  /** Signs what only the node may ask for; one for all its servers, as long as it lives. */
  const controlKey = randomBytes(32).toString('hex');
  const control = (client: HttpClient, path: string, signal: AbortSignal): Promise<unknown> =>
    client.ask(path, {}, { signal, deadlineMicros: null, headers: signature(controlKey, path, '{}') });
  return {
    name: 'trtllm',
    capabilities: {
      preempts: 'token',
      sleeps: true,
      exportsKv: false,
      saltsPrefixCache: false,
      adjustableLanes: false,
      embeds: true,
      logprobs: true,
    },
    isManyProcesses: true,
    async command(launch, place) {
      await readCheckpoint(launch.path);
      const config = join(place.folder, 'config.yml');
      await writeFile(config, JSON.stringify(llmConfig(launch)));
      return trtllmCommand(launch, place, config, env, controlKey);
    },
    readyPath: '/health',
    async canary(exchange) {
      const { modelId: model } = exchange.launch;
      await ask(exchange, '/v1/completions', { model, prompt: [1, 2, 3], max_tokens: 1, temperature: 0 });
    },
    run: runBy(null, wire),
    fallAsleep: async (client, signal) => void (await control(client, '/release_memory', signal)),
    wakeUp: async (client, signal) => void (await control(client, '/resume_memory', signal)),
    explain: (thrown) => explainServer('TensorRT-LLM', thrown),
    explainStart(lines) {
      const said = lastError(lines);
      if (said === null) return null;
      const isUnknown = /no such option|invalid value/i.test(said);
      return new BerthError(
        isUnknown ? 'engine_mismatch' : 'model_load_failed',
        isUnknown
          ? `trtllm-serve does not know one of its arguments, it is probably too old: ${said}`
          : `TensorRT-LLM could not load it: ${said}`,
      );
    },
    check: checkTrtllm,
    estimate: (launch) => estimateBytes(launch, SERVER_BYTES),
  };
}

function checkTrtllm(request: EngineRequest): ReturnType<Engine['check']> {
  if (request.kind === 'generate' && request.echo && request.input.type === 'tokens') {
    const message = 'TensorRT-LLM can’t give a prompt of tokens back as text.';
    return { code: 'unsupported_parameter', message, param: 'echo' };
  }
  return checkRequest(request);
}

/** `LlmArgs` of its documentation, as YAML (JSON is YAML). */
const llmConfig = (launch: ModelLaunch): object => ({
  // Its completions take no salt: what one tenant's prompts began with, another would find.
  kv_cache_config: { enable_block_reuse: false, max_tokens: launch.kvTokens },
  scheduler_config: { waiting_queue_policy: 'priority' },
  enable_chunked_prefill: true,
});

export function trtllmCommand(
  launch: ModelLaunch,
  { port }: ServerPlace,
  configPath: string,
  env: Environment,
  controlKey: string,
): ServerCommand {
  const flags = {
    '--host': '127.0.0.1',
    '--port': port,
    '--max_batch_size': launch.parallel,
    '--max_num_tokens': Math.max(launch.batchTokens, launch.parallel),
    '--max_seq_len': launch.contextTokens,
    '--config': configPath,
  };
  return {
    command: findProgram(PROGRAM, env),
    args: [
      'serve',
      launch.path,
      ...Object.entries(flags).flatMap(([name, value]) => [name, String(value)]),
      '--enable_sleep_mode',
      ...ownArgs(launch, OUR_ARGS),
    ],
    env: {
      ...childEnvironment(env, TRTLLM_ENV, OUR_ENV),
      TRTLLM_RUNTIME_CONTROL_API_KEY: controlKey,
      HF_HUB_OFFLINE: '1',
      TRANSFORMERS_OFFLINE: '1',
      TELEMETRY_OPT_OUT: '1',
      NO_COLOR: '1',
    },
  };
}

/** As `tensorrt_llm/serve/runtime_control_auth.py` checks it: an HMAC of the method, the path, the time, a nonce and the body. */
export function signature(key: string, path: string, body: string): Record<string, string> {
  const timestamp = String(Math.floor(Date.now() / 1000));
  const nonce = randomBytes(16).toString('hex');
  const said = ['trtllm-runtime-control-v1', 'POST', path, timestamp, nonce, body].join('\n');
  return {
    'x-trtllm-runtime-control-auth': `sha256=${createHmac('sha256', key).update(said).digest('hex')}`,
    'x-trtllm-runtime-control-timestamp': timestamp,
    'x-trtllm-runtime-control-nonce': nonce,
  };
}
