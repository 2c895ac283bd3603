/**
 * Where the device's time went: lane-microseconds by tenant and model, and what is nobody's. The books balance by how they are kept:
 * at every moment each lane is granted, loads a model, or idles; what was granted and not computed in is overhead. What could be
 * wrong, and is tested, is what engines report: it must not be more than they were granted.
 */
import type { ActionId, Micros, ModelId, RequestId, TenantId } from '../core/ids.ts';
import type { SliceReport } from '../engines/engine.ts';

export interface Payer {
  readonly tenantId: TenantId;
  /** null: no key was needed. */
  readonly keyId: string | null;
}

export type DeviceTimeKind = 'compute' | 'switch' | 'idle' | 'overhead';

export interface DeviceTimeRow {
  readonly kind: DeviceTimeKind;
  /** null: nobody's. */
  readonly payer: Payer | null;
  readonly modelId: ModelId | null;
  readonly laneMicros: Micros;
}

export interface DeviceTime {
  /** The device's lanes, from now on. */
  configured(now: Micros, lanes: number): void;
  granted(now: Micros, sliceId: ActionId, modelId: ModelId, lanes: number): void;
  ended(
    now: Micros,
    modelId: ModelId,
    report: Pick<SliceReport, 'sliceId' | 'lanes' | 'requestMicros'>,
    payerOf: (id: RequestId) => Payer | null,
  ): void;
  loading(now: Micros, modelId: ModelId): void;
  /** The load has ended, well or not; those who waited for it pay in equal parts. */
  loaded(now: Micros, modelId: ModelId, payers: readonly Payer[]): void;
  /** The model's process is gone: what it was granted won't be reported. */
  died(now: Micros, modelId: ModelId): void;
  /** What has come together since the last time. */
  take(now: Micros): DeviceTimeRow[];
}

interface Grant {
  readonly modelId: ModelId;
  readonly lanes: number;
}

export function createDeviceTime(): DeviceTime {
  let lanes = 0;
  let last: Micros = 0;
  const grants = new Map<ActionId, Grant>();
  const loads = new Map<ModelId, { micros: Micros }>();
  /** Their processes are gone, and they are not loaded again yet. */
  const dead = new Set<ModelId>();
  let rows = new Map<string, { row: DeviceTimeRow; laneMicros: number }>();
  /** Granted and not yet known to be computed in. */
  let grantedMicros = 0;

  const add = (kind: DeviceTimeKind, payer: Payer | null, modelId: ModelId | null, laneMicros: number): void => {
    if (laneMicros === 0) return;
    const key = JSON.stringify([kind, payer?.tenantId, payer?.keyId, modelId]);
    const entry = rows.get(key) ?? { row: { kind, payer, modelId, laneMicros: 0 }, laneMicros: 0 };
    entry.laneMicros += laneMicros;
    rows.set(key, entry);
  };

  /** Each lane's time since the last event: granted, else loading, else idle. */
  const pass = (now: Micros): void => {
    const micros = Math.max(0, now - last);
    last = Math.max(last, now);
    let free = lanes;
    const counted = new Set<ModelId>();
    for (const grant of grants.values()) {
      // A slice without an end is renewed while it runs: the lanes of the next are the same until its last step has returned.
      if (counted.has(grant.modelId)) continue;
      counted.add(grant.modelId);
      grantedMicros += micros * grant.lanes;
      free -= grant.lanes;
    }
    for (const load of loads.values()) {
      if (free <= 0) break;
      load.micros += micros;
      free--;
    }
    add('idle', null, null, micros * Math.max(0, free));
  };

  return {
    configured(now, count) {
      pass(now);
      lanes = count;
    },
    granted(now, sliceId, modelId, count) {
      pass(now);
      // Decided before it was known that the process is gone: it will never be reported.
      if (!dead.has(modelId)) grants.set(sliceId, { modelId, lanes: count });
    },
    ended(now, modelId, report, payerOf) {
      pass(now);
      if (!grants.delete(report.sliceId)) return;
      for (const [id, micros] of Object.entries(report.requestMicros)) {
        const laneMicros = micros * report.lanes;
        grantedMicros -= laneMicros;
        add('compute', payerOf(id as RequestId), modelId, laneMicros);
      }
    },
    loading(now, modelId) {
      pass(now);
      dead.delete(modelId);
      if (!loads.has(modelId)) loads.set(modelId, { micros: 0 });
    },
    loaded(now, modelId, payers) {
      pass(now);
      const load = loads.get(modelId);
      loads.delete(modelId);
      if (load === undefined) return;
      if (payers.length === 0) add('switch', null, modelId, load.micros);
      for (const payer of payers) add('switch', payer, modelId, load.micros / payers.length);
    },
    died(now, modelId) {
      pass(now);
      dead.add(modelId);
      for (const [id, grant] of grants) if (grant.modelId === modelId) grants.delete(id);
    },
    take(now) {
      pass(now);
      // Of slices under way nothing is known yet: their time counts as overhead until they have reported.
      add('overhead', null, null, grantedMicros);
      grantedMicros = 0;
      const taken = [...rows.values()].map(({ row, laneMicros }) => ({ ...row, laneMicros: Math.round(laneMicros) }));
      rows = new Map();
      return taken;
    },
  };
}
