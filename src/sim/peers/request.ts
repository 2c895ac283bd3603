/** A request as the peers' schedulers see it. `outputTokens` is read by the device, and by the one policy that is told (ServerlessLLM+). */
import type { Bytes, Micros } from '../../core/ids.ts';
import type { Arrival } from '../arrivals.ts';
import type { ModelCosts } from '../costs.ts';
import { fitLengths } from '../costs.ts';
import type { Track } from '../recorder.ts';
import { createTrack, seeToken } from '../recorder.ts';
import type { Tally } from '../report.ts';

export interface PeerModel {
  /** Ties are broken by it. */
  readonly number: number;
  readonly costs: ModelCosts;
  /** Tokens of KV that fit beside the weights of this model alone. */
  readonly kvTokens: number;
  /** Weights and the usual room for KV. */
  readonly neededBytes: Bytes;
  readonly loadMicros: Micros;
}

export interface PeerRequest {
  readonly number: number;
  readonly model: PeerModel;
  readonly arrivedAt: Micros;
  readonly promptTokens: number;
  readonly outputTokens: number;
  readonly track: Track;
  tokens: number;
  hasKv: boolean;
  state: 'pending' | 'executing' | 'finished' | 'failed';
}

/** Gives numbers to models and tenants as they come, models by name so that ties don't depend on the order of arrival. */
export function createRequests(
  arrivals: Iterable<Arrival>,
  modelOf: (name: string) => PeerModel,
  tally: Tally,
): PeerRequest[] {
  const tenants = new Map<string, number>();
  const all: PeerRequest[] = [];
  for (const { at, model: name, tenant, ...lengths } of arrivals) {
    const model = modelOf(name);
    const { promptTokens, outputTokens } = fitLengths(model.costs, lengths.promptTokens, lengths.outputTokens);
    const tenantNumber = tenants.get(tenant) ?? tenants.size;
    tenants.set(tenant, tenantNumber);
    const track = createTrack(tally.slo, at, tenantNumber, promptTokens, outputTokens);
    all.push({
      number: all.length,
      model,
      arrivedAt: at,
      promptTokens,
      outputTokens,
      track,
      tokens: 0,
      hasKv: false,
      state: 'pending',
    });
  }
  return all;
}

export const contextOf = ({ promptTokens, tokens }: PeerRequest): number => promptTokens + tokens;
export const isOver = ({ state }: PeerRequest): boolean => state === 'finished' || state === 'failed';

/** One token at `now`. A request that was given up meanwhile gets none. */
export function step(tally: Tally, request: PeerRequest, now: Micros): void {
  if (request.state === 'failed') return;
  request.tokens++;
  request.hasKv = true;
  seeToken(tally.slo, request.track, now);
  if (request.tokens < request.outputTokens) return;
  request.state = 'finished';
  tally.end(request.track, 'finished');
}

/** Who has nothing when all is over has been given up. */
export function endAll(tally: Tally, requests: readonly PeerRequest[]): void {
  for (const request of requests) if (request.state !== 'finished') tally.end(request.track, 'cancelled');
}
