/**
 * A client's request as one or more submissions (`n` choices, several prompts) with one fate: the first failure cancels the
 * rest, the client's leaving cancels all, and a last deadline holds whatever the node does.
 */
import type { ModelId } from '../../core/ids.ts';
import { asBerthError, BerthError } from '../../errors.ts';
import type { NodeApi, RequestTimings, StreamEvent, Submission, SubmissionHandle } from '../../runtime/api.ts';
import { fromFailed } from './errors.ts';
import type { RequestUsage } from './types.ts';

export interface RunListener {
  event(choice: number, event: Exclude<StreamEvent, { type: 'failed' }>): void;
  /** Every choice has ended. */
  done(totals: Totals): void;
  /** The first failure; nothing comes after it. */
  failed(error: BerthError): void;
}

/** Usage and times of all choices together: prompts counted once each, outputs summed, the longest times. */
export interface Totals {
  /** Who answered. */
  readonly modelId: ModelId;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly outputTokens: number;
  /** The device's time, prefill and decode. */
  readonly deviceMicros: number;
  readonly timings: RequestTimings;
  /** Why some answer was ended before its end; null: none was. */
  readonly cutOff: 'budget' | null;
}

interface Ended {
  readonly usage: RequestUsage;
  readonly timings: RequestTimings;
  readonly cutOff?: 'budget';
}

const sum = (list: readonly Ended[], pick: (usage: RequestUsage) => number): number =>
  list.reduce((total, { usage }) => total + pick(usage), 0);

export class Run {
  /** null until something failed. */
  failure: BerthError | null = null;
  readonly #handles: readonly SubmissionHandle[];
  readonly #perPrompt: number;
  readonly #ended: (Ended | undefined)[];
  readonly #deadline: NodeJS.Timeout;
  #early: [number, StreamEvent][] = [];
  #listener: RunListener | null = null;
  #left: number;
  #over = false;

  /**
   * Submits all. Events wait until `listen` is called, so a listener never runs inside `submit`.
   * @param perPrompt choices of the same prompt that follow each other.
   * @throws BerthError whatever the node throws; then nothing stays submitted.
   */
  constructor(
    node: Pick<NodeApi, 'submit'>,
    submissions: readonly [Submission, ...Submission[]],
    perPrompt: number,
    deadlineMillis: number,
  ) {
    this.#perPrompt = perPrompt;
    this.#left = submissions.length;
    this.#ended = submissions.map(() => undefined);
    const handles: SubmissionHandle[] = [];
    try {
      submissions.forEach((submission, choice) => {
        handles.push(node.submit(submission, (event) => this.#take(choice, event)));
      });
    } catch (error) {
      this.#over = true;
      for (const handle of handles) handle.cancel();
      throw error;
    }
    this.#handles = handles;
    this.#deadline = setTimeout(() => {
      this.#fail(new BerthError('queue_timeout', `The request did not end within ${deadlineMillis / 1_000} s.`));
    }, deadlineMillis);
    if (this.#over) clearTimeout(this.#deadline);
  }

  /** Who computes it: another one than before once it has been handed on. */
  get modelId(): ModelId {
    return (this.#handles[0] as SubmissionHandle).modelId;
  }

  /** The first of its prompt's choices: its prompt counts. */
  paysPrompt(choice: number): boolean {
    return choice % this.#perPrompt === 0;
  }

  listen(listener: RunListener): void {
    this.#listener = listener;
    const early = this.#early;
    this.#early = [];
    for (const [choice, event] of early) this.#deliver(choice, event);
    // The deadline was over before anybody listened.
    if (this.failure !== null && early.length === 0) listener.failed(this.failure);
  }

  /** The client left. Nothing is delivered any more. Idempotent. */
  cancel(): void {
    if (this.#over) return;
    this.#end();
    for (const handle of this.#handles) handle.cancel();
  }

  #take(choice: number, event: StreamEvent): void {
    if (this.#over) return;
    if (this.#listener !== null) return this.#deliver(choice, event);
    if (event.type === 'failed') this.failure ??= fromFailed(event);
    this.#early.push([choice, event]);
  }

  #deliver(choice: number, event: StreamEvent): void {
    if (this.#over) return;
    if (event.type === 'failed') return this.#fail(fromFailed(event));
    try {
      this.#listener?.event(choice, event);
    } catch (error) {
      // Ours to answer for: the node that calls this sink must not see it.
      return this.#fail(asBerthError(error));
    }
    if (event.type !== 'finished' && event.type !== 'embedded') return;
    if (this.#ended[choice] !== undefined) return;
    this.#ended[choice] = event;
    this.#left -= 1;
    if (this.#left > 0) return;
    this.#end();
    this.#listener?.done(this.#totals());
  }

  #fail(error: BerthError): void {
    this.failure = error;
    if (this.#over) return;
    const listener = this.#listener;
    this.cancel();
    listener?.failed(error);
  }

  #end(): void {
    this.#over = true;
    clearTimeout(this.#deadline);
  }

  #totals(): Totals {
    const ended = this.#ended.filter((one) => one !== undefined);
    const firsts = ended.filter((_, choice) => this.paysPrompt(choice));
    const longest = (pick: (timings: RequestTimings) => number): number =>
      Math.max(...ended.map(({ timings }) => pick(timings)));
    return {
      modelId: this.modelId,
      promptTokens: sum(firsts, (usage) => usage.promptTokens),
      cachedTokens: sum(firsts, (usage) => usage.cachedTokens),
      outputTokens: sum(ended, (usage) => usage.outputTokens),
      deviceMicros: sum(ended, (usage) => usage.prefillMicros + usage.decodeMicros),
      timings: {
        queueMicros: longest((timings) => timings.queueMicros),
        loadMicros: longest((timings) => timings.loadMicros),
        ttftMicros: longest((timings) => timings.ttftMicros),
        totalMicros: longest((timings) => timings.totalMicros),
        restoreMicros: longest((timings) => timings.restoreMicros),
        kvTier: ended[0]?.timings.kvTier ?? null,
      },
      cutOff: ended.find((one) => one.cutOff !== undefined)?.cutOff ?? null,
    };
  }
}

const millis = (micros: number): number => Math.round(micros) / 1_000;

/** `berth` of a response: where the time went, in milliseconds, and who answered if that is another model than `said`. */
export const berthField = (totals: Totals, said: string = totals.modelId) => ({
  queue_ms: millis(totals.timings.queueMicros),
  load_ms: millis(totals.timings.loadMicros),
  ttft_ms: millis(totals.timings.ttftMicros),
  device_ms: millis(totals.deviceMicros),
  total_ms: millis(totals.timings.totalMicros),
  restore_ms: millis(totals.timings.restoreMicros),
  kv_tier: totals.timings.kvTier,
  ...(totals.cutOff === null ? {} : { cut_off: totals.cutOff }),
  ...(totals.modelId === said ? {} : { model: totals.modelId }),
});

export const usageField = (totals: Pick<Totals, 'promptTokens' | 'cachedTokens' | 'outputTokens'>) => ({
  prompt_tokens: totals.promptTokens,
  completion_tokens: totals.outputTokens,
  total_tokens: totals.promptTokens + totals.outputTokens,
  prompt_tokens_details: { cached_tokens: totals.cachedTokens },
});
