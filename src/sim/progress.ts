/** What a finished run brings to its requests, and how their node hears of it. */
import type { CoreEvent } from '../core/events.ts';
import type { Micros, ModelId } from '../core/ids.ts';
import type { DeviceModel, DeviceSetting, Engine, Job, Run } from './engine.ts';
import type { DeviceFaults } from './faults.ts';
import type { Slo } from './recorder.ts';
import { seeToken, seeTokens } from './recorder.ts';
import type { Work } from './report.ts';
import type { Timeline } from './timeline.ts';

export interface DeviceWiring {
  readonly timeline: Timeline;
  readonly setting: DeviceSetting;
  readonly slo: Slo;
  readonly work: Work;
  readonly modelOf: (id: ModelId) => DeviceModel;
  readonly tell: (event: CoreEvent) => void;
  /** It has its last token; or not, because engines died under it again and again. */
  readonly onEnded: (job: Job, isFinished: boolean) => void;
  /** The model is not there, though nobody asked it to leave. */
  readonly onGone: (id: ModelId) => void;
  /** null: nothing ever goes wrong. */
  readonly faults: DeviceFaults | null;
}

export function say({ tell }: DeviceWiring, { mailbox }: Engine, event: CoreEvent): void {
  if (mailbox === null) tell(event);
  else mailbox.say(event);
}

export function prefilled(wiring: DeviceWiring, engine: Engine, run: Run, micros: Micros): void {
  const { slo, timeline } = wiring;
  for (const [index, job] of run.jobs.entries()) {
    const chunk = run.chunks[index] as number;
    job.promptLeft -= chunk;
    job.context += chunk;
    job.prefillMicros += micros;
    if (engine.slice !== null) engine.slice.prefillTokens += chunk;
    if (job.promptLeft > 0 || job.isGone) continue;
    seeToken(slo, job.track, timeline.now);
    if (job.tokens === 0) say(wiring, engine, { type: 'firstTokenEmitted', requestId: job.id });
    advance(wiring, engine, job, 1);
  }
}

export function decoded(wiring: DeviceWiring, engine: Engine, run: Run, micros: Micros): void {
  for (const job of run.jobs) {
    if (job.isGone) continue;
    job.decodeMicros += micros;
    seeTokens(wiring.slo, job.track, run.startAt, engine.ends, run.steps, run.longestStep);
    advance(wiring, engine, job, run.steps);
  }
}

/** It has got so many tokens more. The KV of the last one is computed with the next. */
function advance(wiring: DeviceWiring, engine: Engine, job: Job, tokens: number): void {
  job.tokens += tokens;
  job.context += tokens;
  job.deathsInARow = 0;
  const { slice } = engine;
  if (slice !== null) {
    if (job.tokensInSlice === 0) slice.served.push(job);
    job.tokensInSlice += tokens;
  }
  if (job.tokens < job.track.outputTokens) return;
  engine.jobs.delete(job.id);
  const { id: requestId, prefillMicros, decodeMicros } = job;
  const { promptTokens } = job.track;
  wiring.onEnded(job, true);
  const usage = { promptTokens, cachedTokens: 0, outputTokens: job.tokens, prefillMicros, decodeMicros };
  say(wiring, engine, { type: 'requestFinished', requestId, failed: false, ...usage });
}
