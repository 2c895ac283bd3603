/**
 * A stub of the node, for tests of the gateway only: no arbiter, no engine, no clock. A test says what each submission gets, and
 * reads what the gateway asked for.
 */
import { modelId } from '../../src/core/ids.ts';
import { BerthError, modelNotFound } from '../../src/errors.ts';
import type { ModelView, NodeApi, NodeStatus, RequestTimings, StreamEvent, Submission } from '../../src/runtime/api.ts';

type Sink = (event: StreamEvent) => void;
/** What a submission gets. May keep `sink` and go on later. */
export type Behaviour = (submission: Submission, sink: Sink) => void;

const CAPABILITIES: ModelView['capabilities'] = {
  preempts: 'token',
  sleeps: true,
  exportsKv: false,
  saltsPrefixCache: false,
  adjustableLanes: true,
  embeds: true,
  logprobs: true,
};

function stubModel(id: string, aliases: readonly string[] = []): ModelView {
  return {
    id: modelId(id),
    aliases,
    engine: 'stub',
    capabilities: CAPABILITIES,
    state: 'loaded',
    tier: 'device',
    source: `stub:${id}`,
    createdSeconds: 1_750_000_000,
    fileBytes: 1_000_000,
    chargedBytes: 2_000_000,
    contextTokens: 2_048,
    parallel: 4,
    pinned: false,
    running: 0,
    waiting: 0,
    lanes: 1,
    expiresInMicros: null,
    digest: null,
    details: {
      format: 'gguf',
      architecture: 'llama',
      parameters: 135_000_000,
      quantization: 'Q4_1',
      trainedContextTokens: 8_192,
      chatTemplate: true,
    },
    failure: null,
  };
}

const TIMINGS: RequestTimings = {
  queueMicros: 1_500,
  loadMicros: 0,
  ttftMicros: 2_500,
  totalMicros: 9_000,
  restoreMicros: 0,
  kvTier: null,
};
const usage = (outputTokens: number) => ({
  promptTokens: 7,
  cachedTokens: 3,
  outputTokens,
  prefillMicros: 1_000,
  decodeMicros: 4_000,
});

export const tokens = (text: string): StreamEvent => ({ type: 'tokens', text, tokenIds: [1] });
export const finished = (reason: 'stop' | 'length' | 'tool_calls', outputTokens: number): StreamEvent => ({
  type: 'finished',
  reason,
  usage: usage(outputTokens),
  timings: TIMINGS,
});

/** Vectors of two numbers: the input's place, and one half. */
function embed(submission: Submission, sink: Sink): void {
  if (submission.request.kind !== 'embed') return;
  const vectors = submission.request.inputs.map((_, index) => Float32Array.of(index, 0.5));
  sink({ type: 'embedded', vectors, usage: usage(0), timings: TIMINGS });
}

/** Says each of `words`, one event each, and ends; embeds what is to be embedded. All within `submit`. */
export const say =
  (...words: readonly string[]): Behaviour =>
  (submission, sink) => {
    if (submission.request.kind === 'embed') return embed(submission, sink);
    sink({ type: 'accepted', promptTokens: 7, cachedTokens: 3 });
    for (const word of words) sink(tokens(word));
    sink(finished('stop', words.length));
  };

export class StubNode implements NodeApi {
  behaviour: Behaviour;
  views: ModelView[] = [stubModel('smol', ['small']), stubModel('org/deep/model:Q4_K_M')];
  isReady = true;
  readonly submissions: Submission[] = [];
  readonly cancelled: string[] = [];
  readonly loads: string[] = [];
  readonly stops: { name: string; force: boolean }[] = [];
  #waiting: { count: number; resolve: () => void }[] = [];

  constructor(behaviour: Behaviour = say('Hello', ' ', 'world')) {
    this.behaviour = behaviour;
  }

  get last(): Submission {
    const submission = this.submissions.at(-1);
    if (submission === undefined) throw new Error('nothing was submitted');
    return submission;
  }

  /** Resolves when `count` requests in all were cancelled. */
  cancelledAtLeast(count: number): Promise<void> {
    return new Promise((resolve) => {
      if (this.cancelled.length >= count) resolve();
      else this.#waiting.push({ count, resolve });
    });
  }

  submit(submission: Submission, sink: Sink) {
    const view = this.model(submission.model);
    this.submissions.push(submission);
    let over = false;
    this.behaviour(submission, (event) => {
      if (!over) sink(event);
    });
    const { requestId } = submission.request;
    return {
      requestId,
      modelId: view.id,
      cancel: () => {
        if (over) return;
        over = true;
        this.cancelled.push(requestId);
        this.#waiting = this.#waiting.filter(({ count, resolve }) => {
          if (this.cancelled.length < count) return true;
          resolve();
          return false;
        });
      },
    };
  }

  models() {
    return this.views;
  }

  model(name: string): ModelView {
    const found = this.views.find((view) => view.id === name || view.aliases.includes(name));
    if (found === undefined) throw modelNotFound(name);
    return found;
  }

  status(): NodeStatus {
    return {
      version: '0.0.0-stub',
      uptimeMicros: 1,
      device: { name: 'stub', memoryBytes: 10, lanes: 2, reservedBytes: 0, chargedBytes: 4, freeBytes: 6 },
      requests: { running: 0, waiting: 0, finished: 0, failed: 0 },
      configError: null,
    };
  }

  ready(): boolean {
    return this.isReady;
  }

  async load(name: string): Promise<void> {
    this.loads.push(this.model(name).id);
  }

  async stop(name: string, _tenant: unknown, { force }: { readonly force: boolean }): Promise<void> {
    this.stops.push({ name: this.model(name).id, force });
  }

  why(name: string) {
    if (name === 'nobody') throw new BerthError('not_found', 'Nothing was decided about that.');
    return [
      { at: 1, action: 'ensureLoaded', model: modelId(name), request: null, because: { rule: 'wanted', waiting: 1 } },
    ];
  }

  kv(): null {
    return null;
  }

  async metrics(): Promise<string> {
    return '# TYPE berth_up gauge\nberth_up 1\n';
  }
}
