import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { startChildNode } from './child-node.ts';
import { stubTerminal } from './stub-node.ts';

test('a node that can’t start is heard: its own error is thrown', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'berth-child-'));
  try {
    writeFileSync(join(folder, 'berth.yaml'), 'device: { lanes: many }\n');
    const { io, err } = stubTerminal({ BERTH_HOME: folder }, { cwd: folder });
    await expect(startChildNode(io, ['--config', 'berth.yaml'])).rejects.toMatchObject({ code: 'config_invalid' });
    expect(err()).toBe('');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
