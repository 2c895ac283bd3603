/** Operators that wait until a model is on the device, or off it. Each wait has a deadline. */
import type { ModelId } from '../core/ids.ts';
import { SECOND } from '../core/ids.ts';
import type { State } from '../core/state.ts';
import { BerthError } from '../errors.ts';
import type { Clock } from './clock.ts';

export interface Waiters {
  /** Resolves when the model is there; rejects when it failed to get there, or the deadline is over. */
  waitFor(id: ModelId, until: 'resident' | 'cold'): Promise<void>;
  /** To be called after each change of the state. */
  look(state: State): void;
}

interface Waiter {
  readonly modelId: ModelId;
  readonly until: 'resident' | 'cold';
  readonly settle: (error: BerthError | null) => void;
}

export function createWaiters(clock: Clock, deadlineMicros: number): Waiters {
  const waiters = new Set<Waiter>();
  return {
    waitFor: (modelId, until) =>
      new Promise((resolve, reject) => {
        const callOff = clock.after(deadlineMicros, () => {
          const where = until === 'resident' ? 'on' : 'off';
          waiter.settle(
            new BerthError(
              'queue_timeout',
              `${modelId} was not ${where} the device within ${deadlineMicros / SECOND} s`,
            ),
          );
        });
        const waiter: Waiter = {
          modelId,
          until,
          settle(error) {
            callOff();
            waiters.delete(waiter);
            if (error === null) resolve();
            else reject(error);
          },
        };
        waiters.add(waiter);
      }),
    look(state) {
      for (const { modelId, until, settle } of waiters) {
        const model = state.models.get(modelId);
        if (model === undefined || model.phase === until) settle(null);
        else if (until === 'resident' && model.failure !== null && model.phase === 'cold') {
          settle(new BerthError(model.failure.code, model.failure.message));
        }
      }
    },
  };
}
