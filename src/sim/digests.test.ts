/**
 * The same decisions on every machine and after every refactoring. A digest changes when the core, the placement or the device decides or
 * computes otherwise: then write down here why, next to the new one (the test's message shows it).
 */
import { expect, test } from 'vitest';
import { CLUSTER } from '../../test/support/cluster.ts';
import type { Column } from './columns.ts';
import { berthSetting } from './columns.ts';
import { generate, modelName } from './generate.ts';
import { simulate } from './simulate.ts';

const DIGESTS: readonly { readonly column: Column; readonly digest: string; readonly since: string }[] = [
  { column: 'compat', digest: '4f389609248e85e5', since: 'first recorded' },
  { column: 'honest', digest: 'e0032443d471ba87', since: 'first recorded' },
  { column: 'resident', digest: '913ccf25ed988b8b', since: 'first recorded' },
];

test.each(DIGESTS)('$column: all decisions are those of before', ({ column, digest }) => {
  const models = Array.from({ length: 12 }, (_, index) => modelName(index));
  const setting = berthSetting(CLUSTER, { column, gpus: 2, sloScale: 1, models });
  const arrivals = generate({
    requests: 400,
    perSecond: 2,
    pattern: 'gamma',
    models: 12,
    tenants: 3,
    zipf: 0.5,
    seed: 11,
    meanPromptTokens: 500,
    meanOutputTokens: 120,
  });
  expect(simulate(arrivals, { ...setting, wantsDigest: true }).digest).toBe(digest);
});
