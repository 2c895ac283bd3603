/** How a run becomes an HTTP answer, streamed or whole; the same for chat and text. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { tenantId as toTenantId } from '../../core/ids.ts';
import { BerthError } from '../../errors.ts';
import type { NodeApi, StreamEvent, Submission } from '../../runtime/api.ts';
import { headersOf, nodeRequestId } from '../http.ts';
import type { HttpLimits, Principal } from '../options.ts';
import { SseStream } from '../sse.ts';
import type { Gate } from '../tenants/gate.ts';
import type { Ticket } from '../tenants/ticket.ts';
import { Detour, mayOverflow } from './detour.ts';
import { errorBody } from './errors.ts';
import type { UsageSoFar } from './chunks.ts';
import type { Caller } from './params.ts';
import type { Totals } from './run.ts';
import { Run } from './run.ts';
import type { FinishedEvent, TokensEvent, ToolCallEvent } from './types.ts';

/** What every handler of the public API needs. */
export interface Desk {
  readonly node: NodeApi;
  readonly gate: Gate;
  readonly limits: HttpLimits;
}

export function principalOf(request: FastifyRequest): Principal {
  if (request.principal === null) throw new BerthError('invalid_api_key', 'No API key was sent.');
  return request.principal;
}

/** No tenant can be called so. */
const SHARED_CACHE = toTenantId('*');

export function callerOf(request: FastifyRequest): Caller {
  const { tenantId, keyId, access } = principalOf(request);
  const cacheTenantId = access?.tenant.isolation === 'shared' ? SHARED_CACHE : tenantId;
  return { tenantId, keyId, cacheTenantId, id: nodeRequestId(request), headers: request.headers };
}

/** Submits, through the gate; from here on a client that leaves cancels, streaming or not, queued, loading or computing. */
export function startRun(
  { gate, limits }: Desk,
  request: FastifyRequest,
  reply: FastifyReply,
  all: readonly Submission[],
  perPrompt: number,
): Run {
  const [first, ...rest] = all;
  if (first === undefined) throw new BerthError('invalid_request', 'The request asks for nothing.');
  const submissions = [first, ...rest] as const;
  const principal = principalOf(request);
  const ticket = gate.admit(principal, submissions, perPrompt, (headers) => {
    void reply.headers(headers);
  });
  const overflow = submissions.every(mayOverflow) ? ticket.overflow : null;
  const second = (others: readonly Submission[]): Ticket =>
    gate.admit(principal, others as readonly [Submission, ...Submission[]], perPrompt, () => {});
  const way = overflow === null ? ticket : new Detour({ first: ticket, overflow, second, total: submissions.length });
  const run = new Run(way, submissions, perPrompt, limits.responseMillis);
  const { raw } = reply;
  raw.once('close', () => run.cancel());
  if (raw.destroyed) run.cancel();
  return run;
}

/** Builds the chunks of one answer, as JSON text. */
export interface ChunkWriter {
  tokens(choice: number, event: TokensEvent): string | null;
  toolCall(choice: number, event: ToolCallEvent): string | null;
  finished(choice: number, event: FinishedEvent): string | null;
  /** After every choice has ended. */
  last(totals: Totals): readonly string[];
  /** Is kept up to date by whoever hands on the events; null: nobody asked for it. */
  readonly soFar: UsageSoFar | null;
}

const comment = (event: StreamEvent): string | null => {
  switch (event.type) {
    case 'queued':
      return `queued ${event.position}`;
    case 'loading':
    case 'preempted':
    case 'resumed':
      return event.type;
    default:
      return null;
  }
};

/** After this promise the reply is hijacked; the stream lives on by itself. */
export async function stream(run: Run, reply: FastifyReply, limits: HttpLimits, writer: ChunkWriter): Promise<void> {
  // What is refused in this very turn (a full queue) can still be told by a status.
  await new Promise((resolve) => setImmediate(resolve));
  if (run.failure !== null) {
    run.cancel();
    throw run.failure;
  }
  const headers = headersOf(reply);
  reply.hijack();
  if (reply.raw.destroyed) return;
  try {
    pipe(
      run,
      new SseStream(reply.raw, { headers, keepAliveMillis: limits.keepAliveMillis, unsentBytes: limits.unsentBytes }),
      writer,
    );
  } catch (error) {
    // A hijacked reply is nobody's but ours to end.
    reply.raw.destroy();
    throw error;
  }
}

function countUsage(soFar: UsageSoFar, event: StreamEvent, paysPrompt: boolean): void {
  if (event.type === 'tokens') soFar.outputTokens += event.tokenIds.length;
  if (event.type !== 'accepted' || !paysPrompt) return;
  soFar.promptTokens += event.promptTokens;
  soFar.cachedTokens += event.cachedTokens;
}

function pipe(run: Run, sse: SseStream, writer: ChunkWriter): void {
  const send = (json: string | null): void => {
    if (json !== null) sse.data(json);
  };
  const { soFar } = writer;
  run.listen({
    event(choice, event) {
      if (soFar !== null) countUsage(soFar, event, run.paysPrompt(choice));
      if (event.type === 'tokens') send(writer.tokens(choice, event));
      else if (event.type === 'toolCall') send(writer.toolCall(choice, event));
      else if (event.type === 'finished') send(writer.finished(choice, event));
      else {
        const words = comment(event);
        if (words !== null) sse.comment(words);
      }
    },
    done(totals) {
      for (const json of writer.last(totals)) sse.data(json);
      sse.data('[DONE]');
      sse.end();
    },
    failed(error) {
      sse.data(JSON.stringify(errorBody(error)));
      sse.end();
    },
  });
}

/**
 * Waits for the whole answer, handing on each event. Never settles once the client left: there is nobody to answer, and the
 * reply is collected with its socket.
 */
export function collect(run: Run, onEvent: (choice: number, event: StreamEvent) => void): Promise<Totals> {
  return new Promise((resolve, reject) => {
    run.listen({ event: onEvent, done: resolve, failed: reject });
  });
}

/** What a whole answer tells in its headers: milliseconds in all, and of these the ones that the gateway took. */
export function timeHeaders(request: FastifyRequest, reply: FastifyReply, totals: Totals): void {
  const elapsed = performance.now() - request.startedMillis;
  reply.header('openai-processing-ms', String(Math.round(elapsed)));
  reply.header('x-berth-overhead-ms', Math.max(0, elapsed - totals.timings.totalMicros / 1_000).toFixed(3));
}
