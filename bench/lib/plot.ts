/**
 * Plots of published results, as SVG: what a benchmark's rows say is put into a Vega-Lite chart. Each picture brings its own
 * background, so that it can be read on a light and on a dark page.
 */
import { parse, View } from 'vega';
import type { TopLevelSpec } from 'vega-lite';
import { compile } from 'vega-lite';
import { headlineChart } from './plot-headline.ts';
import { SIMULATED } from './plot-simulate.ts';
import type { Published } from './results.ts';

/** Which of a benchmark's results have a picture. */
export const PLOTTED = [
  'hot-models',
  'concurrency',
  'neighbours',
  'embeddings',
  'kv-return',
  'conversations',
  'fairness',
  'headline',
] as const;
type Name = (typeof PLOTTED)[number];

const isPlotted = (name: string): name is Name => (PLOTTED as readonly string[]).includes(name);

const BERTH = 'Berth';
const PEER = 'llama-server';
/** Berth's colour and the peers', told apart by brightness too. */
const COLOURS = ['#d9480f', '#1971c2', '#98a2b0', '#2b8a3e', '#7048a8', '#1a1f27'];
const FONT = 'system-ui, "Segoe UI", Helvetica, Arial, "DejaVu Sans", sans-serif';

interface Point {
  /** The program. */
  readonly who: string;
  readonly value: number;
  readonly [field: string]: string | number;
}

type Row = Published['rows'][number];

/** The row's two values as points of the plot, where they are. */
function points({ berth, peer }: Row, peerName: string, fields: Readonly<Record<string, string | number>>): Point[] {
  const both = [
    { who: BERTH, value: berth },
    { who: peerName, value: peer ?? null },
  ];
  return both.flatMap(({ who, value }) => (value === null ? [] : [{ ...fields, who, value }]));
}

const number = (text: string, pattern: RegExp): number => Number(pattern.exec(text)?.[1] ?? Number.NaN);

/** Rows name each peer in the metric's end: `…, peer router -t 1`. */
const peerOf = (metric: string): string | null => /, peer (.+)$/.exec(metric)?.[1] ?? null;

/** Berth's value stands in a row for each peer: one point of each is enough. */
function distinct(all: readonly Point[]): Point[] {
  return [...new Map(all.map((point) => [JSON.stringify({ ...point, value: 0 }), point])).values()];
}

const colour = (values: readonly Point[]): object => ({
  field: 'who',
  type: 'nominal',
  title: null,
  scale: { domain: [...new Set([BERTH, ...values.map(({ who }) => who)])], range: COLOURS },
});

const chart = (title: string, subtitle: readonly string[], body: object): TopLevelSpec =>
  ({
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    background: '#ffffff',
    padding: 18,
    title: { text: title, subtitle, anchor: 'start', offset: 14 },
    config: {
      font: FONT,
      title: { fontSize: 15, fontWeight: 600, color: '#1a1f27', subtitleColor: '#5b6675', subtitleFontSize: 12 },
      axis: {
        labelColor: '#5b6675',
        titleColor: '#5b6675',
        labelFontSize: 11,
        titleFontSize: 11,
        titleFontWeight: 'normal',
        gridColor: '#e9ecf1',
        domainColor: '#b8c0cc',
        tickColor: '#b8c0cc',
      },
      header: { labelColor: '#1a1f27', labelFontSize: 12, labelFontWeight: 600, title: null },
      legend: { labelColor: '#1a1f27', labelFontSize: 12, labelLimit: 0, orient: 'top', columnPadding: 20, offset: 10 },
      view: { stroke: null },
      line: { strokeWidth: 2.5 },
      point: { filled: true, size: 55 },
    },
    ...body,
  }) as TopLevelSpec;

/** A panel for each value, in the order of the rows. */
const columns = (field: string, values: readonly Point[]): object => ({
  column: { field, type: 'nominal', sort: [...new Set(values.map((value) => value[field]))] },
});

const lines = (values: readonly Point[], x: object, y: object): object => ({
  mark: { type: 'line', point: true },
  encoding: { x, y: { field: 'value', type: 'quantitative', ...y }, color: colour(values) },
});

const SPECS: Readonly<Record<Name, (result: Published) => TopLevelSpec>> = {
  headline: headlineChart,

  'hot-models'({ rows, machine }) {
    const values = distinct(
      rows.flatMap((row) => {
        const peer = peerOf(row.metric);
        return peer === null
          ? []
          : points(row, `${PEER} ${peer.replace('router ', '')}`, { models: number(row.case, /^(\d+) busy/) });
      }),
    );
    const all =
      values.length > 0
        ? values
        : rows
            .filter(({ metric }) => metric === 'in all')
            .flatMap((row) => points(row, PEER, { models: number(row.case, /^(\d+) busy/) }));
    return chart('Several busy models on one device', ['tokens/s of all together, four streams a model', machine], {
      data: { values: all },
      width: 560,
      height: 260,
      ...lines(
        all,
        { field: 'models', type: 'ordinal', title: 'busy models', axis: { labelAngle: 0 } },
        { title: 'tokens/s' },
      ),
    });
  },

  concurrency({ rows, machine }) {
    const values = rows
      .filter(({ metric }) => metric === 'in all')
      .flatMap((row) =>
        points(row, PEER, { model: row.case.split(',')[0] ?? '', level: number(row.case, /, (\d+) in flight/) }),
      );
    return chart('One busy model', ['tokens/s of all requests together', machine], {
      data: { values },
      facet: columns('model', values),
      spec: {
        width: 300,
        height: 240,
        ...lines(
          values,
          { field: 'level', type: 'ordinal', title: 'requests in flight', axis: { labelAngle: 0 } },
          { title: 'tokens/s' },
        ),
      },
    });
  },

  neighbours({ rows, machine }) {
    const measured = /^(TTFT|inter-token) (p50|p99)(?:, peer .+)?$/;
    const values = distinct(
      rows.flatMap((row) => {
        const [, what, p] = measured.exec(row.metric) ?? [];
        if (what === undefined || p === undefined) return [];
        const peer = peerOf(row.metric);
        return points(row, `${PEER} ${peer?.replace('router ', '') ?? ''}`.trim(), {
          what: `${what} ${p}`,
          neighbours: row.case,
        });
      }),
    );
    return chart('An interactive stream beside busy neighbours', ['milliseconds, logarithmic', machine], {
      data: { values },
      facet: columns('neighbours', values),
      spec: {
        width: 300,
        height: 240,
        encoding: {
          x: {
            field: 'what',
            type: 'nominal',
            title: null,
            sort: null,
            axis: { labelAngle: 0, labelExpr: "split(datum.label, ' ')" },
          },
          xOffset: { field: 'who', sort: null },
          y: {
            field: 'value',
            type: 'quantitative',
            title: 'ms',
            scale: { type: 'log' },
            axis: { values: [1, 10, 100, 1_000, 10_000, 100_000] },
          },
        },
        layer: [
          {
            // Bars have no natural foot on a logarithmic axis: they begin at 1 ms.
            mark: { type: 'bar', cornerRadiusEnd: 2 },
            encoding: { y2: { datum: 1 }, color: colour(values) },
          },
          {
            mark: { type: 'text', baseline: 'bottom', dy: -3, fontSize: 9, color: '#5b6675' },
            encoding: { text: { field: 'value', format: '.0f' } },
          },
        ],
      },
    });
  },

  embeddings({ rows, machine }) {
    const pattern = /^(\d+) in flight, window (\d+) ms$/;
    const values = rows.flatMap((row) => {
      const [, most, window] = pattern.exec(row.case) ?? [];
      if (most === undefined || window === undefined || row.berth === null) return [];
      const what = row.metric === 'embeddings' ? 'texts/s' : 'latency p50, ms';
      return [{ who: `${most} in flight`, what, window: Number(window), value: row.berth }];
    });
    const panel = (what: string): object => ({
      width: 300,
      height: 220,
      transform: [{ filter: { field: 'what', equal: what } }],
      mark: { type: 'line', point: true },
      encoding: {
        x: { field: 'window', type: 'ordinal', title: 'window, ms', axis: { labelAngle: 0 } },
        y: { field: 'value', type: 'quantitative', title: what },
        color: { field: 'who', type: 'nominal', title: null, sort: null, scale: { range: COLOURS } },
      },
    });
    return chart('How long embeddings wait for company', ['throughput and latency by window', machine], {
      data: { values },
      hconcat: [panel('texts/s'), panel('latency p50, ms')],
    });
  },

  'kv-return'({ rows, machine }) {
    const again = 'nowhere: computed again';
    const values = distinct(
      rows.flatMap((row) => {
        const [, where] = /^TTFT, KV (.+); peer: computed again$/.exec(row.metric) ?? [];
        const [, model, tokens] = /^(.+), ([\d,]+) tokens$/.exec(row.case) ?? [];
        if (where === undefined || model === undefined || tokens === undefined) return [];
        const fields = { model, tokens: Number(tokens.replaceAll(',', '')) };
        return points(row, again, fields).map((point) => (point.who === BERTH ? { ...point, who: where } : point));
      }),
    );
    const order = [...new Set(values.map(({ who }) => who).filter((who) => who !== again)), again];
    return chart('First token of a next turn, by where its KV is', ['milliseconds, logarithmic', machine], {
      data: { values },
      facet: columns('model', values),
      spec: {
        width: 300,
        height: 260,
        mark: { type: 'line', point: true },
        encoding: {
          x: { field: 'tokens', type: 'ordinal', title: 'tokens before the turn', axis: { labelAngle: 0 } },
          y: { field: 'value', type: 'quantitative', title: 'ms', scale: { type: 'log' } },
          color: {
            field: 'who',
            type: 'nominal',
            title: null,
            scale: { domain: order, range: COLOURS },
            legend: { columns: 2 },
          },
        },
      },
    });
  },

  conversations({ rows, machine }) {
    const pattern = /^(TTFT p50|TTFT p95|prefill computed, of the prompts), peer (.+)$/;
    const values = distinct(
      rows.flatMap((row) => {
        const [, what, peer] = pattern.exec(row.metric) ?? [];
        if (what === undefined || peer === undefined) return [];
        return points(row, peer.replace('router', PEER), { what: what.replace('TTFT ', '') });
      }),
    );
    const saved = rows.find(({ metric }) => metric === 'prefill that could be saved, of the prompts')?.berth ?? 0;
    const bars = (format: string): object[] => [
      { mark: { type: 'bar', cornerRadiusEnd: 2 }, encoding: { color: colour(values) } },
      {
        mark: { type: 'text', baseline: 'bottom', dy: -3, fontSize: 9, color: '#5b6675' },
        encoding: { text: { field: 'value', format } },
      },
    ];
    const y = (title: string): object => ({ field: 'value', type: 'quantitative', title });
    const ttft = {
      width: 340,
      height: 240,
      transform: [{ filter: { field: 'what', oneOf: ['p50', 'p95'] } }],
      encoding: {
        x: { field: 'what', type: 'nominal', title: 'time to the first token', axis: { labelAngle: 0 } },
        xOffset: { field: 'who', sort: null },
        y: y('ms'),
      },
      layer: bars('.0f'),
    };
    const prefill = {
      width: 200,
      height: 240,
      transform: [{ filter: { field: 'what', equal: 'prefill computed, of the prompts' } }],
      layer: [
        {
          encoding: {
            x: { field: 'who', type: 'nominal', title: null, sort: null, axis: { labels: false, ticks: false } },
            y: y('prompt tokens computed, %'),
          },
          layer: bars('.0f'),
        },
        { mark: { type: 'rule', strokeDash: [4, 4], color: '#1a1f27' }, encoding: { y: { datum: 100 - saved } } },
      ],
    };
    const subtitle = ['dashed: what is left to compute if nothing is computed twice', machine];
    return chart('More conversations than the device holds', subtitle, { data: { values }, hconcat: [ttft, prefill] });
  },

  fairness({ rows, machine }) {
    const gaps = rows.filter(({ metric }) => metric === 'service gap, peer FCFS');
    const values = gaps.flatMap((row) => {
      const [scenario = '', tenants = ''] = row.case.split(/, (?=\d+ tenants$)/);
      return points(row, 'first come, first served', { scenario, tenants });
    });
    const bound = number(gaps[0]?.bar ?? '', /^≤ ([\d.]+)/);
    const subtitle = [
      'largest gap of service between two tenants that wait, weighted tokens; dashed: the bound of VTC',
      machine,
    ];
    return chart('Shares of the device', subtitle, {
      data: { values },
      facet: columns('tenants', values),
      spec: {
        width: 340,
        height: 240,
        layer: [
          {
            encoding: {
              x: {
                field: 'scenario',
                type: 'nominal',
                title: null,
                sort: null,
                axis: { labelAngle: 0, labelExpr: "split(datum.label, ' ')" },
              },
              xOffset: { field: 'who', sort: null },
              y: { field: 'value', type: 'quantitative', title: 'weighted tokens' },
            },
            layer: [
              { mark: { type: 'bar', cornerRadiusEnd: 2 }, encoding: { color: colour(values) } },
              {
                mark: { type: 'text', baseline: 'bottom', dy: -3, fontSize: 9, color: '#5b6675' },
                encoding: { text: { field: 'value', format: '.0f' } },
              },
            ],
          },
          { mark: { type: 'rule', strokeDash: [4, 4], color: '#1a1f27' }, encoding: { y: { datum: bound } } },
        ],
      },
    });
  },
};

/** The picture of a result; null if it has none. */
export async function plot(result: Published): Promise<string | null> {
  const draw = isPlotted(result.name) ? SPECS[result.name] : SIMULATED[result.name];
  if (draw === undefined) return null;
  const { spec } = compile(draw(result));
  const view = new View(parse(spec), { renderer: 'none' });
  try {
    return `${renumbered(await view.toSVG()).trim()}\n`;
  } finally {
    view.finalize();
  }
}

/** Vega counts its clips on from picture to picture; each picture counts its own. */
function renumbered(svg: string): string {
  const names = new Map<string, string>();
  return svg.replace(/\bclip\d+\b/g, (name) => {
    const own = names.get(name) ?? `clip${names.size + 1}`;
    names.set(name, own);
    return own;
  });
}
