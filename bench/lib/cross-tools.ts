/**
 * Three programs that load a server that speaks OpenAI's API: `berth bench`, NVIDIA's aiperf, and guidellm. Each sends the same
 * number of the same kind of requests in a closed loop, and tells in its own report what it saw. Neither of the others gets a
 * tokenizer: tokens are what the server counts.
 */
import { execFile, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import { wordsOf } from '../../src/load/text.ts';

export interface CrossLoad {
  readonly url: string;
  readonly model: string;
  /** Always so many in flight. */
  readonly concurrency: number;
  readonly requests: number;
  /** Words of each prompt: common ones, of a token each. */
  readonly promptWords: number;
  readonly outputTokens: number;
  /** Another one makes other prompts, of which nothing is cached. */
  readonly seed: number;
}

/** As the program reports it. */
export interface CrossSeen {
  readonly ttftMillis: number;
  readonly tokensPerSecond: number;
  /** By the server's count, the chat template's included. */
  readonly promptTokens: number;
  readonly outputTokens: number;
}

/** Leaves its files in the folder. Rejects if not every request was answered whole. */
export type CrossTool = (load: CrossLoad, folder: string) => Promise<CrossSeen>;

const ROOT = join(import.meta.dirname, '..', '..');
/** Beyond it a program hangs. */
const DEADLINE_MILLIS = 180_000;
const MOST_OUTPUT_BYTES = 64 * 1024 * 1024;
/** Nobody asks a hub for anything, nor sends one how it went. */
const OFFLINE = { HF_DATASETS_OFFLINE: '1', HF_HUB_DISABLE_TELEMETRY: '1', DO_NOT_TRACK: '1', NO_COLOR: '1' };

const run = promisify(execFile);

/** Rejects with the last lines of what it printed. */
async function execute(binary: string, args: readonly string[], folder: string): Promise<void> {
  try {
    await run(binary, args, {
      cwd: folder,
      env: { ...process.env, ...OFFLINE, HF_HOME: join(folder, 'huggingface') },
      timeout: DEADLINE_MILLIS,
      maxBuffer: MOST_OUTPUT_BYTES,
    });
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { readonly stdout?: string; readonly stderr?: string };
    const said = `${stdout}\n${stderr}`.trim().split('\n').slice(-20).join('\n');
    throw new Error(`${binary} failed or took more than ${DEADLINE_MILLIS / 1_000} s; its last words:\n${said}`, {
      cause: error,
    });
  }
}

export function versionOf(binary: string): string {
  const { stdout, stderr } = spawnSync(binary, ['--version'], { encoding: 'utf8', timeout: 60_000 });
  return `${basename(binary)} ${/\d+(?:\.\d+)+\S*/.exec(`${stdout}\n${stderr}`)?.[0] ?? 'unknown'}`;
}

/** @throws if the file is not what this version of the program is known to write */
function read<Report>(schema: z.ZodType<Report>, file: string): Report {
  const parsed = schema.safeParse(JSON.parse(readFileSync(file, 'utf8')));
  if (parsed.success) return parsed.data;
  throw new Error(`${file} is not the report that was expected: ${z.prettifyError(parsed.error)}`);
}

function whole(seen: CrossSeen, answered: number, { requests }: CrossLoad): CrossSeen {
  if (answered !== requests) throw new Error(`${answered} of ${requests} requests were answered`);
  return seen;
}

const messagesOf = ({ seed, promptWords }: CrossLoad, request: number) => [
  { role: 'user', content: wordsOf(seed, request, 0, promptWords) },
];

const berthReport = z.object({
  all: z.object({
    done: z.number(),
    ttft: z.object({ mean: z.number() }),
    promptTokens: z.number(),
    outputTokens: z.number(),
    outputTokensPerSecond: z.number(),
  }),
});

export const berthBench: CrossTool = async (load, folder) => {
  const file = join(folder, 'berth.json');
  const options = {
    models: load.model,
    concurrency: load.concurrency,
    requests: load.requests,
    'prompt-tokens': load.promptWords,
    'output-tokens': load.outputTokens,
    seed: load.seed,
    json: file,
  };
  const args = Object.entries(options).map(([name, value]) => `--${name}=${value}`);
  await execute(process.execPath, [join(ROOT, 'src/cli/main.ts'), 'bench', load.url, ...args], folder);
  const { all } = read(berthReport, file);
  const seen = {
    ttftMillis: all.ttft.mean / 1_000,
    tokensPerSecond: all.outputTokensPerSecond,
    promptTokens: all.promptTokens,
    outputTokens: all.outputTokens,
  };
  return whole(seen, all.done, load);
};

const average = z.object({ avg: z.number() });
const aiperfReport = z.object({
  request_count: average,
  time_to_first_token: average,
  output_token_throughput: average,
  total_usage_prompt_tokens: average,
  total_usage_completion_tokens: average,
});

/** It insists on loading a tokenizer, though it counts nothing with it: one that knows no word. */
function writeTokenizer(folder: string): string {
  const path = join(folder, 'tokenizer');
  mkdirSync(path, { recursive: true });
  const write = (name: string, value: object): void => writeFileSync(join(path, name), JSON.stringify(value));
  const unknown = { unk_token: '<unk>' };
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  write('tokenizer.json', {
    version: '1.0',
    added_tokens: [{ id: 0, content: unknown.unk_token, ...flags }],
    pre_tokenizer: { type: 'Whitespace' },
    model: { type: 'WordLevel', vocab: { [unknown.unk_token]: 0 }, ...unknown },
  });
  write('tokenizer_config.json', { tokenizer_class: 'PreTrainedTokenizerFast', ...unknown });
  write('config.json', {});
  return path;
}

const aiperf =
  (binary: string): CrossTool =>
  async (load, folder) => {
    const bodies = Array.from({ length: load.requests }, (_, request) => ({
      model: load.model,
      messages: messagesOf(load, request),
      max_tokens: load.outputTokens,
      stream: true,
      stream_options: { include_usage: true },
      temperature: 0,
      ignore_eos: true,
    }));
    const input = join(folder, 'aiperf.jsonl');
    writeFileSync(input, bodies.map((body) => `${JSON.stringify(body)}\n`).join(''));
    const artifacts = join(folder, 'aiperf');
    const options = {
      model: load.model,
      url: load.url,
      'endpoint-type': 'chat',
      'input-file': input,
      // Bodies as they are.
      'custom-dataset-type': 'raw_payload',
      'dataset-sampling-strategy': 'sequential',
      concurrency: load.concurrency,
      'request-count': load.requests,
      tokenizer: writeTokenizer(folder),
      'artifact-dir': artifacts,
      ui: 'none',
      // One process that sends is enough.
      'workers-max': 1,
      'record-processors': 1,
    };
    const flags = ['--streaming', '--use-server-token-count', '--no-gpu-telemetry', '--no-server-metrics'];
    const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, `${value}`]);
    await execute(binary, ['profile', ...args, ...flags], folder);
    const report = read(aiperfReport, join(artifacts, 'profile_export_aiperf.json'));
    const seen = {
      ttftMillis: report.time_to_first_token.avg,
      tokensPerSecond: report.output_token_throughput.avg,
      promptTokens: report.total_usage_prompt_tokens.avg,
      outputTokens: report.total_usage_completion_tokens.avg,
    };
    return whole(seen, report.request_count.avg, load);
  };

const distribution = z.object({ successful: z.object({ mean: z.number(), total_sum: z.number() }) });
const guidellmReport = z.object({
  benchmarks: z.tuple([
    z.object({
      metrics: z.object({
        request_totals: z.object({ successful: z.number() }),
        time_to_first_token_ms: distribution,
        output_tokens_per_second: distribution,
        prompt_token_count: distribution,
        output_token_count: distribution,
      }),
    }),
  ]),
});

const guidellm =
  (binary: string): CrossTool =>
  async (load, folder) => {
    const report = join(folder, 'guidellm-report.json');
    const scenario = join(folder, 'guidellm.json');
    const fields = {
      temperature: 0,
      ignore_eos: true,
      // It would ask for counts in every chunk, which is vLLM's own. null takes it out again.
      stream_options: { continuous_usage_stats: null },
    };
    const spec = {
      backend: {
        kind: 'openai_http',
        target: load.url,
        model: load.model,
        max_tokens: load.outputTokens,
        http2: false,
        extras: { body: fields },
      },
      profile: { kind: 'concurrent', streams: [load.concurrency] },
      constraints: [{ kind: 'max_requests', count: load.requests }],
      data: [
        {
          kind: 'in_memory_dict_list',
          data: Array.from({ length: load.requests }, (_, request) => ({ messages: messagesOf(load, request) })),
        },
      ],
      outputs: [{ kind: 'json', path: report }],
    };
    writeFileSync(scenario, JSON.stringify({ spec }));
    await execute(binary, ['run', '--config', scenario, '--disable-console'], folder);
    const [{ metrics }] = read(guidellmReport, report).benchmarks;
    const seen = {
      ttftMillis: metrics.time_to_first_token_ms.successful.mean,
      tokensPerSecond: metrics.output_tokens_per_second.successful.mean,
      promptTokens: metrics.prompt_token_count.successful.total_sum,
      outputTokens: metrics.output_token_count.successful.total_sum,
    };
    return whole(seen, metrics.request_totals.successful, load);
  };

/** Those that are no part of Berth, and where they come from. */
export const CROSS_PEERS: Readonly<
  Record<string, { readonly how: string; readonly toolOf: (binary: string) => CrossTool }>
> = {
  aiperf: { how: '`pip install aiperf` (Python 3.11 to 3.13)', toolOf: aiperf },
  guidellm: { how: '`pip install guidellm` (brings PyTorch, some 5 GB)', toolOf: guidellm },
};
