/** Live = simulated: what a real node was told, told again by the simulator's driver, must give the same actions. */
import type { Action } from '../core/actions.ts';
import { createArbiter } from '../core/arbiter.ts';
import type { CoreEvent } from '../core/events.ts';
import type { Micros } from '../core/ids.ts';
import { Driver } from './driver.ts';
import { Timeline } from './timeline.ts';

/** One call of the arbiter, as a node's journal has it. */
export interface Recorded {
  readonly now: Micros;
  readonly events: readonly CoreEvent[];
  readonly actions: readonly Action[];
}

export interface Divergence {
  readonly index: number;
  /** What the simulator decides where the node decided otherwise. */
  readonly actions: readonly Action[];
}

/** The first entry at which the simulator decides otherwise; null: it never does. */
export function replay(entries: Iterable<Recorded>): Divergence | null {
  const timeline = new Timeline();
  let decided: readonly Action[] = [];
  const driver = new Driver({
    timeline,
    arbiter: createArbiter(),
    perform: () => undefined,
    onDecision: (_now, _events, actions) => {
      decided = actions;
    },
    wakes: false,
  });
  let index = 0;
  for (const { now, events, actions } of entries) {
    timeline.runUntil(now);
    for (const event of events) driver.tell(event);
    driver.drain();
    if (JSON.stringify(decided) !== JSON.stringify(actions)) return { index, actions: decided };
    index++;
  }
  return null;
}
