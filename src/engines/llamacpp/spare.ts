/**
 * Runner processes, started before they are needed: starting Node and the libraries takes about as long as loading a small
 * model, so a cold model should pay only for its load.
 */
import { BerthError } from '../../errors.ts';
import type { Child, ChildExit, ChildOptions, Supervisor } from '../supervisor.ts';
import type { FromRunner, ToRunner } from './protocol.ts';
import { isFromRunner } from './wire.ts';

export interface RunnerListener {
  message(message: FromRunner): void;
  /** It sent what no runner sends. */
  malformed(): void;
  exited(exit: ChildExit): void;
  line(line: string): void;
}

export interface Runner {
  readonly child: Child;
  /** Resolves when a model can be loaded; rejects with a `BerthError` when it ends before. */
  readonly started: Promise<void>;
  send(message: ToRunner): void;
  /** From now on all that it says goes here. */
  attach(listener: RunnerListener): void;
}

export type RunnerCommand = Pick<ChildOptions, 'command' | 'args' | 'env' | 'niceness'>;

export function startRunner(supervisor: Supervisor, command: RunnerCommand): Runner {
  let listener: RunnerListener | null = null;
  let failure: BerthError | null = null;
  let hasStarted = false;
  const start = Promise.withResolvers<void>();
  // A spare that ends before anybody wants it is nobody's error.
  start.promise.catch(() => {});
  const child = supervisor.spawn({
    ...command,
    name: 'runner',
    ipc: true,
    onMessage(message) {
      if (!isFromRunner(message)) {
        failure ??= new BerthError('engine_error', 'The runner sent a message that no runner sends.');
        if (listener !== null) listener.malformed();
        else void child.stop();
        return;
      }
      if (message.type === 'started') {
        hasStarted = true;
        start.resolve();
      } else if (message.type === 'fatal') failure ??= new BerthError(message.code, message.message);
      listener?.message(message);
    },
    onLine: (line) => listener?.line(line),
    onExit(exit) {
      // Who waits for the start learns from it why there is none.
      if (hasStarted) listener?.exited(exit);
      else
        start.reject(failure ?? new BerthError('engine_mismatch', `The engine could not be started: ${exit.reason}.`));
    },
  });
  return {
    child,
    started: start.promise,
    send: (message) => void child.send(message),
    attach(heir) {
      listener = heir;
      const exit = child.exit();
      if (exit !== null && hasStarted) setImmediate(() => heir.exited(exit));
    },
  };
}

export interface Spares {
  /** The spare, started or about to be, else a new one. */
  take(): Runner;
  /** Starts a spare where there is none. Called when nothing urgent runs: a start takes a core for 100 ms. */
  refill(): void;
  close(): void;
}

export function createSpares(start: () => Runner): Spares {
  let spare: Runner | null = null;
  let closed = false;
  return {
    take() {
      const runner = spare?.child.exit() === null ? spare : start();
      spare = null;
      return runner;
    },
    refill() {
      // One that has ended is not replaced before the next load: what ended it would most likely end the next one, too.
      if (closed || spare !== null) return;
      spare = start();
    },
    close() {
      closed = true;
      spare = null;
    },
  };
}
