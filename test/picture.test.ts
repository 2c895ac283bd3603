/** docs/img/overcommit.svg is what scripts/picture.mjs draws from the recording beside it, and shows well wherever the README is read. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { draw } from '../scripts/picture.mjs';

const read = (name: string): string => readFileSync(new URL(`../docs/img/${name}`, import.meta.url), 'utf8');
const recording = read('overcommit.txt');
const svg = read('overcommit.svg');

test('the picture is drawn from its recording (else: node_modules/.bin/node scripts/picture.mjs)', () =>
  expect(draw(recording)).toBe(svg));

test('it shows every word of the recording, in order', () => {
  const shown = svg
    .slice(svg.indexOf('<path'))
    .replace(/<[^>]+>/g, ' ')
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&amp;', '&');
  const words = (text: string): string => text.replace(/\s+/g, '');
  expect(words(shown)).toBe(words(recording.slice(recording.indexOf('\n'))));
});

test('it is small, whole in itself, and names no path of the machine', () => {
  expect(svg.length).toBeLessThan(40_000);
  expect(svg).not.toMatch(/href|url\(|<script|@import|\/(?:home|root|work|tmp)\//);
});

test('what means something in XML is written so that it means nothing', () => {
  expect(draw('a < b\n$ berth ps\nx & <y>\n')).toContain('x &amp; &lt;y&gt;');
});
