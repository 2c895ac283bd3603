/** What an engine tells unasked, on its way to the core, the metrics and the books. */
import type { ModelId } from '../core/ids.ts';
import type { EngineObserver } from '../engines/engine.ts';
import type { Stage } from './perform.ts';

/** Bytes are told to the core when they have changed by more than this part. */
const NOTEWORTHY = 0.01;

export function observe(stage: Stage, modelId: ModelId): EngineObserver {
  const { clock, deviceTime } = stage;
  return {
    sliceEnded(report) {
      const { sliceId, steps, prefillTokens, decodeTokens, wallMicros, computeMicros, lanes } = report;
      stage.metrics.slice(modelId, lanes, computeMicros, stage.label);
      deviceTime.ended(clock.now(), modelId, report, stage.payerOf);
      const counts = { steps, prefillTokens, decodeTokens, wallMicros, computeMicros };
      stage.tell({ type: 'sliceEnded', modelId, sliceId, lanes, ...counts });
    },
    died(reason) {
      const on = stage.label === null ? {} : { device: stage.label };
      stage.log.error({ model: modelId, ...on, reason }, 'the process of a model ended');
      deviceTime.died(clock.now(), modelId);
      stage.kv.died(modelId);
      stage.tell({ type: 'engineDied', modelId });
    },
    kv: (event) => stage.kv.heard(modelId, event),
    memory({ chargedBytes }) {
      const hosted = stage.hosted(modelId);
      if (hosted === undefined) return;
      if (Math.abs(chargedBytes - hosted.chargedBytes) < hosted.chargedBytes * NOTEWORTHY) return;
      hosted.chargedBytes = chargedBytes;
      stage.tell({ type: 'memoryMeasured', modelId, bytes: chargedBytes });
    },
  };
}
