/** Operators that wait until a model is on the device, or off it. Each wait has a deadline. */
import type { ModelId } from '../core/ids.ts';
import { SECOND } from '../core/ids.ts';
import type { Failure, State } from '../core/state.ts';
import { BerthError } from '../errors.ts';
import type { Clock } from './clock.ts';

export interface Waiters {
  /** Resolves when the model is there; rejects when it failed to get there, or the deadline is over. */
  waitFor(state: State, id: ModelId, until: 'resident' | 'cold'): Promise<void>;
  /** To be called after each change of the state. */
  look(state: State): void;
}

interface Waiter {
  readonly modelId: ModelId;
  readonly until: 'resident' | 'cold';
  /** A failure that was there before is not this wait's. */
  readonly oldFailure: Failure | null;
  readonly settle: (error: BerthError | null) => void;
}

export function createWaiters(clock: Clock, deadlineMicros: number): Waiters {
  const waiters = new Set<Waiter>();
  return {
    waitFor: (state, modelId, until) =>
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
          oldFailure: state.models.get(modelId)?.failure ?? null,
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
      for (const { modelId, until, oldFailure, settle } of waiters) {
        const model = state.models.get(modelId);
        if (model === undefined || model.phase === until) settle(null);
        else if (
          until === 'resident' &&
          model.failure !== null &&
          model.failure !== oldFailure &&
          model.phase === 'cold'
        ) {
          settle(new BerthError(model.failure.code, model.failure.message));
        }
      }
    },
  };
}
