import { describe, expect, it } from 'vitest';
import { CLUSTER } from '../../test/support/cluster.ts';
import { fakeNode } from '../../test/support/fake-node.ts';
import { berthSetting } from './columns.ts';
import type { FaultSpec } from './faults.ts';
import { generate, modelName } from './generate.ts';
import type { Recorded } from './replay.ts';
import { replay } from './replay.ts';
import { simulate } from './simulate.ts';

function record(faults?: FaultSpec): Recorded[] {
  const models = Array.from({ length: 4 }, (_, index) => modelName(index));
  const setting = berthSetting(CLUSTER, { column: 'honest', gpus: 1, sloScale: 1, models, ...(faults && { faults }) });
  const entries: Recorded[] = [];
  simulate(
    generate({
      requests: 60,
      perSecond: 2,
      pattern: 'gamma',
      models: 4,
      tenants: 2,
      zipf: 1,
      seed: 1,
      meanPromptTokens: 300,
      meanOutputTokens: 60,
    }),
    { ...setting, onDecision: (_, now, events, actions) => void entries.push({ now, events, actions }) },
  );
  return JSON.parse(JSON.stringify(entries)) as Recorded[];
}

describe('a replay', () => {
  it('of what a simulated node was told gives the same actions', () => {
    expect(replay(record())).toBeNull();
  });

  it('does so with faults too, though the clock has jumped', () => {
    const entries = record({ seed: 6, rate: 60 });
    expect(entries.some(({ now }, index) => now < (entries[index - 1]?.now ?? 0))).toBe(true);
    expect(entries.some(({ events }) => events.some(({ type }) => type === 'engineDied'))).toBe(true);
    expect(replay(entries)).toBeNull();
  });

  it('finds the first entry that was decided otherwise', () => {
    const entries = record();
    const at = entries.findIndex(({ actions }) => actions.length > 0);
    entries[at] = { ...(entries[at] as Recorded), actions: [] };
    expect(replay(entries)?.index).toBe(at);
    expect(replay(entries)?.actions.length).toBeGreaterThan(0);
  });
});

it('of what a live node was told gives the same actions', async () => {
  const entries: Recorded[] = [];
  const journal = {
    write: (entry: Recorded) => void entries.push(structuredClone(entry)),
    close: () => Promise.resolve(),
  };
  const { ask, timer } = await fakeNode({ models: 4, fit: 2, journal });
  for (const model of [1, 2, 3, 4, 2, 1]) ask(`m${model}`, { maxTokens: 30 });
  await timer.settle();
  expect(entries.length).toBeGreaterThan(30);
  expect(replay(JSON.parse(JSON.stringify(entries)) as Recorded[])).toBeNull();
});
