/**
 * A runner process: hosts one model for one node. This thread speaks with the node, renders prompts, writes grammars and
 * finds tool calls; all calls of llama.cpp happen in the worker. It is started without a model, and ends with its parent.
 * stdout stays silent; llama.cpp's warnings go to stderr. See `runner-args.ts` for how it is started.
 */
import { Worker } from 'node:worker_threads';
import type { RequestId } from '../../core/ids.ts';
import { asBerthError, BerthError } from '../../errors.ts';
import type { EngineRequest, GenerateRequest } from '../engine.ts';
import { ChatRenderer } from './chat.ts';
import type { FromWorker, GenerateJob, Job, JobEvents, ToWorker, WorkerSetup } from './commands.ts';
import { failedEvent } from './common.ts';
import type { FromRunner, ToRunner, WireEvent } from './protocol.ts';
import { WORKER_LIMITS } from './runner-args.ts';
import { grammarOf, ToolCallParser } from './tools.ts';

const startedAt = performance.now();
const nowMicros = (): number => Math.round((performance.now() - startedAt) * 1000);

/** What is left of a request on this side: its parser of tool calls. */
interface ToolTrack {
  readonly parser: ToolCallParser;
  calls: number;
}

function send(message: FromRunner): void {
  if (process.connected) process.send?.(message);
}

const wantsTools = (request: GenerateRequest): boolean =>
  request.input.type === 'chat' && request.input.tools.length > 0 && request.input.toolChoice !== 'none';

class Runner {
  readonly #worker: Worker;
  readonly #bell = new Int32Array(new SharedArrayBuffer(4));
  readonly #tracks = new Map<RequestId, ToolTrack>();
  /** Commands wait here while a template is being read; in the node's order. */
  readonly #inbox: ToRunner[] = [];
  #renderer: ChatRenderer | null = null;
  #busy = false;

  constructor() {
    const setup: WorkerSetup = { bell: this.#bell.buffer };
    this.#worker = new Worker(new URL('./worker.ts', import.meta.url), {
      workerData: setup,
      resourceLimits: WORKER_LIMITS,
      stdout: false,
    });
    this.#worker.on('message', (message: FromWorker) => void this.#hear(message));
    this.#worker.on('error', (error) => this.#die(asBerthError(error)));
  }

  receive(message: ToRunner): void {
    this.#inbox.push(message);
    this.#pump();
  }

  #pump(): void {
    while (!this.#busy) {
      const message = this.#inbox.shift();
      if (message === undefined) return;
      this.#obey(message);
    }
  }

  #tell(command: ToWorker): void {
    this.#worker.postMessage(command);
    Atomics.add(this.#bell, 0, 1);
    Atomics.notify(this.#bell, 0);
  }

  #obey(message: ToRunner): void {
    switch (message.type) {
      case 'exit':
        process.exit(0);
        break;
      case 'submit':
        this.#submit(message.request);
        break;
      case 'cancel':
        this.#tracks.delete(message.requestId);
        this.#tell(message);
        break;
      default:
        this.#tell(message);
    }
  }

  #submit(request: EngineRequest): void {
    try {
      this.#tell({ type: 'submit', job: this.#job(request) });
    } catch (thrown) {
      send({ type: 'events', items: [[request.requestId, failedEvent(thrown)]] });
    }
  }

  #job(request: EngineRequest): Job {
    if (request.kind === 'embed') return { kind: 'embed', requestId: request.requestId, inputs: request.inputs };
    const { requestId, tenantId, input, maxTokens, sampling, logprobs, ignoreEos, echo, resumeTokens } = request;
    const grammar = grammarOf(request);
    let prompt: GenerateJob['prompt'];
    let { stop } = request;
    if (input.type === 'chat') {
      if (this.#renderer === null) throw new BerthError('model_stopped', 'The model is not loaded.');
      const rendered = this.#renderer.render(input);
      prompt = { type: 'text', text: rendered.text, addSpecial: rendered.addSpecial };
      stop = [...stop, ...rendered.stop];
    } else if (input.type === 'text') prompt = { type: 'text', text: input.text, addSpecial: true };
    else prompt = { type: 'tokens', tokens: input.tokens };
    const showSpecial = wantsTools(request);
    if (input.type === 'chat' && showSpecial)
      this.#tracks.set(requestId, { parser: new ToolCallParser(input.tools), calls: 0 });
    return {
      kind: 'generate',
      requestId,
      tenantId,
      kv: request.kv ?? null,
      prompt,
      maxTokens,
      sampling,
      stop,
      grammar,
      logprobs,
      ignoreEos,
      echo,
      showSpecial,
      resumeTokens,
    };
  }

  async #hear(message: FromWorker): Promise<void> {
    switch (message.type) {
      case 'started':
        send({ type: 'started', engineVersion: message.engineVersion, micros: nowMicros() });
        void ChatRenderer.prepare();
        break;
      case 'loaded': {
        const { template, ...loaded } = message;
        send(loaded);
        // Commands that follow may need the template; it is read while they are on their way.
        this.#busy = true;
        this.#renderer ??= await ChatRenderer.load(template);
        this.#busy = false;
        this.#pump();
        break;
      }
      case 'events': {
        const items = this.#translate(message.items);
        if (items.length > 0) send({ type: 'events', items });
        break;
      }
      case 'fatal':
        this.#die(new BerthError(message.code, message.message));
        break;
      default:
        send(message);
    }
  }

  /** Tool calls are taken out of the text; `resumed` ends here. */
  #translate(items: JobEvents): (readonly [RequestId, WireEvent])[] {
    return items.flatMap(([requestId, event]): (readonly [RequestId, WireEvent])[] => {
      const track = this.#tracks.get(requestId);
      if (event.type === 'resumed') {
        if (track !== undefined) track.calls += track.parser.push(event.text).calls.length;
        return [];
      }
      if (track === undefined) return [[requestId, event]];
      if (event.type === 'tokens') {
        const out = track.parser.push(event.text);
        return [[requestId, { ...event, text: out.text }], ...this.#calls(requestId, track, out.calls)];
      }
      if (event.type === 'finished') {
        const out = track.parser.end();
        const rest: (readonly [RequestId, WireEvent])[] =
          out.text === '' ? [] : [[requestId, { type: 'tokens', text: out.text, tokenIds: [] }]];
        const calls = this.#calls(requestId, track, out.calls);
        this.#tracks.delete(requestId);
        const reason = track.calls > 0 && event.reason === 'stop' ? 'tool_calls' : event.reason;
        return [...rest, ...calls, [requestId, { ...event, reason }]];
      }
      if (event.type === 'failed') this.#tracks.delete(requestId);
      return [[requestId, event]];
    });
  }

  #calls(
    requestId: RequestId,
    track: ToolTrack,
    calls: ReturnType<ToolCallParser['push']>['calls'],
  ): (readonly [RequestId, WireEvent])[] {
    return calls.map((call) => {
      const index = track.calls;
      track.calls += 1;
      return [requestId, { type: 'toolCall', index, call }] as const;
    });
  }

  #die(error: BerthError): void {
    if (!process.connected) process.exit(1);
    process.send?.(
      { type: 'fatal', code: error.code, message: error.message } satisfies FromRunner,
      undefined,
      {},
      () => process.exit(1),
    );
  }
}

const runner = new Runner();
process.on('message', (message) => runner.receive(message as ToRunner));
process.on('disconnect', () => process.exit(0));
