import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { watchConfig } from './watch.ts';

test('each save is told once; a bad save is told as an error and changes nothing', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'berth-watch-'));
  const path = join(folder, 'berth.yaml');
  writeFileSync(path, 'device: {lanes: 1}\n');
  const heard: string[] = [];
  let hear: (() => void) | undefined;
  const next = async (): Promise<void> => {
    const { promise, resolve } = Promise.withResolvers<void>();
    hear = resolve;
    await promise;
  };
  const tell = (text: string): void => {
    heard.push(text);
    hear?.();
  };
  const watching = await watchConfig(
    path,
    ({ config }) => tell(`lanes ${config.devices[0]?.lanes} port ${config.http.port}`),
    (error) => tell(error.message),
    { env: {}, flags: { 'http.port': '7' } },
  );
  let told = next();
  writeFileSync(path, 'device: {lanes: 2}\n');
  await told;
  told = next();
  writeFileSync(path, 'device: {lane: 2}\n');
  await told;
  // Editors write beside the file and rename: as good as a save. It takes the error back, so it is told though nothing changed.
  told = next();
  writeFileSync(`${path}.new`, 'device: {lanes: 2}\n');
  renameSync(`${path}.new`, path);
  await told;
  await watching.close();
  rmSync(folder, { recursive: true });
  expect(heard).toEqual([
    'lanes 2 port 7',
    'berth.yaml:1 device.lane: unknown field; did you mean `lanes`?',
    'lanes 2 port 7',
  ]);
});
