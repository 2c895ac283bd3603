/** Text generation on one context: every step is one `llama_decode` over all sequences, then a token sampled for each that is due. */
import type { KvEntryId, RequestId } from '../../core/ids.ts';
import { BerthError } from '../../errors.ts';
import type { KvEvent, KvGrant, ModelLaunch, RequestUsage } from '../engine.ts';
import type { GenerateJob } from './commands.ts';
import { failedEvent, nowMicros } from './common.ts';
import { callsOf, ElasticContext } from './elastic.ts';
import { KvKeeper } from './keeper.ts';
import type { Emit, Generation, StepOutcome } from './generation.ts';
import { type Model, pieceOf } from './model.ts';
import { REPEAT_WINDOW, SamplerFactory } from './sampling.ts';
import { commonPrefix, usableTokens } from './prefixes.ts';
import { cellRowNanos } from './rent.ts';
import { isDecoding, tokenAt, totalTokens } from './sequence.ts';
import { seatsFor } from './seats.ts';
import { type PlannedTokens, SequenceTable } from './sequences.ts';
import { StepBatch } from './step-batch.ts';
import { TextStream } from './text.ts';
import { TokenReader } from './token-reader.ts';

/** Most requests that wait in a runner; the core sends far fewer. */
const WAITING_LIMIT = 1024;
/** Output that a cache is grown for beforehand. */
const EXPECTED_TOKENS = 256;

export class Generator {
  readonly #model: Model;
  readonly #launch: ModelLaunch;
  readonly #emit: Emit;
  readonly #context: ElasticContext;
  readonly #samplers: SamplerFactory;
  readonly #reader: TokenReader;
  readonly #table: SequenceTable;
  readonly #keeper: KvKeeper;
  readonly #batch: StepBatch;
  readonly #byId = new Map<RequestId, Generation>();
  #arrivals = 0;

  /** Throws `model_load_failed` if the machine can't hold the cache. */
  constructor(model: Model, launch: ModelLaunch, emit: Emit, onKv: (event: KvEvent) => void) {
    this.#model = model;
    this.#launch = launch;
    this.#emit = emit;
    const { parallel, seats } = seatsFor(model, launch.parallel);
    const stepTokens = Math.max(launch.batchTokens, parallel);
    const cells = Math.max(launch.kvTokens, launch.contextTokens);
    this.#context = new ElasticContext(model, { cells, seats, stepTokens });
    this.#keeper = new KvKeeper(model, this.#context, onKv);
    this.#samplers = new SamplerFactory(model);
    this.#reader = new TokenReader(model);
    this.#batch = new StepBatch(stepTokens, seats);
    const limits = {
      cells: this.#context.cells,
      parallel,
      seats,
      stepTokens,
      shares: model.sharesPrefixes,
      cellRowNanos: cellRowNanos(model),
    };
    this.#table = new SequenceTable(limits, {
      ...callsOf(this.#context),
      leaves: (idle, isNeeded) => this.#keeper.leaves(idle, isNeeded),
      continued: (idle) => this.#keeper.continued(idle),
      restore: (sequence, seat) => this.#restore(sequence as Generation, seat),
      grow: (wanted) => this.#grow(wanted),
    });
  }

  /** Makes the context before a request needs it; false if there was nothing to do. Throws `model_load_failed`. */
  prepare(): boolean {
    return this.#context.prepare();
  }

  /** Bytes that the KV cache may still grow by. */
  get growthBytes(): number {
    return this.#context.growthBytes;
  }

  #grow(wanted: number): number {
    const kept = this.#context.grow(wanted, this.#table.usedCells);
    // What did not come along is computed again, each at its seat.
    if (!kept) this.#keeper.gone(this.#table.lost());
    return this.#context.cells;
  }

  #restore(generation: Generation, seat: number): boolean {
    const { state, saved } = generation;
    if (state === null || saved === null) return false;
    const started = nowMicros();
    const isDone = this.#keeper.restore(seat, state, saved.common);
    generation.restored = isDone ? 'yes' : 'refused';
    generation.restoreMicros = nowMicros() - started;
    return isDone;
  }

  /** Leave to save what this request has left, or will leave. */
  grantKv(grant: KvGrant): void {
    const isAwaited = [...this.#byId.values()].some(({ job }) => job.kv?.entryId === grant.entryId);
    this.#keeper.grant(grant, isAwaited);
  }

  dropKv(entryId: KvEntryId): void {
    this.#table.drop(entryId);
    this.#keeper.needless(entryId);
  }

  get pending(): number {
    return this.#table.size;
  }

  /** Of what the next step would compute without limit: is there prefill, which can be cut to size? */
  get prefilling(): boolean {
    return this.#table.seated.some((sequence) => !isDecoding(sequence));
  }

  submit(job: GenerateJob): void {
    if (this.#byId.has(job.requestId)) return;
    try {
      this.#enter(job);
    } catch (thrown) {
      this.#fail(job.requestId, thrown);
    }
    this.#admit();
  }

  #enter(job: GenerateJob): void {
    if (this.#table.waiting.length >= WAITING_LIMIT)
      throw new BerthError('queue_full', `${WAITING_LIMIT} requests wait in this model’s runner already.`);
    const prompt = this.#reader.promptTokens(job);
    const { contextTokens } = this.#launch;
    if (prompt.length >= contextTokens) {
      throw new BerthError(
        'context_length_exceeded',
        `The prompt has ${prompt.length} tokens; the model’s context holds ${contextTokens}, prompt and output together.`,
      );
    }
    const expectedTokens = Math.min(job.maxTokens ?? EXPECTED_TOKENS, EXPECTED_TOKENS);
    // The first request finds a context of its size, if it comes before there is any.
    if (!this.#context.isMade && prompt.length + expectedTokens > this.#context.cells)
      this.#grow(prompt.length + expectedTokens);
    if (this.#context.memory === null)
      throw new BerthError('unsupported_parameter', 'This model embeds texts; it can’t generate one.', {
        param: 'model',
      });
    const banned = job.ignoreEos && job.grammar === null ? this.#reader.endTokens() : [];
    const generation: Generation = {
      requestId: job.requestId,
      tenantId: job.tenantId,
      order: this.#arrivals,
      prompt,
      generated: [],
      expectedTokens,
      seat: null,
      cells: 0,
      reused: 0,
      follows: null,
      job,
      sampler: this.#samplers.make({
        sampling: job.sampling,
        grammar: job.grammar,
        banned,
        logprobs: job.logprobs,
        history: [...prompt.subarray(-REPEAT_WINDOW)],
      }),
      text: new TextStream(job.stop),
      accepted: false,
      state: null,
      saved: null,
      restored: null,
      restoreMicros: 0,
      prefillMicros: 0,
      decodeMicros: 0,
    };
    this.#arrivals += 1;
    this.#byId.set(job.requestId, generation);
    this.#table.add(generation);
    this.#resume(generation);
  }

  /** Replays what an earlier run had sent, in silence. */
  #resume(generation: Generation): void {
    const { job, sampler } = generation;
    let replayed = '';
    let stopped = false;
    for (const token of job.resumeTokens) {
      this.#reader.checkToken(token, 'resumeTokens');
      generation.generated.push(token);
      sampler.accept(token);
      const out = generation.text.push(pieceOf(this.#model, token, job.showSpecial));
      replayed += out.text;
      stopped = out.stopped;
    }
    if (job.resumeTokens.length > 0) this.#emit(job.requestId, { type: 'resumed', text: replayed });
    if (stopped) this.#finish(generation, 'stop');
    else if (this.#isFull(generation)) this.#finish(generation, 'length');
    else this.#lookForState(generation);
  }

  #lookForState(generation: Generation): void {
    const file = generation.job.kv?.restore ?? null;
    if (file === null || !this.#model.sharesPrefixes) return;
    generation.state = this.#keeper.look(file);
    generation.restored = generation.state === null ? 'refused' : 'not-needed';
    if (generation.state === null) return;
    const { tokens, head } = generation.state.open;
    const common = commonPrefix(generation, tokens, totalTokens(generation) - 1);
    const usable = usableTokens(common, tokens.length, this.#model.windowTokens, head.branch?.tokens ?? null);
    generation.saved = { tokens: tokens.length, common: usable };
  }

  /** `keep`: what was computed stays, idle. */
  cancel(requestId: RequestId, keep: boolean): void {
    const generation = this.#byId.get(requestId);
    if (generation === undefined) return;
    if (keep) this.#park(generation);
    this.#forget(generation);
    this.#admit();
  }

  /** The request is over; its KV stays for whoever goes on from it, as long as nobody needs the cells. */
  #park(generation: Generation): void {
    const { kv } = generation.job;
    if (kv === null || !this.#model.sharesPrefixes) return;
    const idle = this.#table.park(generation, kv.entryId);
    if (idle === null) this.#keeper.needless(kv.entryId);
    else this.#keeper.kept(idle);
  }

  /** One step on `lanes` threads with at most `prefillTokens` of prefill; null if there was nothing to compute. */
  step(lanes: number, prefillTokens: number): StepOutcome | null {
    this.#admit();
    const started = nowMicros();
    this.#context.setLanes(lanes);
    const planned = this.#decode(prefillTokens);
    if (planned === null) return null;
    const decoded = planned.outputs.map(({ generation, index }) => {
      this.#sample(generation, index);
      return generation.requestId;
    });
    const micros = nowMicros() - started;
    const total = planned.items.reduce((sum, item) => sum + item.count, 0);
    this.#table.passed(total);
    let prefill = 0;
    const shares = planned.items.map((item): readonly [RequestId, number] => {
      const generation = item.sequence as Generation;
      const share = Math.round((micros * item.count) / total);
      generation[item.decoding ? 'decodeMicros' : 'prefillMicros'] += share;
      if (!item.decoding) prefill += item.count;
      return [generation.requestId, share];
    });
    for (const finish of this.#finishing.splice(0)) finish();
    this.#admit();
    return { micros, prefillTokens: prefill, decoded, shares };
  }

  /** Ends are told after the step's time was shared out, so that usage holds it. */
  readonly #finishing: (() => void)[] = [];

  #decode(prefillTokens: number): {
    items: (PlannedTokens & { decoding: boolean })[];
    outputs: { generation: Generation; index: number }[];
  } | null {
    const { llama } = this.#model;
    for (;;) {
      const items = this.#table.plan(prefillTokens).map((item) => ({ ...item, decoding: isDecoding(item.sequence) }));
      if (items.length === 0) {
        const [alone] = this.#table.seated;
        if (alone !== undefined && prefillTokens > 0) this.#outgrown(alone as Generation);
        return null;
      }
      const outputs = this.#fill(items);
      const code = llama.llama_decode(this.#context.pointer, this.#batch.batch);
      if (code === 0) {
        for (const item of items) this.#table.computed(item);
        return { items, outputs };
      }
      // 1: no room for the batch in the KV cache; nothing was changed.
      if (code === 1 && this.#table.makeRoom()) continue;
      const reason = code === 1 ? 'the KV cache has no room' : `llama_decode returned ${code}`;
      for (const { sequence } of items) {
        this.#fail(
          sequence.requestId,
          new BerthError('engine_error', `llama.cpp could not compute the request: ${reason}.`),
        );
      }
      return null;
    }
  }

  /** The only one that is left fills the cache: by right, or because the machine has no memory for a larger one. */
  #outgrown(generation: Generation): void {
    if (this.#context.cells >= this.#launch.contextTokens) return this.#finish(generation, 'length');
    const message = 'The machine has no memory left for this model’s KV cache to grow as far as the request needs.';
    this.#fail(generation.requestId, new BerthError('engine_error', message));
  }

  #fill(items: readonly PlannedTokens[]): { generation: Generation; index: number }[] {
    const outputs: { generation: Generation; index: number }[] = [];
    this.#batch.clear();
    for (const { sequence, count, samples } of items) {
      for (let offset = 0; offset < count; offset += 1) {
        const position = sequence.cells + offset;
        const output = samples && offset === count - 1;
        const index = this.#batch.add(tokenAt(sequence, position), position, sequence.seat as number, output);
        if (output) outputs.push({ generation: sequence as Generation, index });
      }
    }
    return outputs;
  }

  #sample(generation: Generation, index: number): void {
    const { job, requestId } = generation;
    try {
      const choice = generation.sampler.sample(this.#context.pointer, index, this.#context.rows.row(index));
      if (!job.ignoreEos || job.grammar !== null) {
        if (this.#model.llama.llama_vocab_is_eog(this.#model.vocab, choice.token)) {
          this.#finishing.push(() => this.#finish(generation, 'stop'));
          return;
        }
      }
      generation.generated.push(choice.token);
      generation.sampler.accept(choice.token);
      const out = generation.text.push(pieceOf(this.#model, choice.token, job.showSpecial));
      this.#emit(requestId, {
        type: 'tokens',
        text: out.text,
        tokenIds: [choice.token],
        ...(choice.logprob === null ? {} : { logprobs: [this.#reader.describe(choice, choice.logprob)] }),
      });
      if (out.stopped) this.#finishing.push(() => this.#finish(generation, 'stop'));
      else if (this.#isFull(generation)) this.#finishing.push(() => this.#finish(generation, 'length'));
    } catch (thrown) {
      this.#finishing.push(() => this.#fail(requestId, thrown));
    }
  }

  #isFull(generation: Generation): boolean {
    const { maxTokens } = generation.job;
    if (maxTokens !== null && generation.generated.length >= maxTokens) return true;
    return totalTokens(generation) >= this.#launch.contextTokens;
  }

  #finish(generation: Generation, reason: 'stop' | 'length'): void {
    if (!this.#byId.has(generation.requestId)) return;
    this.#accept(generation);
    const rest = generation.text.end();
    if (rest.text !== '') this.#emit(generation.requestId, { type: 'tokens', text: rest.text, tokenIds: [] });
    const usage: RequestUsage = {
      promptTokens: generation.prompt.length,
      cachedTokens: Math.min(generation.reused, generation.prompt.length),
      outputTokens: generation.generated.length,
      prefillMicros: generation.prefillMicros,
      decodeMicros: generation.decodeMicros,
    };
    this.#park(generation);
    this.#forget(generation);
    this.#emit(generation.requestId, { type: 'finished', reason: rest.stopped ? 'stop' : reason, usage });
  }

  #fail(requestId: RequestId, thrown: unknown): void {
    const generation = this.#byId.get(requestId);
    if (generation !== undefined) this.#forget(generation);
    this.#emit(requestId, failedEvent(thrown));
  }

  #forget(generation: Generation): void {
    this.#byId.delete(generation.requestId);
    this.#table.remove(generation);
    generation.sampler.free();
  }

  #admit(): void {
    for (const sequence of this.#table.admit()) this.#accept(sequence as Generation);
  }

  /** Tells of the request's start, once. */
  #accept(generation: Generation): void {
    if (generation.accepted) return;
    generation.accepted = true;
    const { job, requestId, prompt, restored, restoreMicros } = generation;
    const cachedTokens = Math.min(Math.max(generation.reused, generation.follows?.tokens ?? 0), prompt.length);
    const restoring = restored === null ? {} : { restored, restoreMicros };
    this.#emit(requestId, { type: 'accepted', promptTokens: prompt.length, cachedTokens, ...restoring });
    if (!job.echo || job.resumeTokens.length > 0) return;
    const text =
      job.prompt.type === 'text'
        ? job.prompt.text
        : Buffer.concat([...prompt].map((token) => pieceOf(this.#model, token, true))).toString('utf8');
    this.#emit(requestId, { type: 'tokens', text, tokenIds: [] });
  }

  /** Saves idle KV, frees the context and all samplers; requests still here are failed with `model_stopped`. */
  dispose(): void {
    for (const { requestId } of this.#byId.values())
      this.#fail(requestId, new BerthError('model_stopped', 'The model was put to sleep while the request ran.'));
    this.#context.letGo();
    this.#table.clearOut();
    this.#context.dispose();
  }
}
