/**
 * A client's request on its way to a model that has an overflow. Where that one can't take it (its queue is full, it can't be loaded) or
 * nobody has begun to compute it in time, all of its submissions go to the other model: once, and only while nobody has begun.
 */
import type { ModelId } from '../../core/ids.ts';
import { MILLI, modelId } from '../../core/ids.ts';
import type { ErrorCode } from '../../errors.ts';
import { asBerthError } from '../../errors.ts';
import type { NodeApi, StreamEvent, Submission, SubmissionHandle } from '../../runtime/api.ts';
import type { Overflow } from '../tenants/types.ts';

/** What says of a model, not of the request, that it can't be answered now. */
const OVERFLOWING: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'queue_full',
  'queue_timeout',
  'model_too_large',
  'model_load_failed',
  'model_file_missing',
  'model_file_invalid',
  'engine_mismatch',
  'engine_died',
]);

/** A way to a model, as a ticket of the gate is one. */
export interface Way extends Pick<NodeApi, 'submit'> {
  /** What was submitted is cancelled, and nothing more comes. */
  abandon(outcome: string): void;
}

export interface DetourOptions {
  readonly first: Way;
  readonly overflow: Overflow;
  /** A way to the other model for these. Throws what forbids it: the caller may not use it, or a limit. */
  readonly second: (submissions: readonly Submission[]) => Way;
  /** Submissions in all. */
  readonly total: number;
}

interface Part {
  readonly submission: Submission;
  readonly sink: (event: StreamEvent) => void;
  handle: SubmissionHandle | null;
}

/** Tokens mean something to the model that they were made for only, and work that has time waits. */
export const mayOverflow = ({ request, priority }: Submission): boolean =>
  priority === 'interactive' &&
  (request.kind === 'embed'
    ? request.inputs.every((input) => typeof input === 'string')
    : request.input.type !== 'tokens');

export class Detour implements Pick<NodeApi, 'submit'> {
  readonly #options: DetourOptions;
  readonly #parts: Part[] = [];
  readonly #timer: NodeJS.Timeout | null;
  #way: Way;
  /** Somebody has begun, or it has been handed on: it stays where it is. */
  #isSettled = false;

  constructor(options: DetourOptions) {
    this.#options = options;
    this.#way = options.first;
    const { after } = options.overflow;
    this.#timer = after === null ? null : setTimeout(() => this.#handOn('overflow'), Math.ceil(after / MILLI));
  }

  submit(submission: Submission, sink: (event: StreamEvent) => void): SubmissionHandle {
    const part: Part = { submission, sink, handle: null };
    this.#parts.push(part);
    try {
      this.#send(part, this.#way, this.#isHandedOn ? this.#other(submission) : submission);
    } catch (error) {
      const { code } = asBerthError(error);
      if (!this.#isOverflow(code) || !this.#handOn(code)) {
        this.#settle();
        throw error;
      }
    }
    const handle = (): SubmissionHandle => part.handle as SubmissionHandle;
    const answering = (): ModelId => (this.#isHandedOn ? modelId(this.#options.overflow.to) : handle().modelId);
    return {
      get requestId() {
        return handle().requestId;
      },
      get modelId() {
        return answering();
      },
      cancel: () => {
        this.#settle();
        handle().cancel();
      },
    };
  }

  get #isHandedOn(): boolean {
    return this.#way !== this.#options.first;
  }

  #other(submission: Submission): Submission {
    return { ...submission, model: this.#options.overflow.to };
  }

  #send(part: Part, way: Way, submission: Submission): void {
    part.handle = way.submit(submission, (event) => {
      if (way === this.#way) this.#hear(part, event);
    });
  }

  #hear(part: Part, event: StreamEvent): void {
    if (event.type === 'failed' && this.#isOverflow(event.code) && this.#handOn(event.code)) return;
    const isWaiting = event.type === 'queued' || event.type === 'loading' || event.type === 'preempted';
    if (!isWaiting) this.#settle();
    part.sink(event);
  }

  #isOverflow(code: ErrorCode): boolean {
    return !this.#isSettled && OVERFLOWING.has(code);
  }

  #settle(): void {
    this.#isSettled = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
  }

  /** False, and nothing has changed, where the other model can't take them either. */
  #handOn(outcome: string): boolean {
    const [one] = this.#parts;
    if (this.#isSettled || one === undefined) return false;
    this.#isSettled = true;
    const { first, second, total } = this.#options;
    const left = this.#parts.map(({ handle }) => handle);
    let way: Way | null = null;
    try {
      // For limits those count, too, that are still to come.
      way = second(Array.from({ length: total }, (_, index) => this.#other((this.#parts[index] ?? one).submission)));
      this.#way = way;
      for (const part of this.#parts) this.#send(part, way, this.#other(part.submission));
    } catch (error) {
      this.#way = first;
      this.#isSettled = false;
      way?.abandon(asBerthError(error).code);
      for (const [index, part] of this.#parts.entries()) part.handle = left[index] ?? null;
      return false;
    }
    this.#settle();
    first.abandon(outcome);
    return true;
  }
}
