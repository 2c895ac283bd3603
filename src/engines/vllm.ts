/**
 * vLLM as an engine: `vllm serve` as a child for each resident model, on a unix socket that only this user can reach. On a CPU it can't
 * let go of its memory and live, so it is unloaded; on a GPU it sleeps. Checked against vLLM 0.32 (docs/engines.md).
 */
import { createHmac, randomBytes } from 'node:crypto';
import type { Micros } from '../core/ids.ts';
import { SECOND } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import type { CheckpointFacts } from './checkpoint.ts';
import { readCheckpoint } from './checkpoint.ts';
import { generateByTokens } from './completions.ts';
import type { EmbedRequest, Engine, EngineRequest, GenerateRequest, ModelLaunch } from './engine.ts';
import { HttpFailure } from './http-client.ts';
import type { Exchange, HttpDialect } from './http-dialect.ts';
import { createHttpEngine } from './http-engine.ts';
import type { HttpEngineOptions } from './http-engine.ts';
import { wantsToolParser } from './llama-server-body.ts';
import { createChatReader } from './llama-server-reader.ts';
import type { Environment } from './programs.ts';
import { explainServer, lastError } from './server-errors.ts';
import type { StopPatience } from './supervisor.ts';
import type { Platform } from './vllm-command.ts';
import { kvBytes, SERVER_BYTES, vllmCommand } from './vllm-command.ts';
import { withAdapters } from './vllm-lora.ts';
import { ask, formatBody, priorityOf, toolsBody, vllmWire } from './vllm-wire.ts';

export interface VllmOptions extends HttpEngineOptions {
  /** The node's environment. `BERTH_VLLM` names the program, `VLLM_…` are handed on to it. */
  readonly env?: Environment;
  /** What it computes on; left out: a CPU. */
  readonly platform?: Platform;
}

/** Its processes end within a second when they are idle; what was under way has been told off before. For SGLang and TensorRT-LLM too. */
export const PATIENCE: StopPatience = { politeMicros: 0, termMicros: 15 * SECOND, killMicros: 10 * SECOND };
/** For what it does at once, when it is not busy. */
const CONTROL_MICROS: Micros = 10 * SECOND;

export function createVllmEngine(options: VllmOptions = {}): Engine {
  const { env = process.env, platform = 'cpu' } = options;
  return createHttpEngine(vllmDialect(env, platform), { patience: PATIENCE, ...options });
}

export function vllmDialect(env: Environment, platform: Platform): HttpDialect {
  const saltOf = createSalts();
  const wire = vllmWire({ saltOf });
  return {
    name: 'vllm',
    capabilities: {
      preempts: 'token',
      sleeps: platform === 'gpu',
      exportsKv: false,
      saltsPrefixCache: true,
      adjustableLanes: false,
      embeds: true,
      logprobs: true,
    },
    listensOn: 'socket',
    isManyProcesses: true,
    async command(launch, place) {
      const facts = await usable(launch);
      return vllmCommand(launch, facts, place, env, platform);
    },
    readyPath: '/health',
    canary: (exchange) => canary(exchange, saltOf),
    run: withAdapters(
      runBy(saltOf, (request, exchange) => generateByTokens(request, exchange, wire)),
      isDead,
    ),
    isDead,
    async fallAsleep(client, signal) {
      // What was cached of prompts must not be found again in memory that meanwhile held something else.
      await client.ask('/reset_prefix_cache', {}, { signal, deadlineMicros: CONTROL_MICROS });
      await client.ask('/sleep?level=1&mode=wait', {}, { signal, deadlineMicros: null });
    },
    async wakeUp(client, signal) {
      await client.ask('/wake_up', {}, { signal, deadlineMicros: null });
    },
    explain: (thrown) => explainServer('vLLM', thrown),
    explainStart(lines) {
      const said = lastError(lines);
      if (said === null) return null;
      if (/unrecognized arguments|invalid choice/i.test(said)) {
        const advice = 'it is probably another version than Berth knows (0.32), or the model’s `args` are wrong';
        return new BerthError('engine_mismatch', `vLLM does not know one of its arguments, ${advice}: ${said}`);
      }
      return new BerthError('model_load_failed', `vLLM could not load it: ${said}`);
    },
    check: checkRequest,
    async estimate(launch) {
      const facts = await readCheckpoint(launch.path);
      const server = SERVER_BYTES[platform];
      const kv = kvBytes(facts, launch, platform) ?? 0;
      // What stays of one that sleeps on a GPU; on a CPU none does.
      return { loadedBytes: Math.ceil(server + facts.weightBytes + kv + 1), asleepBytes: server };
    },
  };
}

/**
 * A salt for each tenant: prompts find the cached beginnings of their own tenant only, and nobody learns from the time of an answer what
 * another has asked. The secret is made anew for each node: the caches that it divides do not outlast it either.
 */
export function createSalts(): (request: Pick<GenerateRequest, 'tenantId'>) => string {
  const secret = randomBytes(32);
  return ({ tenantId }) => createHmac('sha256', secret).update(tenantId).digest('base64url');
}

async function usable(launch: ModelLaunch): Promise<CheckpointFacts> {
  const facts = await readCheckpoint(launch.path);
  const isDummy = (launch.args ?? []).some((arg) => arg === 'dummy' || arg === '--load-format=dummy');
  if (facts.weightBytes > 0 || isDummy) return facts;
  throw new BerthError('model_file_invalid', `${launch.path} has no weights (*.safetensors or *.bin).`);
}

/** A token with a salt of its own; a model that embeds shows so that it computes. */
export async function canary(exchange: Exchange, saltOf: ReturnType<typeof createSalts>): Promise<void> {
  const model = exchange.launch.modelId;
  const cache_salt = saltOf({ tenantId: '\0canary' as GenerateRequest['tenantId'] });
  try {
    await ask(exchange, '/v1/completions', { model, prompt: [1, 2, 3], max_tokens: 1, temperature: 0, cache_salt });
  } catch (error) {
    if (!(error instanceof HttpFailure) || error.status >= 500) throw error;
    await ask(exchange, '/v1/embeddings', { model, input: 'a' });
  }
}

/** Embeddings and tool calls have paths of their own; all else is generated so. `saltOf` null: see `callTools`. */
export function runBy(
  saltOf: ReturnType<typeof createSalts> | null,
  generate: (request: GenerateRequest, exchange: Exchange) => Promise<void>,
): HttpDialect['run'] {
  return async (request, exchange) => {
    if (request.kind === 'embed') return embed(request, exchange);
    if (request.input.type === 'chat' && wantsToolParser(request)) return callTools(request, exchange, saltOf);
    return generate(request, exchange);
  };
}

/** Its engine process is gone, and the server says so to whoever asks, for about a second, before it ends itself. */
function isDead(thrown: unknown): boolean {
  if (!(thrown instanceof HttpFailure) || thrown.status < 500) return false;
  return /EngineDead|EngineCore (?:encountered|died|has)/i.test(JSON.stringify(thrown.body ?? ''));
}

/** Calls are found by the server's parsers, in text that comes without token ids: it is told when it is whole. */
async function callTools(
  request: GenerateRequest,
  exchange: Exchange,
  /** null: the server knows neither salt nor priority. */
  saltOf: ReturnType<typeof createSalts> | null,
): Promise<void> {
  const { client, signal, launch, emit } = exchange;
  if (request.input.type !== 'chat') return;
  const reader = createChatReader({
    request,
    contextTokens: launch.contextTokens,
    emit,
    prefilled: exchange.prefilled,
    decoded: exchange.decoded,
    tokenize: () => Promise.resolve([]),
    called() {},
  });
  const salted = saltOf === null ? {} : { cache_salt: saltOf(request), priority: priorityOf(request) };
  const own = { ...formatBody(request), ...salted };
  const body = toolsBody(request, request.input, launch.modelId, own);
  await client.stream('/v1/chat/completions', body, signal, (data) => reader.push(data));
  await reader.settled();
  if (!reader.ended()) throw new Error('the stream ended without its last event');
}

async function embed({ inputs }: EmbedRequest, exchange: Exchange): Promise<void> {
  const { emit, prefilled, launch } = exchange;
  const vectors: Float32Array[] = [];
  let promptTokens = 0;
  // Texts and tokens can't stand in one list.
  for (const input of inputs) {
    const answer = (await ask(exchange, '/v1/embeddings', {
      model: launch.modelId,
      input,
    })) as unknown as EmbeddingAnswer;
    const [row] = answer.data;
    if (row === undefined) throw new BerthError('engine_error', 'The engine answered without an embedding.');
    vectors.push(Float32Array.from(row.embedding));
    promptTokens += answer.usage?.prompt_tokens ?? 0;
  }
  emit({ type: 'accepted', promptTokens, cachedTokens: 0 });
  prefilled(promptTokens);
  const usage = { promptTokens, cachedTokens: 0, outputTokens: 0, prefillMicros: 0, decodeMicros: 0 };
  emit({ type: 'embedded', vectors, usage });
}

interface EmbeddingAnswer {
  readonly data: readonly { readonly embedding: readonly number[] }[];
  readonly usage?: { readonly prompt_tokens?: number };
}

export function checkRequest(request: EngineRequest): ReturnType<Engine['check']> {
  if (request.kind === 'embed') return null;
  const { input, logprobs } = request;
  if (input.type === 'tokens' && input.tokens.length === 0)
    return { code: 'invalid_request', message: 'The prompt is empty.', param: 'prompt' };
  if (logprobs !== null && wantsToolParser(request)) {
    const message = 'This engine gives no log-probabilities of answers that may be tool calls.';
    return { code: 'unsupported_parameter', message, param: 'logprobs' };
  }
  return null;
}
