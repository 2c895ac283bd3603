/** Prometheus metrics of the KV tiers, taken from the cache's own counts when somebody looks. */
import { Counter, Gauge } from 'prom-client';
import type { Registry } from 'prom-client';
import type { KvStats } from '../kv/cache.ts';

export function createKvMetrics(registry: Registry): (stats: KvStats) => void {
  const registers = [registry];
  const gauge = (name: string, help: string): Gauge<'tier'> =>
    new Gauge({ name, help, labelNames: ['tier'], registers });
  const counter = <Label extends string>(name: string, help: string, labelNames: Label[]): Counter<Label> =>
    new Counter({ name, help, labelNames, registers });

  const entries = gauge('berth_kv_entries', 'Conversations whose KV lies there');
  const bytes = gauge('berth_kv_bytes', 'Bytes of it, on the device those of idle sequences');
  const budget = gauge('berth_kv_budget_bytes', 'What the tier may hold; 0 for the device: see the models’ KV caches');
  const lookups = counter('berth_kv_lookups_total', 'Starts of requests for which KV was looked for', []);
  const hits = counter('berth_kv_hits_total', 'Those that began with KV from there', ['tier']);
  const moved = counter('berth_kv_moved_bytes_total', 'Bytes saved, moved and restored', ['way']);
  const saves = counter('berth_kv_saves_total', 'Sequences saved', []);
  const restores = counter('berth_kv_restores_total', 'Files read back and proven, or refused', ['outcome']);
  const failures = counter('berth_kv_failures_total', 'Files that could not be written, moved or removed', []);
  const evictions = counter('berth_kv_evictions_total', 'Files that left a tier for want of room', []);

  return (stats) => {
    for (const [tier, seen] of Object.entries(stats.tiers)) {
      entries.set({ tier }, seen.entries);
      bytes.set({ tier }, seen.bytes);
      budget.set({ tier }, seen.budgetBytes);
    }
    for (const each of [lookups, hits, moved, saves, restores, failures, evictions]) each.reset();
    lookups.inc(stats.lookups);
    for (const [tier, count] of Object.entries(stats.hits)) hits.inc({ tier }, count);
    const { toHost, toDisk, fromHost, fromDisk } = stats.bytesMoved;
    const ways = { to_host: toHost, to_disk: toDisk, from_host: fromHost, from_disk: fromDisk };
    for (const [way, count] of Object.entries(ways)) moved.inc({ way }, count);
    saves.inc(stats.saves);
    restores.inc({ outcome: 'proven' }, stats.restores);
    restores.inc({ outcome: 'refused' }, stats.refusedRestores);
    failures.inc(stats.failures);
    evictions.inc(stats.evictions);
  };
}
