import { BerthError } from '../errors.ts';

/** Most changes of state that may wait for one model: more is a caller that flaps. */
const MAX_WAITING = 8;

export interface Transitions<Reports extends object> {
  /** Reaches `target`: joins the last change asked for when it leads there, else runs after it. */
  ensure<Target extends keyof Reports>(target: Target, run: () => Promise<Reports[Target]>): Promise<Reports[Target]>;
  /** What was asked for last, while it is not yet reached; null at rest. */
  heading(): keyof Reports | null;
}

/**
 * One change of state at a time, single flight: callers who ask for the same thing share one promise. `run` looks at the
 * state when its turn comes, so asking for what is already there is cheap and harmless.
 */
export function createTransitions<Reports extends object>(): Transitions<Reports> {
  const flights: { [Target in keyof Reports]?: Promise<Reports[Target]> } = {};
  let last: { readonly target: keyof Reports; readonly done: Promise<unknown> } | null = null;
  let waiting = 0;
  return {
    ensure(target, run) {
      const flight = last?.target === target ? flights[target] : undefined;
      if (flight !== undefined) return flight;
      if (waiting >= MAX_WAITING) {
        return Promise.reject(
          new BerthError(
            'engine_error',
            `${waiting} changes of this model's state are already waiting: ask again later`,
          ),
        );
      }
      waiting += 1;
      const before = last?.done ?? Promise.resolve();
      const done = before.then(run, run).finally(() => {
        waiting -= 1;
        if (last?.done === done) last = null;
      });
      flights[target] = done;
      last = { target, done };
      return done;
    },
    heading: () => last?.target ?? null,
  };
}
