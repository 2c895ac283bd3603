/** What berth.yaml says of who answers when a model can't (`overflow`). */
import type { Micros } from '../core/ids.ts';
import { duration, text } from './kinds.ts';
import type { Kind } from './kinds.ts';
import type { ModelEntry } from './parse.ts';
import { mapping } from './tenants.ts';

export interface OverflowConfig {
  /** The id of another model. */
  readonly to: string;
  /** A request that nobody has begun to compute goes there so long after it came; null: only one that is refused. */
  readonly after: Micros | null;
}

const fields = mapping<OverflowConfig>(
  'the id of a model, or a mapping of to (that id) and after (a duration)',
  { to: text('the id of a model'), after: duration('finite') },
  { to: '', after: null },
);

export const overflow: Kind<OverflowConfig> = {
  ...fields,
  read(value, origin) {
    const read = typeof value === 'string' ? { to: value.trim(), after: null } : fields.read(value, origin);
    return read === undefined || read.to === '' ? undefined : { ...read, to: read.to.toLowerCase() };
  },
};

/** What is wrong with one entry, by the field. One step only: who answers instead must not hand on again. */
export function overflowProblems(
  { id, values }: ModelEntry,
  all: readonly ModelEntry[],
): { readonly key: string; readonly message: string }[] {
  const to = values.overflow?.to;
  if (to === undefined) return [];
  const problem = (message: string): { key: string; message: string }[] => [{ key: 'overflow', message }];
  if (to === id.toLowerCase()) return problem('a model can’t answer instead of itself');
  const other = all.find((one) => one.id.toLowerCase() === to);
  if (other === undefined) return problem(`no model here is called ${to}: list it under \`models\``);
  if ((other.values.overflow ?? null) !== null)
    return problem(`${to} has an overflow itself: requests are handed on once only`);
  return [];
}
