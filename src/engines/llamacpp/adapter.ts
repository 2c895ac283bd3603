/**
 * llama.cpp as an engine: the node's side. Every resident model is a runner process of its own, spoken to by `protocol.ts`;
 * the runner's side is `runner.ts`.
 */
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Bytes, Micros, ModelId } from '../../core/ids.ts';
import { MILLI, MINUTE, SECOND } from '../../core/ids.ts';
import { asBerthError } from '../../errors.ts';
import type { Engine, EngineRequest } from '../engine.ts';
import type { MemoryGroups } from '../cgroup.ts';
import { createSupervisor } from '../supervisor.ts';
import type { StopPatience } from '../supervisor.ts';
import { realTimer } from '../timer.ts';
import { estimateMemory, RUNNER_BYTES } from './estimate.ts';
import { schemaToGbnf } from './grammar.ts';
import { createHostedModel } from './hosted.ts';
import type { HostedModel } from './hosted.ts';
import { MALLOC_TUNABLES, RUNNER_NODE_ARGS, RUNNER_SCRIPT, withCompileCache } from './runner-args.ts';
import { createSpares, startRunner } from './spare.ts';
import type { RunnerCommand } from './spare.ts';
import { toolGrammar } from './tools.ts';

export interface LlamaCppOptions {
  /** How long a load or a wake may take. */
  readonly loadTimeoutMicros?: Micros;
  /** How long a step may overrun its slice before the runner is taken for hung. */
  readonly sliceGraceMicros?: Micros;
  /** What a runner prints. `model` is null for a spare. */
  readonly log?: (model: ModelId | null, line: string) => void;
  /** Where runners keep their compiled code, for a start in half the time and with half the memory; left out: nowhere. */
  readonly compileCacheFolder?: string;
  /** The node's environment, of which runners are told where things are. */
  readonly env?: NodeJS.ProcessEnv;
  /** Keep a runner started for the next cold model; true by default. */
  readonly spare?: boolean;
  /** For tests: another runner, other limits. */
  readonly runner?: Partial<RunnerCommand>;
  readonly groups?: MemoryGroups;
  readonly patience?: StopPatience;
  readonly sampleMicros?: Micros;
  readonly refillAfterMicros?: Micros;
}

/**
 * The next spare is started so long after a load: beside the load, or beside the first prompt of those who waited for it, its start
 * would take a core from them, and an engine that spins on all cores suffers more than its share.
 */
const REFILL_AFTER_MICROS = 400 * MILLI;
/** Runners give way to the node, which must answer while they compute. */
const NICENESS = 5;
/** What a runner may know of the node's environment: where things are, and nothing secret. */
const PASSED_ON = /^(PATH|HOME|LANG|LC_\w+|LD_\w+|DYLD_\w+|TMPDIR|TZ|SYSTEMROOT|GGML_\w+|CUDA_\w+|BERTH_LLAMA_\w+)$/;

export function createLlamaCppEngine(options: LlamaCppOptions = {}): Engine {
  const { loadTimeoutMicros = 5 * MINUTE, sliceGraceMicros = MINUTE, spare = true, log = () => {} } = options;
  const supervisor = createSupervisor({
    ...(options.groups && { groups: options.groups }),
    ...(options.patience && { patience: options.patience }),
  });
  const command: RunnerCommand = {
    command: process.execPath,
    args: [...RUNNER_NODE_ARGS, fileURLToPath(RUNNER_SCRIPT)],
    env: withCache(runnerEnvironment(options.env ?? process.env), options.compileCacheFolder),
    niceness: NICENESS,
    ...options.runner,
  };
  const spares = createSpares(() => startRunner(supervisor, command));
  if (spare) spares.refill();
  let callOffRefill = (): void => {};
  const refillLater = (): void => {
    callOffRefill();
    callOffRefill = realTimer.after(options.refillAfterMicros ?? REFILL_AFTER_MICROS, () => spares.refill());
  };
  const models = new Set<HostedModel>();
  const sampler = setInterval(
    () => {
      for (const model of models) model.tick();
    },
    (options.sampleMicros ?? SECOND) / MILLI,
  ).unref();
  let closing: Promise<void> | null = null;

  return {
    name: 'llamacpp',
    overheadBytes: spare ? RUNNER_BYTES : 0,
    capabilities: {
      preempts: 'token',
      sleeps: true,
      exportsKv: true,
      saltsPrefixCache: false,
      adjustableLanes: true,
      embeds: true,
      logprobs: true,
    },
    open(launch, observer) {
      const model = createHostedModel({
        launch,
        observer,
        timer: realTimer,
        limits: { loadMicros: loadTimeoutMicros, startMicros: 30 * SECOND, sleepMicros: 30 * SECOND, sliceGraceMicros },
        takeRunner: () => spares.take(),
        loadEnded: () => {
          if (spare) refillLater();
        },
        log: (line) => log(launch.modelId, line),
        holds: (holding) => void (holding ? models.add(model) : models.delete(model)),
      });
      return model;
    },
    check: checkRequest,
    estimate: (launch): Promise<{ loadedBytes: Bytes; asleepBytes: Bytes }> => estimateMemory(launch),
    close() {
      closing ??= (async () => {
        clearInterval(sampler);
        callOffRefill();
        spares.close();
        await Promise.allSettled([...models].map((model) => model.ensureUnloaded()));
        await supervisor.close();
      })();
      return closing;
    },
  };
}

/** A schema that can't be made a grammar is refused before the request waits for anything. */
function checkRequest(request: EngineRequest): ReturnType<Engine['check']> {
  if (request.kind === 'embed') return null;
  try {
    if (request.format.type === 'json_schema') schemaToGbnf(request.format.schema);
    if (request.input.type === 'chat') toolGrammar(request.input.tools, request.input.toolChoice);
    return null;
  } catch (thrown) {
    const { code, message, param } = asBerthError(thrown);
    return { code, message, ...(param === null ? {} : { param }) };
  }
}

/** The folder holds code that runners run: it is made for this user alone. */
function withCache(environment: Record<string, string>, folder: string | undefined): Record<string, string> {
  if (folder === undefined) return environment;
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  return withCompileCache(environment, folder);
}

function runnerEnvironment(environment: NodeJS.ProcessEnv): Record<string, string> {
  const passed: Record<string, string> = { UV_THREADPOOL_SIZE: '1', ...MALLOC_TUNABLES };
  for (const [name, value] of Object.entries(environment)) {
    if (value !== undefined && PASSED_ON.test(name)) passed[name] = value;
  }
  return passed;
}
