/**
 * Slices for engines that can't be sliced inside: the process group is thawed for a slice and frozen after it, and a slice has
 * ended when the group was seen stopped. What a slice did is counted from outside, by the tokens that came out of it.
 */
import type { Micros, RequestId } from '../core/ids.ts';
import type { BerthError } from '../errors.ts';
import { asBerthError } from '../errors.ts';
import type { SliceGrant, SliceReport } from './engine.ts';
import type { Freezer } from './freezer.ts';
import type { Timer } from './timer.ts';

export interface Gate {
  slice(grant: SliceGrant): void;
  endSlice(sliceId: number): void;
  /** From now on slices are served by this group, which runs; resolves when it is seen stopped. Rejects with `engine_error`. */
  guard(freezer: Freezer): Promise<void>;
  /** The group is leaving or gone. Open slices are reported as far as they went, or forgotten (`died` tells of it then). */
  release(report: boolean): void;
  /** May the engine compute now? */
  isOpen(): boolean;
  /** Tokens came out of it. */
  counted(requestId: RequestId, tokens: number): void;
  prefilled(tokens: number): void;
  /** No request is left: the slice has nothing to do. */
  idle(): void;
  /** Micros in which the group was not frozen while it had work. */
  computedMicros(): Micros;
}

export interface GateOptions {
  readonly timer: Timer;
  /** Requests that still have work. */
  readonly pending: () => number;
  readonly sliceEnded: (report: SliceReport) => void;
  /** The slice has begun: what waited may be sent. */
  readonly opened: () => void;
  /** The group can't be gated any more. */
  readonly broken: (error: BerthError) => void;
}

interface OpenSlice {
  readonly grant: SliceGrant;
  readonly busy: boolean;
  readonly computedBefore: Micros;
  readonly decodeTokens: Record<RequestId, number>;
  prefillTokens: number;
  ending: SliceReport['ended'] | null;
  cancelTimer: () => void;
}

export function createGate(options: GateOptions): Gate {
  const { timer, pending, sliceEnded, opened, broken } = options;
  let freezer: Freezer | null = null;
  let current: OpenSlice | null = null;
  let computed: Micros = 0;
  /** Since when the group runs; null: it is frozen, or has no work. */
  let runsSince: Micros | null = null;

  const computedMicros = (): Micros => computed + (runsSince === null ? 0 : timer.now() - runsSince);
  const stopClock = (): void => {
    computed = computedMicros();
    runsSince = null;
  };

  const report = (slice: OpenSlice, ended: SliceReport['ended'], tell = sliceEnded): void => {
    const { grant, busy, decodeTokens, prefillTokens, computedBefore } = slice;
    slice.cancelTimer();
    const wallMicros = computedMicros() - computedBefore;
    // Each step adds at most one token to a request, and whoever had work computed at least in part of a step.
    const steps = busy ? Math.max(1, ...Object.values(decodeTokens)) : 0;
    const counts = { steps, prefillTokens, decodeTokens, wallMicros, computeMicros: wallMicros, pending: pending() };
    tell({
      sliceId: grant.sliceId,
      lanes: grant.lanes,
      ended,
      requestMicros: sharesOf(wallMicros, decodeTokens),
      ...counts,
    });
  };

  const end = async (slice: OpenSlice, why: SliceReport['ended']): Promise<void> => {
    if (slice !== current || slice.ending !== null || freezer === null) return;
    slice.ending = why;
    slice.cancelTimer();
    try {
      if (!(await freezer.freeze())) return;
    } catch (thrown) {
      return broken(asBerthError(thrown));
    }
    if (slice !== current) return;
    stopClock();
    // What it wrote before it was stopped is still in the sockets: it belongs to this slice.
    await nextTurn();
    await nextTurn();
    if (slice !== current) return;
    current = null;
    report(slice, why);
  };

  const begin = (grant: SliceGrant, own: Freezer): void => {
    const slice: OpenSlice = {
      grant,
      busy: pending() > 0,
      computedBefore: computedMicros(),
      decodeTokens: {},
      prefillTokens: 0,
      ending: null,
      cancelTimer: () => {},
    };
    current = slice;
    if (!slice.busy) return void end(slice, 'idle');
    own.thaw().catch((thrown: unknown) => broken(asBerthError(thrown)));
    runsSince ??= timer.now();
    if (grant.micros !== null) slice.cancelTimer = timer.after(grant.micros, () => void end(slice, 'time'));
    opened();
  };

  return {
    slice(grant) {
      const own = freezer;
      if (own === null) {
        const nothing = {
          steps: 0,
          prefillTokens: 0,
          decodeTokens: {},
          wallMicros: 0,
          computeMicros: 0,
          requestMicros: {},
        };
        const { sliceId, lanes } = grant;
        setImmediate(() => sliceEnded({ sliceId, lanes, ended: 'idle', ...nothing, pending: pending() }));
        return;
      }
      // A slice that follows on another is handed the group as it runs.
      const before = current;
      current = null;
      begin(grant, own);
      // No observer is called from within a verb.
      if (before !== null) report(before, before.ending ?? 'told', (told) => setImmediate(() => sliceEnded(told)));
    },
    endSlice(sliceId) {
      if (current?.grant.sliceId === sliceId) void end(current, 'told');
    },
    async guard(own) {
      await own.freeze();
      freezer = own;
    },
    release(shouldReport) {
      freezer = null;
      stopClock();
      const last = current;
      current = null;
      if (last === null) return;
      if (shouldReport) report(last, last.ending ?? 'told');
      else last.cancelTimer();
    },
    isOpen: () => current !== null && current.ending === null,
    counted(requestId, tokens) {
      if (current !== null && tokens > 0)
        current.decodeTokens[requestId] = (current.decodeTokens[requestId] ?? 0) + tokens;
    },
    prefilled(tokens) {
      if (current !== null) current.prefillTokens += tokens;
    },
    idle() {
      if (current !== null) void end(current, 'idle');
    },
    computedMicros,
  };
}

const nextTurn = (): Promise<void> =>
  new Promise((resolve) => {
    setImmediate(resolve);
  });

/** Nobody outside of the server knows who computed how long: by tokens, then. */
function sharesOf(micros: Micros, decodeTokens: SliceReport['decodeTokens']): SliceReport['requestMicros'] {
  const all = Object.values(decodeTokens).reduce((sum, tokens) => sum + tokens, 0);
  const shares = Object.entries(decodeTokens).map(([id, tokens]) => [id, Math.round((micros * tokens) / all)]);
  return Object.fromEntries(shares) as Record<RequestId, Micros>;
}
