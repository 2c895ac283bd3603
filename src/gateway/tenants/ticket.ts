/**
 * One client request on its way through the gate: what it has used so far, whether it waits for a place among its tenant's others,
 * and, when all of its submissions have ended, its row for the ledger.
 */
import type { Micros, ModelId } from '../../core/ids.ts';
import { asBerthError, BerthError } from '../../errors.ts';
import type { Reservation } from '../../limits/reservation.ts';
import type { NodeApi, RequestTimings, StreamEvent, Submission, SubmissionHandle } from '../../runtime/api.ts';
import type { UsageRow } from '../../store/usage.ts';
import type { Principal } from '../options.ts';
import type { ModelPolicy, Overflow } from './types.ts';

export interface TicketOptions {
  readonly node: Pick<NodeApi, 'submit'>;
  readonly principal: Principal;
  readonly modelId: ModelId;
  readonly price: ModelPolicy['price'];
  /** Who answers when the model can't; null: nobody. */
  readonly overflow: Overflow | null;
  readonly perPrompt: number;
  /** Submissions in all. */
  readonly total: number;
  /** null: nothing is limited. */
  readonly reservation: Reservation | null;
  /** Unix micros. */
  readonly now: () => Micros;
  readonly holdMillis: number;
  /**
   * Once, at the end. `row`: null when the node refused it. `learned`: output tokens of a choice; null: nothing to learn. `then` is to be
   * run, once, when the row is safe: it tells the client.
   */
  readonly ended: (row: UsageRow | null, learned: number | null, then: () => void) => void;
}

type Sink = (event: StreamEvent) => void;
type Usage = Extract<StreamEvent, { type: 'finished' }>['usage'];

/** One submission. */
interface Part {
  readonly submission: Submission;
  readonly sink: Sink;
  /** The first of its prompt's choices: the prompt is paid for once. */
  readonly paysPrompt: boolean;
  handle: SubmissionHandle | null;
  /** The node took it. */
  taken: boolean;
  over: boolean;
  promptTokens: number;
  cachedTokens: number;
  outputTokens: number;
  /** What of it has been counted by the reservation. */
  counted: number;
  acceptedAt: Micros | null;
  firstTokenAt: Micros | null;
  usage: Usage | null;
  timings: RequestTimings | null;
}

/** Of several choices the outcome that says most about the request. */
const OUTCOME_RANK: Readonly<Record<string, number>> = {
  stop: 1,
  tool_calls: 1,
  embedded: 1,
  length: 2,
  cancelled: 3,
  budget: 4,
};

export class Ticket {
  readonly #options: TicketOptions;
  readonly #parts: Part[] = [];
  readonly #arrivedAt: Micros;
  #started: boolean;
  #position = 0;
  #total: number;
  #ended = 0;
  #over = false;
  #outcome = 'stop';
  #holdTimer: NodeJS.Timeout | null = null;

  constructor(options: TicketOptions) {
    this.#options = options;
    this.#total = options.total;
    this.#started = options.reservation === null;
    this.#arrivedAt = options.now();
  }

  get overflow(): Overflow | null {
    return this.#options.overflow;
  }

  // ------------------------------------------------------------ a place

  canStart(): boolean {
    return this.#options.reservation?.canStart() ?? true;
  }

  /** It waits for `start`, behind `position - 1` others. */
  hold(position: number): void {
    this.#position = position;
    this.#holdTimer = setTimeout(() => {
      const text = 'The request waited too long for a place among the tenant’s concurrent requests.';
      this.fail(new BerthError('queue_timeout', text));
    }, this.#options.holdMillis);
  }

  start(): void {
    if (this.#started || this.#over) return;
    this.#started = true;
    this.#stopHolding();
    const { reservation, now } = this.#options;
    reservation?.start();
    if (reservation?.progress(0, now()) === true) {
      return this.fail(new BerthError('budget_exhausted', 'The budget was spent while the request waited.'));
    }
    for (const part of this.#parts) {
      if (part.over) continue;
      try {
        this.#submit(part);
      } catch (error) {
        this.fail(asBerthError(error));
        return;
      }
    }
  }

  // ------------------------------------------------------------ as the node, for one request

  /** As `node.submit`. @throws BerthError whatever the node throws; then the ticket is over. */
  submit(submission: Submission, sink: Sink): SubmissionHandle {
    if (this.#over) throw new BerthError('budget_exhausted', 'The budget was spent meanwhile.');
    const part: Part = {
      submission,
      sink,
      paysPrompt: this.#parts.length % this.#options.perPrompt === 0,
      handle: null,
      taken: false,
      over: false,
      promptTokens: 0,
      cachedTokens: 0,
      outputTokens: 0,
      counted: 0,
      acceptedAt: null,
      firstTokenAt: null,
      usage: null,
      timings: null,
    };
    this.#parts.push(part);
    if (this.#started) {
      try {
        this.#submit(part);
      } catch (error) {
        this.abandon(asBerthError(error).code);
        throw error;
      }
    } else if (part.paysPrompt && this.#parts.length === 1) {
      sink({ type: 'queued', position: this.#position });
    }
    return {
      requestId: part.handle?.requestId ?? submission.request.requestId,
      modelId: this.#options.modelId,
      cancel: () => {
        part.handle?.cancel();
        if (part.over) return;
        this.#mark('cancelled');
        this.#endPart(part);
      },
    };
  }

  /** No more submissions come: what was submitted is cancelled by whoever submitted it. */
  abandon(outcome: string): void {
    if (this.#over) return;
    this.#mark(outcome);
    const parts = this.#parts.filter((part) => !part.over);
    this.#total = 0;
    for (const part of parts) {
      part.over = true;
      part.handle?.cancel();
    }
    this.#end();
  }

  #submit(part: Part): void {
    const handle = this.#options.node.submit(part.submission, (event) => this.#hear(part, event));
    part.handle = handle;
    part.taken = true;
    // Cut off, or left, before its handle was known.
    if (part.over && part.usage === null) handle.cancel();
  }

  // ------------------------------------------------------------ what it uses

  #hear(part: Part, event: StreamEvent): void {
    if (part.over) return;
    part.taken = true;
    switch (event.type) {
      case 'accepted':
        part.promptTokens = event.promptTokens;
        part.cachedTokens = event.cachedTokens;
        part.acceptedAt ??= this.#options.now();
        break;
      case 'tokens':
        part.outputTokens += event.tokenIds.length;
        part.firstTokenAt ??= this.#options.now();
        break;
      case 'finished':
      case 'embedded':
        part.usage = event.usage;
        part.timings = event.timings;
        part.promptTokens = event.usage.promptTokens;
        part.cachedTokens = event.usage.cachedTokens;
        part.outputTokens = event.usage.outputTokens;
        this.#mark(event.type === 'embedded' ? 'embedded' : event.reason);
        this.#endPart(part, () => part.sink(event));
        return;
      case 'failed':
        this.#mark(event.code);
        this.#endPart(part, () => part.sink(event));
        return;
      default:
        break;
    }
    part.sink(event);
    this.#count(part);
  }

  /** Counts what is new; when that was the last of a budget, all of the request's answers end here. */
  #count(part: Part): void {
    const { reservation, now } = this.#options;
    if (reservation === null || part.over) return;
    const used = tokensOf(part);
    if (used === part.counted) return;
    const more = used - part.counted;
    part.counted = used;
    if (reservation.progress(more, now())) this.#cutOff();
  }

  #cutOff(): void {
    this.#mark('budget');
    for (const part of this.#parts) {
      if (part.over) continue;
      const now = this.#options.now();
      const since = (at: Micros | null): Micros => Math.max(0, (at ?? now) - this.#arrivedAt);
      const { promptTokens, cachedTokens, outputTokens } = part;
      const event: StreamEvent = {
        type: 'finished',
        reason: 'length',
        cutOff: 'budget',
        usage: { promptTokens, cachedTokens, outputTokens, prefillMicros: 0, decodeMicros: 0 },
        timings: {
          queueMicros: since(part.acceptedAt),
          loadMicros: 0,
          ttftMicros: since(part.firstTokenAt),
          totalMicros: since(null),
          restoreMicros: 0,
          kvTier: null,
        },
      };
      this.#endPart(part, () => {
        part.sink(event);
        part.handle?.cancel();
      });
    }
  }

  // ------------------------------------------------------------ the end

  /** All of its answers end with this error. */
  fail(error: BerthError): void {
    const { code, message, param, retryAfterMicros } = error;
    for (const part of this.#parts.filter((one) => !one.over)) {
      this.#mark(code);
      part.handle?.cancel();
      this.#endPart(part, () =>
        part.sink({
          type: 'failed',
          code,
          message,
          ...(param === null ? {} : { param }),
          ...(retryAfterMicros === null ? {} : { retryAfterMicros }),
        }),
      );
    }
    // Nothing has been submitted yet: what comes is refused by whoever waits for it.
    if (this.#parts.length === 0) this.abandon(code);
  }

  /**
   * The accounts come before `tell`: what a client was told the end of is in the ledger, whatever becomes of this process. Should they
   * fail, the client is told all the same.
   */
  #endPart(part: Part, tell: () => void = nothing): void {
    part.over = true;
    this.#ended += 1;
    if (this.#ended < this.#total) return tell();
    let isTold = false;
    const once = (): void => {
      if (isTold) return;
      isTold = true;
      tell();
    };
    try {
      this.#end(once);
    } catch (error) {
      once();
      throw error;
    }
  }

  #mark(outcome: string): void {
    const rank = (name: string): number => OUTCOME_RANK[name] ?? 5;
    if (rank(outcome) > rank(this.#outcome)) this.#outcome = outcome;
    else if (this.#ended === 0 && rank(this.#outcome) === 1) this.#outcome = outcome;
  }

  #stopHolding(): void {
    if (this.#holdTimer !== null) clearTimeout(this.#holdTimer);
    this.#holdTimer = null;
  }

  #end(then: () => void = nothing): void {
    if (this.#over) return then();
    this.#over = true;
    this.#stopHolding();
    const { reservation, now, ended } = this.#options;
    const at = now();
    const used = this.#parts.reduce((sum, part) => sum + tokensOf(part), 0);
    const refused = this.#parts.every((part) => !part.taken) && this.#outcome !== 'cancelled';
    if (refused) reservation?.undo(at);
    else reservation?.settle(used, at);
    const complete = this.#parts.length > 0 && this.#parts.every((part) => part.usage !== null);
    const output = this.#parts.reduce((sum, part) => sum + part.outputTokens, 0);
    const learned = complete && output > 0 ? Math.ceil(output / this.#parts.length) : null;
    ended(refused ? null : this.#row(at), learned, then);
  }

  #row(at: Micros): UsageRow {
    const { principal, modelId, price } = this.#options;
    const sum = (pick: (part: Part) => number): number => this.#parts.reduce((total, part) => total + pick(part), 0);
    const longest = (pick: (timings: RequestTimings) => number): number =>
      this.#parts.reduce((most, { timings }) => Math.max(most, timings === null ? 0 : pick(timings)), 0);
    const inputTokens = sum((part) => (part.paysPrompt ? part.promptTokens : 0));
    const cachedTokens = sum((part) => (part.paysPrompt ? part.cachedTokens : 0));
    const outputTokens = sum((part) => part.outputTokens);
    return {
      at: Math.floor(at / 1_000),
      kind: 'request',
      tenantId: principal.tenantId,
      keyId: principal.keyId,
      modelId,
      requestId: this.#parts[0]?.handle?.requestId ?? this.#parts[0]?.submission.request.requestId ?? null,
      outcome: this.#outcome,
      inputTokens,
      cachedTokens,
      outputTokens,
      queueMicros: longest((timings) => timings.queueMicros),
      loadMicros: longest((timings) => timings.loadMicros),
      restoreMicros: longest((timings) => timings.restoreMicros),
      prefillMicros: sum((part) => part.usage?.prefillMicros ?? 0),
      decodeMicros: sum((part) => part.usage?.decodeMicros ?? 0),
      laneMicros: 0,
      costNanos: costNanos({ inputTokens, cachedTokens, outputTokens }, price),
    };
  }
}

const nothing = (): void => undefined;

const tokensOf = (part: Part): number => (part.paysPrompt ? part.promptTokens : 0) + part.outputTokens;

/** A price is for a million tokens, so a token costs `price` millionths: 1,000 × `price` billionths. */
export function costNanos(
  used: Pick<UsageRow, 'inputTokens' | 'cachedTokens' | 'outputTokens'>,
  price: ModelPolicy['price'],
): number {
  if (price === null) return 0;
  const fresh = used.inputTokens - used.cachedTokens;
  return Math.round(
    1_000 * (fresh * price.input + used.cachedTokens * price.cached + used.outputTokens * price.output),
  );
}
