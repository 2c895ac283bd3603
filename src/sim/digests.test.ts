/**
 * The same decisions on every machine and after every refactoring. A digest changes when the core, the placement or the device decides or
 * computes otherwise: then write down here why, next to the new one (the test's message shows it).
 */
import { expect, test } from 'vitest';
import { bursts, CLUSTER, MODELS } from '../../test/support/cluster.ts';
import type { Column } from './columns.ts';
import { berthSetting } from './columns.ts';
import type { FaultSpec } from './faults.ts';
import { simulate } from './simulate.ts';

/** Before: as first recorded. */
const SINCE = 'a switch is charged as what the device makes in its time, and loads of those ahead are put off';
/** Only where several models compute on a GPU, and with several tenants. */
const SINCE_TURNS = 'in turns, tenants far ahead are not always in a hurry; a place each from the first step on';
/** Only where loads fail. */
const SINCE_FORGIVEN = 'a failed load of a model that has been loaded before is forgiven once';

const DIGESTS: readonly { readonly column: Column; readonly digest: string; readonly since: string }[] = [
  { column: 'compat', digest: '92b0c5b84cd9daf3', since: SINCE },
  { column: 'honest', digest: 'b0cb6ee043d660e9', since: SINCE },
  { column: 'resident', digest: '5718cadad65c22e2', since: SINCE_TURNS },
];

/** The same with ten times the usual faults. */
const WITH_FAULTS: typeof DIGESTS = [
  { column: 'compat', digest: '2cc769388bb111ee', since: SINCE_FORGIVEN },
  { column: 'honest', digest: '57921c193397d0de', since: SINCE_FORGIVEN },
  { column: 'resident', digest: '2d6bd714ae8c56df', since: SINCE_FORGIVEN },
];

function digestOf(column: Column, faults?: FaultSpec): string | null {
  const setting = berthSetting(CLUSTER, { column, gpus: 2, sloScale: 1, models: MODELS, ...(faults && { faults }) });
  return simulate(bursts(400), { ...setting, wantsDigest: true }).digest;
}

test.each(DIGESTS)('$column: all decisions are those of before', ({ column, digest }) => {
  expect(digestOf(column)).toBe(digest);
});

test.each(WITH_FAULTS)('$column, faults: all troubles and decisions are those of before', ({ column, digest }) => {
  expect(digestOf(column, { seed: 3, rate: 10 })).toBe(digest);
});
