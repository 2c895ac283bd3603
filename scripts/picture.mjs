/**
 * The README's picture: what `berth ps` and `berth why` print on a node with twelve models and room for four.
 *
 *   node_modules/.bin/node scripts/picture.mjs record   starts a node with real models under load, and writes docs/img/overcommit.txt
 *   node_modules/.bin/node scripts/picture.mjs          draws docs/img/overcommit.svg from that recording
 *
 * The recording is what the command line printed, character for character; the drawing only adds colours. A test holds the two equal.
 */
import { copyFileSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';

const TEXT = fileURLToPath(new URL('../docs/img/overcommit.txt', import.meta.url));
const PICTURE = fileURLToPath(new URL('../docs/img/overcommit.svg', import.meta.url));

// ── drawing ───────────────────────────────────────────────────────────────────────────────────────────────────────────

const CELL = 7.83;
const LINE = 19.5;
const MARGIN = 22;
const BAR = 38;
const COLOURS = {
  background: '#11151c',
  border: '#2b3442',
  title: '#8b98ab',
  text: '#c9d4e3',
  faint: '#7c899b',
  header: '#8b98ab',
  prompt: '#6cb6ff',
  loaded: '#57d08c',
  loading: '#f0b849',
  parking: '#e8865f',
  sleeping: '#b08cff',
  unloaded: '#5f6b7c',
  failed: '#ff6b6b',
};
const STATES = ['loaded', 'loading', 'parking', 'sleeping', 'unloaded', 'failed'];

const escape = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

/** A line's parts, each with a class; together they are the line. */
function paint(line, section) {
  if (line.startsWith('$ '))
    return [
      ['prompt', '$ '],
      ['command', line.slice(2)],
    ];
  if (/^(NAME|WHEN) /.test(line)) return [['header', line]];
  const state = section === 'ps' ? STATES.find((word) => new RegExp(` ${word}  `).test(line)) : undefined;
  if (state !== undefined) {
    if (state === 'unloaded') return [['unloaded', line]];
    const at = line.lastIndexOf(` ${state} `) + 1;
    return [
      ['name', line.slice(0, line.indexOf(' '))],
      ['text', line.slice(line.indexOf(' '), at)],
      [state, state],
      ['text', line.slice(at + state.length)],
    ];
  }
  const [, before, decision, because] = /^(.+? ago +|just now +)(\S+(?: \S+)* {3,})(.*)$/.exec(line) ?? [];
  if (because === undefined) return [['text', line]];
  const [rule, ...numbers] = because.split(': ');
  return [
    ['faint', before],
    ['name', decision],
    ['rule', rule],
    ['text', numbers.length === 0 ? '' : `: ${numbers.join(': ')}`],
  ];
}

/** The recording as a terminal in SVG: no font, script or file of elsewhere, its own background. */
export function draw(recording) {
  const [title, ...lines] = recording.trimEnd().split('\n');
  const columns = Math.max(...lines.map((line) => line.length));
  const width = Math.ceil(columns * CELL + 2 * MARGIN);
  const height = Math.ceil(BAR + lines.length * LINE + MARGIN + 4);
  let section = '';
  const rows = lines.map((line, index) => {
    if (line.startsWith('$ ')) section = line.includes(' ps') ? 'ps' : 'why';
    const y = (BAR + MARGIN + index * LINE).toFixed(1);
    let column = 0;
    const spans = paint(line, section).flatMap(([name, text]) => {
      const from = column;
      column += text.length;
      // Each cell stands at its own place, so that columns are kept whatever the font's width and the viewer's view of spaces.
      return [...text.matchAll(/\S+(?: \S+)*/g)].map((cell) => {
        const at = from + cell.index;
        const isJoined = at > 0 && line[at - 1] !== ' ';
        const x = isJoined ? '' : ` x="${(MARGIN + at * CELL).toFixed(1)}"`;
        return `<tspan${x} class="${name}">${escape(cell[0])}</tspan>`;
      });
    });
    return spans.length === 0 ? '' : `<text y="${y}">${spans.join('')}</text>`;
  });
  const dots = ['#ff5f57', '#febc2e', '#28c840'].map(
    (colour, index) => `<circle cx="${MARGIN + 4 + index * 18}" cy="19" r="5.5" fill="${colour}"/>`,
  );
  const classes = Object.entries(COLOURS)
    .filter(([name]) => !['background', 'border', 'title'].includes(name))
    .map(([name, colour]) => `.${name}{fill:${colour}}`);
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" aria-label="${escape(title)}">
<style>text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace}.header,.command,.rule{font-weight:600}.name,.command{fill:#f2f6fc}.rule{fill:${COLOURS.prompt}}.title{font-family:system-ui,"Segoe UI",Helvetica,Arial,"DejaVu Sans",sans-serif;fill:${COLOURS.title}}${classes.join('')}</style>
<rect x=".5" y=".5" width="${width - 1}" height="${height - 1}" rx="10" fill="${COLOURS.background}" stroke="${COLOURS.border}"/>
${dots.join('')}<text class="title" x="${width / 2}" y="23.5" text-anchor="middle">${escape(title)}</text>
<path d="M0.5 38H${width - 0.5}" stroke="${COLOURS.border}"/>
${rows.filter((row) => row !== '').join('\n')}
</svg>
`;
}

// ── recording ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const MODELS = 12;
const ROOM_FOR = 4;
const IN_FLIGHT = 8;
const LAST = 4;
const DEADLINE_MILLIS = 180_000;
/** What a moment must show to be worth a picture. */
const isTelling = ({ loaded, loading, sleeping, unloaded }) =>
  loaded >= 2 && loading >= 1 && loaded + loading <= ROOM_FOR && sleeping >= 2 && unloaded >= 3;
/** How a model that left came back: a line of each. */
const isStory = (why) => /ensure (asleep|unloaded)/.test(why) && /ensure loaded/.test(why.split('\n').at(-1) ?? '');

async function record() {
  const { ask, inFlight } = await import('../bench/lib/client.ts');
  const { startBerth } = await import('../bench/lib/servers.ts');
  const { runCli } = await import('../src/cli/program.ts');
  const { processIo } = await import('../src/cli/io.ts');
  const { gemmaPath, smollm2Path } = await import('../test/models.ts');
  const folder = mkdtempSync(path.join(os.tmpdir(), 'berth-picture-'));
  const names = Array.from({ length: MODELS }, (_, index) => {
    const [name, from] = index % 2 === 0 ? ['smollm2', smollm2Path()] : ['gemma3', gemmaPath()];
    const id = `${name}-${'abcdef'[Math.floor(index / 2)]}`;
    copyFileSync(from, path.join(folder, `${id}.gguf`));
    return id;
  });
  // Room for four: two of each, and what the node itself holds.
  const config = {
    modelsDir: folder,
    device: { memory: '1300MiB', lanes: 2 },
    defaults: { context: 1024, parallel: 4 },
  };
  const node = await startBerth({ config });
  let out = '';
  const io = { ...processIo(), out: (text) => (out += text), err: () => {}, stdoutIsTty: false };
  const berth = async (...args) => {
    out = '';
    await runCli([...args, '--admin-url', node.adminUrl], io);
    return out.trimEnd();
  };
  let isOver = false;
  const zipf = names.map((_, rank) => 1 / (rank + 1));
  const total = zipf.reduce((sum, weight) => sum + weight, 0);
  const pick = () => {
    let left = Math.random() * total;
    return names[zipf.findIndex((weight) => (left -= weight) < 0)] ?? names[0];
  };
  const client = async () => {
    while (!isOver) {
      await ask({
        url: node.url,
        model: pick(),
        prompt: 'Once upon a time',
        maxTokens: 48,
        extra: { ignore_eos: true },
      });
    }
  };
  const load = inFlight(
    IN_FLIGHT,
    Array.from({ length: IN_FLIGHT }, () => client),
  );
  try {
    const deadline = performance.now() + DEADLINE_MILLIS;
    for (const warm = performance.now() + 8_000; performance.now() < warm; ) await pause(100);
    while (performance.now() < deadline) {
      const ps = await berth('ps', '--all');
      const count = Object.fromEntries(STATES.map((state) => [state, ps.split(` ${state}  `).length - 1]));
      const coming = /^(\S+).* loading  /m.exec(ps)?.[1];
      if (!isTelling(count) || coming === undefined) {
        await pause(20);
        continue;
      }
      // Asked at once, while that model is still on its way.
      const why = await berth('why', coming, '--last', `${LAST}`);
      if (!isStory(why)) continue;
      writeFileSync(
        TEXT,
        `berth: ${MODELS} models, room for ${ROOM_FOR}, ${IN_FLIGHT} requests in flight\n$ berth ps --all\n${ps}\n\n$ berth why ${coming} --last ${LAST}\n${why}\n`,
      );
      return;
    }
    throw new Error('No telling moment came; try again on an idle machine.');
  } finally {
    isOver = true;
    await load;
    await node.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(realpathSync(process.argv[1])).href) {
  if (process.argv[2] === 'record') await record();
  writeFileSync(PICTURE, draw(readFileSync(TEXT, 'utf8')));
}
