import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { MIB } from '../core/ids.ts';
import { findMemoryGroups } from './cgroup.ts';
import type { MemoryGroups } from './cgroup.ts';

const root = mkdtempSync(join(tmpdir(), 'berth-cgroup-'));
afterEach(() => rmSync(root, { recursive: true }));

/** A machine made of plain files. */
function find(mounts: string, self: string, files: Record<string, string>): MemoryGroups {
  for (const [path, text] of Object.entries({ ...files, mounts, self })) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return findMemoryGroups({ mounts: join(root, 'mounts'), self: join(root, 'self') });
}
const hybrid = `cgroup ${root}/memory cgroup rw,memory 0 0\ncgroup2 ${root}/unified cgroup2 rw 0 0\n`;

describe('memory groups', () => {
  it('are made in v2 below the own group where it hands the memory controller down', () => {
    const groups = find(`cgroup2 ${root}/u cgroup2 rw 0 0\n`, '0::/a\n', {
      'u/a/cgroup.controllers': 'cpu memory pids',
      'u/a/cgroup.subtree_control': 'memory',
    });
    const group = groups.create('m');
    expect([groups.version, dirname(group?.path ?? '')]).toEqual(['v2', join(root, 'u/a')]);
    group?.limit(5 * MIB);
    expect(readFileSync(join(group?.path ?? '', 'memory.max'), 'utf8')).toBe(String(5 * MIB));
    group?.limit(0);
    expect(readFileSync(join(group?.path ?? '', 'memory.max'), 'utf8')).toBe('max');
    writeFileSync(join(group?.path ?? '', 'memory.events'), 'low 0\noom 2\noom_kill 1\n');
    expect(group?.oomKills()).toBe(1);
  });

  it('are made in v1 where v2 has no memory controller', () => {
    const groups = find(hybrid, '4:memory:/b\n0::/\n', {
      'memory/b/memory.limit_in_bytes': '9223372036854771712',
      'unified/cgroup.controllers': 'hugetlb',
    });
    const group = groups.create('m');
    expect(groups.version).toBe('v1');
    group?.add(42);
    group?.limit(7 * MIB);
    expect(readFileSync(join(group?.path ?? '', 'cgroup.procs'), 'utf8')).toBe('42');
    expect(readFileSync(join(group?.path ?? '', 'memory.limit_in_bytes'), 'utf8')).toBe(String(7 * MIB));
  });

  it('are none where nothing is mounted', () => {
    const groups = find('tmpfs /tmp tmpfs rw 0 0\n', '0::/\n', {});
    expect([groups.version, groups.create('m')]).toEqual(['none', null]);
  });

  it('of a node that was killed are swept up, those of a living one are not', () => {
    const dead = `berth-${2 ** 22 + 1}-old`;
    const alive = `berth-${process.pid}-mine`;
    mkdirSync(join(root, 'memory/b', dead), { recursive: true });
    mkdirSync(join(root, 'memory/b', alive));
    find(hybrid, '4:memory:/b\n', { 'memory/b/memory.limit_in_bytes': '1' });
    expect(existsSync(join(root, 'memory/b', dead))).toBe(false);
    expect(existsSync(join(root, 'memory/b', alive))).toBe(true);
  });
});
