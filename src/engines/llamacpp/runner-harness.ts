/** For tests: a real runner process, spoken to as the node's adapter does. */
import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { modelId, type RequestId, requestId, tenantId } from '../../core/ids.ts';
import type { EmbedRequest, GenerateRequest, ModelLaunch, Sampling, SliceGrant, SliceReport } from '../engine.ts';
import type { FromRunner, ToRunner, WireEvent } from './protocol.ts';
import { MALLOC_TUNABLES, RUNNER_NODE_ARGS, RUNNER_SCRIPT, withCompileCache } from './runner-args.ts';

const CACHE_FOLDER = fileURLToPath(new URL('../../../node_modules/.cache/berth-runner', import.meta.url));
const DEADLINE_MILLIS = 60_000;

export const greedy: Sampling = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  seed: null,
  presencePenalty: 0,
  frequencyPenalty: 0,
  repeatPenalty: 1,
  logitBias: {},
};

export function launchOf(path: string, more: Partial<ModelLaunch> = {}): ModelLaunch {
  return {
    modelId: modelId('m'),
    path,
    contextTokens: 512,
    kvTokens: 2048,
    parallel: 4,
    batchTokens: 512,
    memoryLimitBytes: 0,
    ...more,
  };
}

export function textRequest(text: string, more: Partial<GenerateRequest> = {}): GenerateRequest {
  return {
    kind: 'generate',
    requestId: requestId(`r${Math.random().toString(36).slice(2)}`),
    tenantId: tenantId('t'),
    input: { type: 'text', text },
    maxTokens: 16,
    sampling: greedy,
    stop: [],
    format: { type: 'text' },
    logprobs: null,
    ignoreEos: false,
    echo: false,
    resumeTokens: [],
    ...more,
  };
}

export function chatRequest(content: string, more: Partial<GenerateRequest> = {}): GenerateRequest {
  return textRequest('', {
    input: { type: 'chat', messages: [{ role: 'user', content }], tools: [], toolChoice: 'auto' },
    ...more,
  });
}

export function embedRequest(inputs: EmbedRequest['inputs']): EmbedRequest {
  return {
    kind: 'embed',
    requestId: requestId(`e${Math.random().toString(36).slice(2)}`),
    tenantId: tenantId('t'),
    inputs,
  };
}

/** All events of one request, summed up. */
export interface Answer {
  readonly events: readonly WireEvent[];
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly last: WireEvent;
}

type Message<T extends FromRunner['type']> = Extract<FromRunner, { type: T }>;

export class RunnerHarness {
  static readonly #running = new Set<RunnerHarness>();
  readonly child: ChildProcess;
  readonly reports: SliceReport[] = [];
  readonly exited: Promise<number | null>;
  readonly #events = new Map<RequestId, WireEvent[]>();
  readonly #messages: FromRunner[] = [];
  readonly #waiters = new Set<() => void>();
  /** Steps as long as a batch is: prompts cut by the clock have other shapes, and other near-ties, on each run. */
  hasWholeSteps = false;
  #slices = 0;

  constructor(env: NodeJS.ProcessEnv = {}) {
    this.child = spawn(process.execPath, [...RUNNER_NODE_ARGS, fileURLToPath(RUNNER_SCRIPT)], {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      env: withCompileCache({ ...process.env, ...MALLOC_TUNABLES, ...env }, CACHE_FOLDER),
    });
    this.exited = new Promise((resolve) => this.child.once('exit', (code) => resolve(code)));
    this.child.on('message', (message) => this.#hear(message as FromRunner));
    RunnerHarness.#running.add(this);
    void this.exited.then(() => {
      RunnerHarness.#running.delete(this);
      this.#wake();
    });
  }

  /** What a failed test left behind. */
  static async stopAll(): Promise<void> {
    await Promise.all([...RunnerHarness.#running].map((runner) => runner.stop()));
  }

  #hear(message: FromRunner): void {
    if (message.type === 'events') {
      for (const [id, event] of message.items) {
        const list = this.#events.get(id) ?? [];
        list.push(event);
        this.#events.set(id, list);
      }
    } else if (message.type === 'sliceEnded') this.reports.push(message.report);
    else this.#messages.push(message);
    this.#wake();
  }

  #wake(): void {
    for (const waiter of this.#waiters) waiter();
  }

  /** Resolves with the first value that isn't undefined, looked for after each message. */
  until<T>(what: string, look: () => T | undefined): Promise<T> {
    return new Promise((resolve, reject) => {
      const done = (): void => {
        this.#waiters.delete(check);
        clearTimeout(timer);
      };
      const check = (): void => {
        const found = look();
        if (found !== undefined) {
          done();
          resolve(found);
        } else if (this.child.exitCode !== null || this.child.signalCode !== null) {
          done();
          reject(
            new Error(`the runner ended (${this.child.exitCode ?? this.child.signalCode}) while waiting for ${what}`),
          );
        }
      };
      const timer = setTimeout(() => {
        done();
        reject(new Error(`no ${what} within ${DEADLINE_MILLIS} ms`));
      }, DEADLINE_MILLIS);
      this.#waiters.add(check);
      check();
    });
  }

  tell(message: ToRunner): void {
    this.child.send(message);
  }

  message<T extends FromRunner['type']>(type: T): Promise<Message<T>> {
    return this.until(type, () => {
      const index = this.#messages.findIndex((message) => message.type === type);
      return index < 0 ? undefined : (this.#messages.splice(index, 1)[0] as Message<T>);
    });
  }

  async load(launch: ModelLaunch): Promise<Message<'loaded'>> {
    this.tell({ type: 'load', launch });
    return this.message('loaded');
  }

  slice(grant: Partial<SliceGrant> = {}): number {
    this.#slices += 1;
    const step = this.hasWholeSteps ? { stepMicros: DEADLINE_MILLIS * 1000 } : {};
    this.tell({ type: 'slice', grant: { sliceId: this.#slices, lanes: 1, micros: null, ...step, ...grant } });
    return this.#slices;
  }

  report(sliceId: number): Promise<SliceReport> {
    return this.until(`report of slice ${sliceId}`, () => this.reports.find((report) => report.sliceId === sliceId));
  }

  eventsOf(id: RequestId): readonly WireEvent[] {
    return this.#events.get(id) ?? [];
  }

  answer(id: RequestId): Promise<Answer> {
    return this.until('answer', () => {
      const events = this.eventsOf(id);
      const last = events.at(-1);
      if (last === undefined || !['finished', 'failed', 'embedded'].includes(last.type)) return undefined;
      const tokens = events.filter((event) => event.type === 'tokens');
      return {
        events,
        text: tokens.map((event) => event.text).join(''),
        tokenIds: tokens.flatMap((event) => event.tokenIds),
        last,
      };
    });
  }

  /** Submits, grants an open-ended slice, and waits for all answers. */
  async ask(...requests: readonly (GenerateRequest | EmbedRequest)[]): Promise<Answer[]> {
    for (const request of requests) this.tell({ type: 'submit', request });
    this.slice();
    return Promise.all(requests.map((request) => this.answer(request.requestId)));
  }

  async stop(): Promise<number | null> {
    if (this.child.connected) this.tell({ type: 'exit' });
    const timer = setTimeout(() => this.child.kill('SIGKILL'), 5_000);
    const code = await this.exited;
    clearTimeout(timer);
    return code;
  }
}
