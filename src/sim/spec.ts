/** What the simulated node is told of a model. */
import type { ModelSpec } from '../core/events.ts';
import { modelId } from '../core/ids.ts';
import type { SimModel, SimSetting } from './simulate.ts';

export function specOf({ name, costs, loadedBytes, parallel, spec }: SimModel, setting: SimSetting): ModelSpec {
  if (spec !== undefined) return spec;
  const { goals, keepsKv, device } = setting;
  return {
    modelId: modelId(name),
    parallel,
    embedParallel: 1,
    embedWindowMicros: 0,
    pinned: false,
    canSleep: false,
    keepsKv,
    loadedBytes,
    asleepBytes: loadedBytes,
    loadMicros: Math.ceil((costs.weightBytes * 1e6) / device.linkBytesPerSecond),
    ttftGoalMicros: goals.ttftMicros,
    interTokenGoalMicros: goals.interTokenMicros,
    keepAliveMicros: null,
    revision: '1',
  };
}
