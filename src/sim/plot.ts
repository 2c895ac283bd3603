/** A picture of a comparison: for each policy, which share of all requests had its first token after how long. Plain SVG. */
import type { Micros } from '../core/ids.ts';

export interface Curve {
  readonly name: string;
  /** TTFT at each percent from 0 to 100; infinite for those that never came. */
  readonly ttftByPercent: readonly Micros[];
}

const [WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM] = [760, 420, 60, 56, 190, 48];
const [LEAST, MOST] = [10_000, 100_000_000];
const COLOURS = [
  '#d9480f',
  '#1971c2',
  '#2f9e44',
  '#9c36b5',
  '#f08c00',
  '#0c8599',
  '#c2255c',
  '#5c940d',
  '#495057',
  '#868e96',
];

const x = (micros: Micros): number => {
  const share = Math.log(Math.min(MOST, Math.max(LEAST, micros)) / LEAST) / Math.log(MOST / LEAST);
  return round(LEFT + share * (WIDTH - LEFT - RIGHT));
};
const y = (percent: number): number => round(TOP + (1 - percent / 100) * (HEIGHT - TOP - BOTTOM));
const round = (value: number): number => Math.round(value * 10) / 10;
const escaped = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

export function plotTtft(title: string, ttftGoalMicros: Micros, curves: readonly Curve[]): string {
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="system-ui, sans-serif" font-size="12">`,
    `<title>${escaped(title)}</title>`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#ffffff"/>`,
    `<text x="${LEFT}" y="24" font-size="15" font-weight="600" fill="#1a1f27">${escaped(title)}</text>`,
    `<text x="${LEFT}" y="42" fill="#5b6675">share of all requests (%) whose first token came within so long</text>`,
    ...grid(),
    `<line x1="${x(ttftGoalMicros)}" y1="${TOP}" x2="${x(ttftGoalMicros)}" y2="${y(0)}" stroke="#1a1f27" stroke-dasharray="4 3"/>`,
    ...curves.flatMap((curve, index) => draw(curve, index)),
    '</svg>',
  ];
  return `${parts.join('\n')}\n`;
}

function grid(): string[] {
  const times = [10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
  const label = (micros: Micros): string => (micros < 1_000_000 ? `${micros / 1_000} ms` : `${micros / 1_000_000} s`);
  return [
    ...times.map(
      (at) =>
        `<line x1="${x(at)}" y1="${TOP}" x2="${x(at)}" y2="${y(0)}" stroke="#e9ecf1"/><text x="${x(at)}" y="${HEIGHT - 26}" text-anchor="middle" fill="#5b6675">${label(at)}</text>`,
    ),
    ...[0, 25, 50, 75, 100].map(
      (percent) =>
        `<line x1="${LEFT}" y1="${y(percent)}" x2="${WIDTH - RIGHT}" y2="${y(percent)}" stroke="#e9ecf1"/><text x="${LEFT - 8}" y="${y(percent) + 4}" text-anchor="end" fill="#5b6675">${percent}</text>`,
    ),
  ];
}

function draw({ name, ttftByPercent }: Curve, index: number): string[] {
  const colour = COLOURS[index % COLOURS.length] as string;
  const points = ttftByPercent.flatMap((micros, percent) =>
    Number.isFinite(micros) ? [`${x(micros)},${y(percent)}`] : [],
  );
  const at = TOP + 8 + index * 20;
  return [
    `<polyline points="${points.join(' ')}" fill="none" stroke="${colour}" stroke-width="2"/>`,
    `<line x1="${WIDTH - RIGHT + 16}" y1="${at}" x2="${WIDTH - RIGHT + 36}" y2="${at}" stroke="${colour}" stroke-width="3"/>`,
    `<text x="${WIDTH - RIGHT + 42}" y="${at + 4}" fill="#1a1f27">${escaped(name)}</text>`,
  ];
}
