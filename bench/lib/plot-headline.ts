/** The picture of over-commit: how long the first token takes for how many of the requests, for each program. */
import type { TopLevelSpec } from 'vega-lite';
import { chart } from './plot-simulate.ts';
import type { Published } from './results.ts';

const COLOURS = ['#d9480f', '#1971c2', '#98a2b0', '#2b8a3e', '#7048a8'];
const METRIC = /^TTFT p(\d+)(?:, peer (.+))?$/;

export function headlineChart({ rows, builds, machine }: Published): TopLevelSpec {
  const points = rows.flatMap((row) => {
    const [, percentile, peer] = METRIC.exec(row.metric) ?? [];
    if (percentile === undefined) return [];
    const fields = { level: row.case, percentile: Number(percentile) };
    const both = [
      { ...fields, who: 'Berth', value: row.berth },
      { ...fields, who: peer?.replace(/^router/, 'llama-server') ?? '', value: row.peer ?? null },
    ];
    return both.filter(({ value }) => value !== null);
  });
  // Berth's value stands in a row for each peer.
  const values = [
    ...new Map(points.map((one) => [`${one.level}|${one.percentile}|${one.who}`, one] as const)).values(),
  ].map((one) => ({ ...one, value: (one.value ?? 0) / 1_000 }));
  const capacity = Number(builds['capacityRequestsPerSecond'] ?? Number.NaN);
  const subtitle = `24 models, memory for 6; capacity ${capacity.toFixed(2)} requests/s; ${machine}`;
  return chart('Time to the first token under over-commit', subtitle, {
    data: { values },
    facet: { column: { field: 'level', type: 'nominal', sort: [...new Set(values.map(({ level }) => level))] } },
    spec: {
      width: 340,
      height: 260,
      layer: [
        {
          mark: { type: 'line', point: true },
          encoding: {
            x: {
              field: 'percentile',
              type: 'ordinal',
              title: 'percent of the requests had their first token',
              axis: { labelAngle: 0 },
            },
            y: { field: 'value', type: 'quantitative', title: 'within seconds', scale: { type: 'log' } },
            color: {
              field: 'who',
              type: 'nominal',
              title: null,
              scale: { domain: [...new Set(['Berth', ...values.map(({ who }) => who)])], range: COLOURS },
            },
          },
        },
        // What a good request may take.
        { mark: { type: 'rule', strokeDash: [4, 4], color: '#1a1f27' }, encoding: { y: { datum: 2 } } },
      ],
    },
  });
}
