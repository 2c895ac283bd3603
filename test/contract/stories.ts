/** The words in which `engine-contract.ts` tells its stories. */
import type { Micros, RequestId } from '../../src/core/ids.ts';
import { DEFAULT_TENANT, MILLI, requestId } from '../../src/core/ids.ts';
import type {
  EmbedRequest,
  EngineEvent,
  EngineModel,
  EngineRequest,
  GenerateRequest,
  MemorySample,
  ModelLaunch,
  SliceGrant,
  SliceReport,
} from '../../src/engines/engine.ts';
import type { ContractWorld } from './engine-contract.ts';

/** A greedy request that goes on until its last token. */
export function request(id: string, change: Partial<GenerateRequest> = {}): GenerateRequest {
  return {
    kind: 'generate',
    requestId: requestId(id),
    tenantId: DEFAULT_TENANT,
    input: { type: 'text', text: 'The ship left the harbour at dawn and' },
    maxTokens: 8,
    sampling: {
      temperature: 0,
      topP: 1,
      topK: 0,
      minP: 0,
      seed: null,
      presencePenalty: 0,
      frequencyPenalty: 0,
      repeatPenalty: 1,
      logitBias: {},
    },
    stop: [],
    format: { type: 'text' },
    logprobs: null,
    ignoreEos: true,
    echo: false,
    resumeTokens: [],
    ...change,
  };
}

export const embedRequest = (id: string, inputs: readonly string[]): EmbedRequest => ({
  kind: 'embed',
  requestId: requestId(id),
  tenantId: DEFAULT_TENANT,
  inputs,
});

export const tokensOf = (events: readonly EngineEvent[]): number[] =>
  events.flatMap((event) => (event.type === 'tokens' ? event.tokenIds : []));
/** Tokens that it was told of in the end: not all engines tell their ids. */
export function countOf(events: readonly EngineEvent[]): number {
  const last = events.at(-1);
  return last?.type === 'finished' ? last.usage.outputTokens : Number.NaN;
}
export const textOf = (events: readonly EngineEvent[]): string =>
  events.map((event) => (event.type === 'tokens' ? event.text : '')).join('');

export interface Heard {
  readonly requestId: RequestId;
  readonly events: EngineEvent[];
  /** How many last events it heard: one, when all is well. */
  lasts(): number;
  /** The types of the events that are `type`. */
  types(type: EngineEvent['type']): string[];
}

interface Seen {
  readonly slices: SliceReport[];
  readonly deaths: string[];
  readonly memory: MemorySample[];
  onDeath: () => void;
}

export interface Story {
  readonly launch: ModelLaunch;
  readonly model: EngineModel;
  readonly seen: Seen;
  readonly submit: (request: EngineRequest) => Heard;
  readonly pass: (micros: Micros) => Promise<void>;
  /** Lets time pass until the promise settles. */
  readonly until: <T>(promise: Promise<T>) => Promise<T>;
  readonly wait: (condition: () => boolean, what: string) => Promise<void>;
  /** Grants one slice and waits for its end. */
  readonly sliceOnce: (grant: SliceGrant) => Promise<SliceReport>;
  /** Grants slices until all have heard their last event. */
  readonly finishAll: (all: readonly Heard[]) => Promise<void>;
}

export function openStory(world: ContractWorld, launch: ModelLaunch): Story {
  const seen: Seen = { slices: [], deaths: [], memory: [], onDeath: () => {} };
  const model = world.engine.open(launch, {
    sliceEnded: (report) => seen.slices.push(report),
    died(reason) {
      seen.deaths.push(reason);
      seen.onDeath();
    },
    memory: (sample) => seen.memory.push(sample),
  });
  const wait = async (condition: () => boolean, what: string): Promise<void> => {
    for (let waited = 0; !condition(); waited += 2 * MILLI) {
      if (waited > world.patienceMicros) throw new Error(`waited ${waited} µs in vain for ${what}`);
      await world.pass(2 * MILLI);
    }
  };
  const until = async <T>(promise: Promise<T>): Promise<T> => {
    let settled = false;
    const settle = (): void => {
      settled = true;
    };
    promise.then(settle, settle);
    await wait(() => settled, 'a promise');
    return promise;
  };
  const sliceOnce = async (grant: SliceGrant): Promise<SliceReport> => {
    const before = seen.slices.length;
    model.slice(grant);
    await wait(() => seen.slices.length > before, `the end of slice ${grant.sliceId}`);
    const report = seen.slices.at(-1);
    if (report === undefined) throw new Error('no report');
    return report;
  };
  let nextSlice = 1000;
  return {
    launch,
    model,
    seen,
    submit(request) {
      const events: EngineEvent[] = [];
      model.submit(request, (event) => events.push(event));
      const isLast = (event: EngineEvent): boolean => ['finished', 'embedded', 'failed'].includes(event.type);
      return {
        requestId: request.requestId,
        events,
        lasts: () => events.filter(isLast).length,
        types: (type) => events.map((event) => event.type).filter((own) => own === type),
      };
    },
    pass: (micros) => world.pass(micros),
    until,
    wait,
    sliceOnce,
    async finishAll(all) {
      const open = (): number => all.filter((one) => one.lasts() === 0).length;
      for (let idle = 0; open() > 0; ) {
        const { steps } = await sliceOnce({ sliceId: nextSlice++, lanes: 1, micros: null });
        idle = steps > 0 ? 0 : idle + 1;
        if (idle > 100) throw new Error(`${open()} requests are left, but the engine finds nothing to do`);
      }
    },
  };
}
