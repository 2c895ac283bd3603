import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { modelId, requestId, tenantId } from '../core/ids.ts';
import type { DeviceTimeRow, Payer } from './device-time.ts';
import { createDeviceTime } from './device-time.ts';

const ann: Payer = { tenantId: tenantId('ann'), keyId: null };
const bob: Payer = { tenantId: tenantId('bob'), keyId: 'k' };
const [a, b] = [modelId('a'), modelId('b')];
const payerOf = (id: string): Payer => (id.startsWith('ann') ? ann : bob);
const sum = (rows: readonly DeviceTimeRow[]): number => rows.reduce((all, { laneMicros }) => all + laneMicros, 0);
const of = (rows: readonly DeviceTimeRow[], kind: string, payer: Payer | null = null): number =>
  sum(rows.filter((row) => row.kind === kind && (payer === null || row.payer === payer)));

describe('device time', () => {
  it('goes to those who computed, by their shares, on as many lanes as they had', () => {
    const time = createDeviceTime();
    time.configured(0, 2);
    time.granted(100, 1, a, 2);
    const requestMicros = { [requestId('ann1')]: 600, [requestId('bob1')]: 300 };
    time.ended(1_100, a, { sliceId: 1, lanes: 2, requestMicros }, payerOf);
    const rows = time.take(1_200);
    expect([of(rows, 'compute', ann), of(rows, 'compute', bob)]).toEqual([1_200, 600]);
    expect([of(rows, 'overhead'), of(rows, 'idle')]).toEqual([200, 400]);
    expect(sum(rows)).toBe(2 * 1_200);
  });

  it('of a load is paid by those who waited, in equal parts; of one for nobody, by nobody', () => {
    const time = createDeviceTime();
    time.configured(0, 2);
    time.loading(0, a);
    time.loaded(900, a, [ann, ann, bob]);
    time.loading(900, b);
    time.loaded(1_000, b, []);
    const rows = time.take(1_000);
    expect([of(rows, 'switch', ann), of(rows, 'switch', bob), of(rows, 'switch')]).toEqual([600, 300, 1_000]);
    expect(of(rows, 'idle')).toBe(1_000);
  });

  it('counts the lanes of a slice that is renewed while it runs once', () => {
    const time = createDeviceTime();
    time.configured(0, 2);
    time.granted(0, 1, a, 2);
    time.granted(1_000, 2, a, 1);
    time.ended(1_500, a, { sliceId: 1, lanes: 2, requestMicros: { [requestId('ann1')]: 1_500 } }, payerOf);
    time.ended(2_000, a, { sliceId: 2, lanes: 1, requestMicros: { [requestId('ann1')]: 500 } }, payerOf);
    const rows = time.take(2_000);
    expect([of(rows, 'compute'), of(rows, 'idle'), of(rows, 'overhead')]).toEqual([3_500, 500, 0]);
  });

  it('knows nothing of a slice for a process that is gone', () => {
    const time = createDeviceTime();
    time.configured(0, 2);
    time.died(100, a);
    time.granted(200, 1, a, 2);
    time.loading(300, a);
    time.loaded(500, a, []);
    const rows = time.take(1_000);
    expect([of(rows, 'switch'), of(rows, 'idle'), of(rows, 'overhead')]).toEqual([200, 1_800, 0]);
  });

  it('adds up to the lanes’ time, whatever happens and whenever it is asked for', () => {
    const event = fc.record({
      after: fc.nat(1_000),
      what: fc.constantFrom('grant', 'end', 'load', 'loaded', 'die', 'take'),
      model: fc.constantFrom(a, b),
      lanes: fc.integer({ min: 1, max: 2 }),
    });
    fc.assert(
      fc.property(fc.array(event), (events) => {
        const time = createDeviceTime();
        time.configured(0, 2);
        const open = new Map<number, { model: typeof a; lanes: number; at: number }>();
        let [now, all, next] = [0, 0, 1];
        for (const { after, what, model, lanes } of events) {
          now += after;
          const used = [...open.values()].reduce((count, slice) => count + slice.lanes, 0);
          if (what === 'grant' && used + lanes <= 2) {
            time.granted(now, next, model, lanes);
            open.set(next++, { model, lanes, at: now });
          } else if (what === 'end') {
            const [first] = open;
            if (first === undefined) continue;
            const [sliceId, slice] = first;
            open.delete(sliceId);
            const requestMicros = { [requestId('ann1')]: Math.floor((now - slice.at) / 2) };
            time.ended(now, slice.model, { sliceId, lanes: slice.lanes, requestMicros }, payerOf);
          } else if (what === 'load') time.loading(now, model);
          else if (what === 'loaded') time.loaded(now, model, [ann, bob]);
          else if (what === 'die') {
            time.died(now, model);
            for (const [id, slice] of open) if (slice.model === model) open.delete(id);
          } else all += sum(time.take(now));
        }
        for (const model of [a, b]) time.loaded(now, model, []);
        all += sum(time.take(now));
        expect(Math.abs(all - 2 * now)).toBeLessThanOrEqual(events.length + 1);
      }),
    );
  });
});
