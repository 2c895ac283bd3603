/** A STUB for the tests of the command line: a node without engines behind the real gateway, and a terminal made of strings. */
import { Readable } from 'node:stream';
import type { EngineCapabilities } from '../engines/engine.ts';
import { BerthError } from '../errors.ts';
import { listenGateway } from '../gateway/listen.ts';
import type { ListenOptions, Listening } from '../gateway/listen.ts';
import { modelId, requestId } from '../core/ids.ts';
import type { DeviceTimeRow } from '../runtime/device-time.ts';
import type { DecisionView, KvView, ModelView, NodeApi, NodeStatus, StreamEvent, Submission } from '../runtime/api.ts';
import type { Io } from './io.ts';
import { runCli } from './program.ts';

const CAPABILITIES: EngineCapabilities = {
  preempts: 'token',
  sleeps: true,
  exportsKv: false,
  saltsPrefixCache: true,
  adjustableLanes: true,
  embeds: true,
  logprobs: true,
};

export function stubModel(id: string, rest: Partial<ModelView> = {}): ModelView {
  return {
    id: modelId(id),
    aliases: [],
    engine: 'stub',
    capabilities: CAPABILITIES,
    state: 'unloaded',
    tier: 'disk',
    source: `/models/${id}.gguf`,
    createdSeconds: Math.floor(Date.now() / 1_000) - 2 * 3600,
    fileBytes: 98_362_432,
    chargedBytes: 0,
    contextTokens: 4096,
    parallel: 4,
    pinned: false,
    running: 0,
    waiting: 0,
    lanes: 0,
    expiresInMicros: null,
    digest: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
    details: {
      format: 'gguf',
      architecture: 'llama',
      parameters: 134_515_008,
      quantization: 'Q4_1',
      trainedContextTokens: 8192,
      chatTemplate: true,
    },
    failure: null,
    ...rest,
  };
}

export class StubNode implements NodeApi {
  readonly submissions: Submission[] = [];
  readonly calls: string[] = [];
  list: ModelView[];
  decisions: DecisionView[] = [];
  /** What a submission hears, an event a turn. */
  answer: (submission: Submission) => StreamEvent[];

  constructor(list: ModelView[]) {
    this.list = list;
    this.answer = () => answerOf('Hello', ' there.');
  }

  submit(submission: Submission, sink: (event: StreamEvent) => void) {
    const model = this.model(submission.model);
    this.submissions.push(submission);
    const events = this.answer(submission);
    // Two turns for each event, so that the gateway has sent what came before it.
    const next = (): void => {
      const event = events.shift();
      if (event === undefined) return;
      sink(event);
      setImmediate(() => setImmediate(next));
    };
    setImmediate(next);
    return { requestId: submission.request.requestId, modelId: model.id, cancel: () => this.calls.push('cancel') };
  }
  models(): readonly ModelView[] {
    return this.list;
  }
  model(name: string): ModelView {
    const found = this.list.find(({ id, aliases }) => id === name || aliases.includes(name));
    if (found === undefined) throw new BerthError('model_not_found', `model ${JSON.stringify(name)} is not here`);
    return found;
  }
  status(): NodeStatus {
    const device = {
      name: 'stub',
      memoryBytes: 2 ** 32,
      lanes: 2,
      reservedBytes: 0,
      chargedBytes: 0,
      freeBytes: 2 ** 32,
    };
    const requests = { running: 1, waiting: 1, finished: 7, failed: 0 };
    return { version: '0', uptimeMicros: 600e6, device, requests, configError: null };
  }
  ready(): boolean {
    return true;
  }
  load(name: string): Promise<void> {
    this.model(name);
    this.calls.push(`load ${name}`);
    return Promise.resolve();
  }
  stop(name: string, _tenant: unknown, { force }: { readonly force: boolean }): Promise<void> {
    this.model(name);
    this.calls.push(`stop ${name}${force ? ' by force' : ''}`);
    return Promise.resolve();
  }
  why(name: string): readonly DecisionView[] {
    if (name === 'nobody') throw new BerthError('not_found', 'nothing is known about it');
    return this.decisions;
  }
  kv(): KvView | null {
    return null;
  }

  forgetTenant(): void {}

  takeDeviceTime(): DeviceTimeRow[] {
    return [];
  }

  metrics(): Promise<string> {
    return Promise.resolve('');
  }
}

const timings = {
  queueMicros: 0,
  loadMicros: 2_000,
  ttftMicros: 10_000,
  totalMicros: 110_000,
  restoreMicros: 0,
  kvTier: null,
};
const usage = { promptTokens: 9, cachedTokens: 0, outputTokens: 11, prefillMicros: 1, decodeMicros: 1 };

/** The events of a request that waits, loads, and is answered with these texts. */
export function answerOf(...texts: readonly string[]): StreamEvent[] {
  return [
    { type: 'queued', position: 1 },
    { type: 'loading', model: modelId('m') },
    { type: 'accepted', promptTokens: 9, cachedTokens: 0 },
    ...texts.map((text): StreamEvent => ({ type: 'tokens', text, tokenIds: [1] })),
    { type: 'finished', reason: 'stop', usage, timings },
  ];
}

export const decision = (at: number, action: string, because: DecisionView['because']): DecisionView => ({
  at,
  action,
  model: modelId('smol'),
  request: requestId('req-1'),
  because,
});

export const listen = (node: NodeApi, rest: Partial<ListenOptions> = {}): Promise<Listening> =>
  listenGateway({ node, host: '127.0.0.1', port: 0, adminHost: '127.0.0.1', adminPort: 0, ...rest });

export interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export interface Terminal {
  readonly io: Io;
  readonly out: () => string;
  readonly err: () => string;
  readonly exits: number[];
  /** Sends SIGINT. */
  interrupt(): void;
  /** Resolves when stdout holds `text`. */
  shows(text: string): Promise<void>;
}

export function stubTerminal(
  env: Record<string, string> = {},
  rest: Partial<Io> & { readonly typed?: string } = {},
): Terminal {
  const texts = { out: '', err: '' };
  const handlers = new Set<() => void>();
  const exits: number[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  let awaited: string | null = null;
  return {
    exits,
    out: () => texts.out,
    err: () => texts.err,
    interrupt: () => handlers.forEach((handler) => handler()),
    shows: (text) => {
      awaited = text;
      if (texts.out.includes(text)) resolve();
      return promise;
    },
    io: {
      out: (text) => {
        texts.out += text;
        if (awaited !== null && texts.out.includes(awaited)) resolve();
      },
      err: (text) => {
        texts.err += text;
      },
      stdin: Readable.from(rest.typed === undefined ? [] : [rest.typed]),
      stdinIsTty: false,
      stdoutIsTty: false,
      stderrIsTty: false,
      columns: 100,
      env: { BERTH_HOME: '/nowhere/berth', ...env },
      cwd: '/',
      onSignal: (handler) => {
        handlers.add(handler);
        return () => handlers.delete(handler);
      },
      exit: (code) => exits.push(code),
      ...rest,
    },
  };
}

/** Runs a command line against the listeners; null: against ports where nothing listens. */
export async function cli(
  at: Listening | null,
  line: readonly string[],
  { env = {}, ...rest }: Partial<Io> & { readonly typed?: string; readonly env?: Record<string, string> } = {},
): Promise<Ran> {
  const ports = { BERTH_PORT: String(at?.port ?? 1), BERTH_ADMIN_PORT: String(at?.adminPort ?? 1) };
  const terminal = stubTerminal({ ...ports, ...env }, rest);
  const code = await runCli(line, terminal.io);
  return { code, out: terminal.out(), err: terminal.err() };
}
