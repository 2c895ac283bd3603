/** Charts of the simulator's benchmarks: what `plot.ts` draws for those that run on a machine. */
import type { TopLevelSpec } from 'vega-lite';
import type { Published } from './results.ts';

type Row = Published['rows'][number];

const COLOURS = ['#d9480f', '#1971c2', '#98a2b0'];
const FONT = 'system-ui, "Segoe UI", Helvetica, Arial, "DejaVu Sans", sans-serif';

export const chart = (title: string, subtitle: string, body: object): TopLevelSpec =>
  ({
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    background: '#ffffff',
    padding: 18,
    title: { text: title, subtitle, anchor: 'start', offset: 14 },
    config: {
      font: FONT,
      title: { fontSize: 15, fontWeight: 600, color: '#1a1f27', subtitleColor: '#5b6675', subtitleFontSize: 12 },
      axis: { labelColor: '#5b6675', titleColor: '#5b6675', titleFontWeight: 'normal', gridColor: '#e9ecf1' },
      header: { labelColor: '#1a1f27', labelFontSize: 12, labelFontWeight: 600, title: null },
      legend: { labelColor: '#1a1f27', labelFontSize: 12, labelLimit: 0, orient: 'top', offset: 10 },
      view: { stroke: null },
    },
    ...body,
  }) as TopLevelSpec;

/** Berth's value and the peer's as two points, each where it is known. */
const both = (row: Row, peer: string, fields: Readonly<Record<string, string | number>>): object[] =>
  [
    { who: 'Berth', value: row.berth },
    { who: peer, value: row.peer ?? null },
  ].flatMap(({ who, value }) => (value === null ? [] : [{ ...fields, who, value }]));

const colour = (domain: readonly string[]): object => ({
  field: 'who',
  type: 'nominal',
  title: null,
  scale: { domain, range: COLOURS },
});

/** Each takes what the benchmark's file says. */
export const SIMULATED: Readonly<Record<string, (result: Published) => TopLevelSpec>> = {
  'simulate-aegaeon'({ rows }) {
    const peer = 'Aegaeon’s policy, best of three slices';
    const values = rows
      .filter(({ metric }) => metric.startsWith('requests all in time (bound'))
      .flatMap((row) => {
        const [trace = '', targets = ''] = row.case.split(', ');
        return both(row, peer, { trace, targets });
      });
    return chart(
      'Requests with every token in time',
      '16 simulated GPUs, Aegaeon’s own assumptions and traces, percent',
      {
        data: { values },
        facet: { column: { field: 'targets', type: 'nominal', sort: null } },
        spec: {
          width: 300,
          height: 220,
          mark: { type: 'bar' },
          encoding: {
            x: {
              field: 'trace',
              type: 'nominal',
              title: 'models - requests a second each',
              sort: null,
              axis: { labelAngle: 0 },
            },
            xOffset: { field: 'who' },
            y: { field: 'value', type: 'quantitative', title: '%', scale: { domain: [0, 100] } },
            color: colour(['Berth', peer]),
          },
        },
      },
    );
  },

  'simulate-honest'({ rows }) {
    const peers = rows.flatMap((row) => {
      const [, name] = /^requests all in time, peer (.+)$/.exec(row.metric) ?? [];
      return name === undefined || row.peer === undefined
        ? []
        : [{ where: row.case, policy: name, value: row.peer, who: 'peer' }];
    });
    const own = rows
      .filter(({ metric, berth }) => metric === 'requests all in time' && berth !== null)
      .filter(({ case: name }) => peers.some(({ where }) => where === name))
      .map((row) => ({ where: row.case, policy: 'berth', value: row.berth, who: 'Berth' }));
    return chart('Requests with every token in time, by policy', '16 simulated GPUs, nothing for free, percent', {
      data: { values: [...own, ...peers] },
      facet: { field: 'where', type: 'nominal', sort: null },
      columns: 3,
      spec: {
        width: 260,
        height: 170,
        mark: { type: 'bar' },
        encoding: {
          y: { field: 'policy', type: 'nominal', title: null, sort: null },
          x: { field: 'value', type: 'quantitative', title: '%', scale: { domain: [0, 100] } },
          color: colour(['Berth', 'peer']),
        },
      },
    });
  },

  'simulate-speed'({ rows }) {
    const values = rows
      .filter(({ metric }) => metric === 'CPU time')
      .map((row) => ({ requests: Number(/^(\d+) requests/.exec(row.case)?.[1]), value: row.berth }));
    const axis = (field: string, title: string): object => ({
      field,
      type: 'quantitative',
      title,
      scale: { type: 'log' },
    });
    return chart('How long the simulator takes', '1,000 models, 100 tenants, 64 GPUs, one core', {
      data: { values },
      width: 460,
      height: 240,
      mark: { type: 'line', point: true, color: COLOURS[0] },
      encoding: { x: axis('requests', 'requests'), y: axis('value', 'CPU seconds') },
    });
  },

  'simulate-prefixes'({ rows }) {
    const values = rows.flatMap((row) =>
      both(row, 'least recently used', { room: Number(/room for (\d+) blocks/.exec(row.case)?.[1]) }),
    );
    return chart('KV at hand, by room', 'Mooncake’s prompts, percent of their blocks', {
      data: { values },
      width: 460,
      height: 240,
      mark: { type: 'line', point: true },
      encoding: {
        x: { field: 'room', type: 'quantitative', title: 'room, blocks of 512 tokens', scale: { type: 'log' } },
        y: { field: 'value', type: 'quantitative', title: '%' },
        color: colour(['Berth', 'least recently used']),
      },
    });
  },
};
