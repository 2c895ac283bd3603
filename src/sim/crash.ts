/** An engine's process dies: what that takes with it, and what goes on elsewhere. */
import type { Engine, Job } from './engine.ts';
import { stepUnderWay } from './engine.ts';
import type { DeviceWiring } from './progress.ts';
import { decoded, say } from './progress.ts';

/** A request under which engines die one after the other may be the reason: a node then gives it up (as in `runtime/requests.ts`). */
const MOST_DEATHS_IN_A_ROW = 2;

/** With the process go the step under way and all KV on the device. What it has said is heard before. */
export function crash(wiring: DeviceWiring, engine: Engine): void {
  keepWhatIsDone(wiring, engine);
  for (const job of engine.jobs.values()) lose(wiring, engine, job);
  for (const slice of [engine.slice, engine.next]) for (const job of slice?.served ?? []) job.tokensInSlice = 0;
  engine.jobs.clear();
  engine.leaving = [];
  engine.run = engine.slice = engine.next = null;
  engine.isLoaded = engine.isHung = false;
  engine.version++;
  wiring.onGone(engine.id);
  say(wiring, engine, { type: 'engineDied', modelId: engine.id });
  engine.mailbox?.flush();
}

/** Of a run under way, the steps that have ended are seen; the rest of it is void. */
export function keepWhatIsDone(wiring: DeviceWiring, engine: Engine): void {
  const { run } = engine;
  if (run?.kind !== 'decode' || engine.isHung) return;
  run.steps = stepUnderWay(engine, run, wiring.timeline.now);
  if (run.steps === 0) return;
  const micros = engine.ends[run.steps - 1] as number;
  wiring.work.busyMicros += micros;
  decoded(wiring, engine, run, micros);
}

function lose(wiring: DeviceWiring, engine: Engine, job: Job): void {
  const { id: requestId } = job;
  if (++job.deathsInARow > MOST_DEATHS_IN_A_ROW) {
    wiring.onEnded(job, false);
    const nothing = { promptTokens: 0, cachedTokens: 0, outputTokens: 0, prefillMicros: 0, decodeMicros: 0 };
    return say(wiring, engine, { type: 'requestFinished', requestId, failed: true, ...nothing });
  }
  // What is kept in the host is read back as if nothing had been.
  if (!job.isAway) {
    if (wiring.faults !== null) wiring.faults.all.costs.recomputedTokens += job.context;
    job.promptLeft += job.context;
    job.context = 0;
  }
  say(wiring, engine, { type: 'requestLost', requestId });
}
