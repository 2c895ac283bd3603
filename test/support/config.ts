/** A berth.yaml in a folder of its own, on a machine that does not exist; both end with the test file. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect } from 'vitest';
import type { ConfigRequest, LoadedConfig } from '../../src/config.ts';
import { loadConfig } from '../../src/config.ts';
import { BerthError } from '../../src/errors.ts';

export const machine = {
  totalMemoryBytes: 100_000,
  usableMemoryBytes: 50_000,
  cores: 4,
  home: '/home/somebody',
  packageDir: '/home/somebody/berth',
};

export const folder = mkdtempSync(join(tmpdir(), 'berth-config-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** `yaml` null: there is no file. */
export function load(yaml: string | null, rest: Partial<ConfigRequest> = {}): LoadedConfig {
  const path = yaml === null ? null : join(folder, 'berth.yaml');
  if (path !== null) writeFileSync(path, yaml ?? '');
  return loadConfig({ path, env: {}, cwd: folder, machine, ...rest });
}

/** What is said of a file that is refused, line by line. */
export function complaint(yaml: string, rest: Partial<ConfigRequest> = {}): string[] {
  try {
    load(yaml, rest);
  } catch (error) {
    expect(error).toBeInstanceOf(BerthError);
    expect((error as BerthError).code).toBe('config_invalid');
    return (error as BerthError).message.split('\n');
  }
  throw new Error('it was accepted');
}
