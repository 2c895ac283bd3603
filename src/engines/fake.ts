/**
 * An engine without a model: a cost model and a generator of words. It keeps the contract to the letter, by a clock that tests
 * and the simulator may drive; `berth serve --engine fake` runs it in real time.
 */
import type { Bytes, Micros, ModelId } from '../core/ids.ts';
import { MIB, MILLI } from '../core/ids.ts';
import type { ErrorCode } from '../errors.ts';
import type { Engine, EngineModel, ModelLaunch } from './engine.ts';
import { createFakeModel } from './fake-model.ts';
import type { FakeModel } from './fake-model.ts';
import { promptTokensOf } from './fake-text.ts';
import { realTimer } from './timer.ts';
import type { Timer } from './timer.ts';

/** About a 135M model on two cores of a server. */
export interface FakeCosts {
  readonly loadMicros: Micros;
  readonly wakeMicros: Micros;
  readonly sleepMicros: Micros;
  readonly unloadMicros: Micros;
  readonly prefillMicrosPerToken: Micros;
  /** A decode step: base, plus for each sequence in it. */
  readonly stepMicros: Micros;
  readonly stepMicrosPerSequence: Micros;
  /** How much faster n lanes are than one; 1 lane is 1. */
  readonly speedup: (lanes: number) => number;
  readonly weightBytes: Bytes;
  readonly kvBytesPerToken: Bytes;
  /** What the process itself holds, also while asleep. */
  readonly overheadBytes: Bytes;
  /** After how many tokens a free text ends by itself. */
  readonly naturalTokens: number;
}

const FAKE_COSTS: FakeCosts = {
  loadMicros: 150 * MILLI,
  wakeMicros: 30 * MILLI,
  sleepMicros: 10 * MILLI,
  unloadMicros: 20 * MILLI,
  prefillMicrosPerToken: 100,
  stepMicros: 5 * MILLI,
  stepMicrosPerSequence: 250,
  speedup: (lanes) => lanes ** 0.9,
  weightBytes: 100 * MIB,
  kvBytesPerToken: 20 * 1024,
  overheadBytes: 70 * MIB,
  naturalTokens: 128,
};

/** What a real machine does to us, on demand. Each acts on the model opened last under that id. */
interface FakeFaults {
  /** The process dies now. Out of memory: the same, with that reason. */
  crash(modelId: ModelId, reason?: string): void;
  /** The process dies when it has computed `steps` more steps. */
  crashAfterSteps(modelId: ModelId, steps: number, reason?: string): void;
  failNextLoad(modelId: ModelId, code: ErrorCode, message: string): void;
  slowNextLoad(modelId: ModelId, extraMicros: Micros): void;
}

export interface FakeEngine extends Engine {
  readonly faults: FakeFaults;
}

export interface FakeOptions {
  readonly timer?: Timer;
  /** What differs from `FAKE_COSTS`, for all models or by launch. */
  readonly costs?: Partial<FakeCosts> | ((launch: ModelLaunch) => Partial<FakeCosts>);
  /** Whether a model's file is there and sound; by default every file is, even one that does not exist. */
  readonly fileIs?: (path: string) => 'sound' | 'missing' | 'invalid';
}

export function createFakeEngine(options: FakeOptions = {}): FakeEngine {
  const { timer = realTimer, costs = {}, fileIs = () => 'sound' } = options;
  const models = new Map<ModelId, FakeModel>();
  const costsOf = (launch: ModelLaunch): FakeCosts => ({
    ...FAKE_COSTS,
    ...(typeof costs === 'function' ? costs(launch) : costs),
  });
  const withModel = (modelId: ModelId, act: (model: FakeModel) => void): void => {
    const model = models.get(modelId);
    if (model !== undefined) act(model);
  };
  return {
    name: 'fake',
    overheadBytes: 0,
    capabilities: {
      preempts: 'token',
      sleeps: true,
      exportsKv: false,
      saltsPrefixCache: false,
      adjustableLanes: true,
      embeds: true,
      logprobs: true,
    },
    open(launch, observer): EngineModel {
      const model = createFakeModel({ launch, observer, timer, costs: costsOf(launch), fileIs });
      models.set(launch.modelId, model);
      return model;
    },
    check(request) {
      if (promptTokensOf(request) > 0) return null;
      return {
        code: 'invalid_request',
        message: 'The prompt is empty.',
        param: request.kind === 'embed' ? 'input' : 'prompt',
      };
    },
    estimate(launch) {
      const { weightBytes, kvBytesPerToken, overheadBytes } = costsOf(launch);
      return Promise.resolve({
        loadedBytes: weightBytes + kvBytesPerToken * launch.kvTokens + overheadBytes,
        asleepBytes: overheadBytes,
      });
    },
    close() {
      for (const model of models.values()) model.stopNow();
      models.clear();
      return Promise.resolve();
    },
    faults: {
      crash: (modelId, reason = 'the fake process was killed') => withModel(modelId, (model) => model.crash(reason)),
      crashAfterSteps: (modelId, steps, reason = 'the fake process was killed') =>
        withModel(modelId, (model) => model.crashAfterSteps(steps, reason)),
      failNextLoad: (modelId, code, message) => withModel(modelId, (model) => model.failNextLoad(code, message)),
      slowNextLoad: (modelId, extraMicros) => withModel(modelId, (model) => model.slowNextLoad(extraMicros)),
    },
  };
}
