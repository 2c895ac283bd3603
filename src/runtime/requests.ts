/**
 * The data plane of one request: tokens go from the engine to the client through here, past the core, which hears only of the
 * first token and of the end. Keeps what was generated, so that a preempted request goes on where it was.
 */
import type { CoreEvent } from '../core/events.ts';
import type { Micros, ModelId, RequestId } from '../core/ids.ts';
import type { EngineEvent, EngineRequest, KvPlan, RequestUsage } from '../engines/engine.ts';
import type { RequestTimings, StreamEvent, Submission } from './api.ts';

export interface LiveRequest {
  readonly id: RequestId;
  readonly modelId: ModelId;
  readonly submission: Submission;
  readonly sink: (event: StreamEvent) => void;
  readonly arrivedAt: Micros;
  /** Token ids that the client has been sent (or that are held back as the start of a stop string). */
  readonly tokenIds: number[];
  startedAt: Micros | null;
  firstTokenAt: Micros | null;
  /** When it was told that its model is being loaded, and how long that took. */
  loadingSince: Micros | null;
  loadMicros: Micros;
  accepted: boolean;
  preempted: boolean;
  /** How often an engine has accepted it. */
  runs: number;
  /** How often its engine died under it: in all, and since it last got a token. */
  deaths: number;
  deathsInARow: number;
  promptTokens: number;
  cachedTokens: number;
  /** Where the KV was that it began with; null: nowhere. */
  kvTier: 'device' | 'host' | 'disk' | null;
  restoreMicros: Micros;
}

export function createLiveRequest(
  id: RequestId,
  modelId: ModelId,
  submission: Submission,
  sink: (event: StreamEvent) => void,
  arrivedAt: Micros,
): LiveRequest {
  return {
    id,
    modelId,
    submission,
    sink,
    arrivedAt,
    tokenIds: [],
    startedAt: null,
    firstTokenAt: null,
    loadingSince: null,
    loadMicros: 0,
    accepted: false,
    preempted: false,
    runs: 0,
    deaths: 0,
    deathsInARow: 0,
    promptTokens: 0,
    cachedTokens: 0,
    kvTier: null,
    restoreMicros: 0,
  };
}

/** What the engine is given: the request, and after a preemption what it had generated. */
export function engineRequestOf(live: LiveRequest, kv: KvPlan | undefined): EngineRequest {
  const { request, priority } = live.submission;
  if (request.kind === 'embed') return request;
  return { ...request, priority, resumeTokens: [...live.tokenIds], ...(kv === undefined ? {} : { kv }) };
}

/** Half a token more or less does not matter to a first estimate: about four characters a token. */
export function estimatePromptTokens(request: Submission['request']): number {
  const ofText = (text: string): number => Math.ceil(text.length / 4);
  if (request.kind === 'embed') {
    return request.inputs.reduce((sum, input) => sum + (typeof input === 'string' ? ofText(input) : input.length), 0);
  }
  const { input } = request;
  if (input.type === 'tokens') return input.tokens.length;
  if (input.type === 'text') return ofText(input.text);
  return input.messages.reduce((sum, message) => sum + 4 + ofText(message.content), 0);
}

export function timingsOf(live: LiveRequest, now: Micros): RequestTimings {
  return {
    queueMicros: (live.startedAt ?? now) - live.arrivedAt - live.loadMicros,
    loadMicros: live.loadMicros,
    ttftMicros: (live.firstTokenAt ?? now) - live.arrivedAt,
    totalMicros: now - live.arrivedAt,
    restoreMicros: live.restoreMicros,
    kvTier: live.kvTier,
  };
}

/** A request under which its engine dies again and again may be the reason. */
const DEATHS_IN_A_ROW = 2;
const DEATHS = 20;

/** Whether it goes on when its engine is back: what it has generated is here. */
export function survives(live: LiveRequest, event: EngineEvent): boolean {
  if (event.type !== 'failed' || event.code !== 'engine_died') return false;
  live.deaths++;
  live.deathsInARow++;
  live.preempted = live.accepted;
  return live.deathsInARow <= DEATHS_IN_A_ROW && live.deaths <= DEATHS;
}

/** What the engine said, as the client sees it; the events for the core go to `tell`. null: the client needs not know. */
export function receive(
  live: LiveRequest,
  event: EngineEvent,
  now: Micros,
  tell: (event: CoreEvent) => void,
): StreamEvent | null {
  switch (event.type) {
    case 'accepted':
      return accept(live, event);
    case 'tokens': {
      live.tokenIds.push(...event.tokenIds);
      live.deathsInARow = 0;
      if (live.firstTokenAt === null) {
        live.firstTokenAt = now;
        tell({ type: 'firstTokenEmitted', requestId: live.id });
      }
      return event;
    }
    case 'toolCall':
      return event;
    case 'finished':
    case 'embedded': {
      const usage = usageOf(live, event.usage);
      const restoring = live.restoreMicros > 0 ? { restoreMicros: live.restoreMicros } : {};
      tell({ type: 'requestFinished', requestId: live.id, failed: false, ...usage, ...restoring });
      return { ...event, usage, timings: timingsOf(live, now) };
    }
    case 'failed': {
      const nothing = { promptTokens: 0, cachedTokens: 0, outputTokens: 0, prefillMicros: 0, decodeMicros: 0 };
      tell({ type: 'requestFinished', requestId: live.id, failed: true, ...nothing });
      return event;
    }
    default:
      return event satisfies never;
  }
}

/** The first acceptance goes to the client; a later one, after a preemption, tells that the request goes on. */
function accept(live: LiveRequest, event: Extract<EngineEvent, { type: 'accepted' }>): StreamEvent | null {
  live.runs++;
  if (!live.accepted) {
    live.accepted = true;
    live.promptTokens = event.promptTokens;
    live.cachedTokens = event.cachedTokens;
    return event;
  }
  const resumed = live.preempted;
  live.preempted = false;
  return resumed ? { type: 'resumed' } : null;
}

/** Usage over all of the request's runs: what the client was sent, whichever run generated it. */
function usageOf(live: LiveRequest, last: RequestUsage): RequestUsage {
  return {
    ...last,
    // Some engines know these only in the end; those of a later run hold what an earlier one generated.
    promptTokens: live.runs > 1 ? live.promptTokens : last.promptTokens,
    cachedTokens: live.runs > 1 ? live.cachedTokens : last.cachedTokens,
    outputTokens: Math.max(last.outputTokens, live.tokenIds.length),
  };
}
