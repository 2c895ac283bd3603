/** The last decisions about each model and each request, for `berth why`. Rings, so that memory is bounded. */
import type { Action } from '../core/actions.ts';
import type { ActionId, Micros } from '../core/ids.ts';
import type { DecisionView } from './api.ts';

const PER_MODEL = 200;
/** Slices come many times a second: they get a ring of their own, so that they don't push out the load that explains them. */
const SLICES_PER_MODEL = 20;
const PER_REQUEST = 50;
const REQUESTS = 2_000;

export interface DecisionLog {
  /** `device` null: there is only one. */
  add(at: Micros, action: Action, device: string | null): void;
  /** Oldest first; empty for what is unknown. */
  of(modelOrRequest: string): readonly DecisionView[];
}

interface Entry {
  readonly id: ActionId;
  readonly view: DecisionView;
}

export function createDecisionLog(): DecisionLog {
  const models = new Map<string, Entry[]>();
  const slices = new Map<string, Entry[]>();
  const requests = new Map<string, Entry[]>();

  const push = (map: Map<string, Entry[]>, key: string, decision: Entry, most: number): void => {
    const ring = map.get(key) ?? [];
    map.set(key, ring);
    ring.push(decision);
    if (ring.length > most) ring.shift();
  };

  return {
    add(at, action, device) {
      const request = 'requestId' in action ? action.requestId : null;
      const view: DecisionView = {
        at,
        action: action.type,
        model: action.modelId,
        request,
        because: action.because,
        ...(device !== null && { device }),
      };
      const decision: Entry = { id: action.id, view };
      const isSlice = action.type === 'grantSlice' || action.type === 'endSlice';
      push(isSlice ? slices : models, action.modelId, decision, isSlice ? SLICES_PER_MODEL : PER_MODEL);
      if (request === null) return;
      push(requests, request, decision, PER_REQUEST);
      if (requests.size > REQUESTS) {
        const oldest = requests.keys().next().value;
        if (oldest !== undefined) requests.delete(oldest);
      }
    },
    of(name) {
      const found = [...(models.get(name) ?? []), ...(slices.get(name) ?? []), ...(requests.get(name) ?? [])];
      // Each device numbers its own: of the same moment, in the order in which they were decided.
      return found.toSorted((a, b) => a.view.at - b.view.at || a.id - b.id).map(({ view }) => view);
    },
  };
}
