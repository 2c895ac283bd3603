/** The README taken literally: each line of its shell blocks, on a node with a fake engine and a small file under the name it uses. */
import { execFile, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Server } from '../../bench/lib/servers.ts';
import { startBerth } from '../../bench/lib/servers.ts';
import { TINY_METADATA, tinyGguf } from '../tiny-gguf.ts';

const root = join(import.meta.dirname, '..', '..');
const readme = readFileSync(join(root, 'README.md'), 'utf8');

/** The commands of all `sh` blocks; a line that ends with a backslash goes on in the next. */
const commands = [...readme.matchAll(/^```sh\n(.*?)^```$/gms)].flatMap(([, block = '']) =>
  block
    .replaceAll('\\\n', ' ')
    .split('\n')
    .filter((line) => line.trim() !== ''),
);
const ours = commands.filter((line) => !line.startsWith('npm '));

const chatModel = tinyGguf({ metadata: { ...TINY_METADATA, 'tokenizer.chat_template': '{{ messages }}' } });
const folder = mkdtempSync(join(tmpdir(), 'berth-readme-'));
let node: Server;
let env: NodeJS.ProcessEnv;

beforeAll(async () => {
  const modelsDir = join(folder, 'models');
  mkdirSync(modelsDir);
  writeFileSync(join(modelsDir, 'smollm2-135m.gguf'), chatModel);
  node = await startBerth({ config: { modelsDir }, engine: 'fake' });
  env = {
    ...process.env,
    BERTH_HOME: folder,
    BERTH_MODELS_DIR: modelsDir,
    BERTH_PORT: new URL(node.url).port,
    BERTH_ADMIN_PORT: new URL(node.adminUrl ?? '').port,
  };
});
afterAll(async () => {
  // Not there if it did not start: that error is the one to be seen.
  await (node as Server | undefined)?.stop();
  rmSync(folder, { recursive: true, force: true });
});

function shell(line: string): Promise<{ code: number; out: string }> {
  return new Promise((resolve) => {
    const child = execFile('sh', ['-c', line], { cwd: root, env, timeout: 30_000 }, (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : Number(error.code ?? -1), out: error === null ? stdout : stderr }),
    );
    child.stdin?.end();
  });
}

test('its two commands are `npm start` and `npm test`', () =>
  expect(commands.filter((line) => line.startsWith('npm '))).toEqual(['npm start', 'npm test']));

const hasCurl = spawnSync('curl', ['--version']).status === 0;

test.skipIf(!hasCurl)('each other line works as it stands', { timeout: 60_000 }, async () => {
  expect(ours.length).toBeGreaterThan(5);
  const seen: string[] = [];
  for (const line of ours) {
    const { code, out } = await shell(line.replace('http://127.0.0.1:8420', node.url));
    expect(`${line}: ${code}\n${code === 0 ? '' : out}`).toBe(`${line}: 0\n`);
    seen.push(out);
  }
  const said = (word: string): string => seen[ours.findIndex((line) => line.includes(word))] ?? '';
  expect(JSON.parse(said('curl '))).toMatchObject({ object: 'chat.completion', model: 'smollm2-135m' });
  expect(said('berth ps')).toMatch(/^NAME .*\nsmollm2-135m .* loaded /);
  expect(said('berth why')).toContain('ensure loaded');
  expect(said('berth stop')).toBe('smollm2-135m is off the device.\n');
});

test('a model is added by the path of a file, as it says', async () => {
  const file = join(folder, 'another.gguf');
  writeFileSync(file, chatModel);
  expect(await shell(`bin/berth pull ${file}`)).toMatchObject({ code: 0 });
  expect((await shell('bin/berth ls -q')).out).toBe('another\nsmollm2-135m\n');
});
