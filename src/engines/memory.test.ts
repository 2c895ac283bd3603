import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { groupHoldsMemory, parseStatus, readProcessMemory } from './memory.ts';

const proc = mkdtempSync(join(tmpdir(), 'berth-proc-'));
afterAll(() => rmSync(proc, { recursive: true }));

describe('memory of a process', () => {
  it('counts anonymous and shared memory as private, files apart', () => {
    const status = 'Name:\tnode\nVmRSS:\t  900 kB\nRssAnon:\t  500 kB\nRssFile:\t  380 kB\nRssShmem:\t   20 kB\n';
    expect(parseStatus(status)).toEqual({
      residentBytes: 900 * 1024,
      privateBytes: 520 * 1024,
      mappedFileBytes: 380 * 1024,
    });
  });

  it('counts everything as private for a kernel that does not split it', () => {
    expect(parseStatus('VmRSS:\t900 kB\n')?.privateBytes).toBe(900 * 1024);
  });

  it('reads nothing from a zombie or a process that is gone', () => {
    expect(parseStatus('Name:\tnode\nState:\tZ (zombie)\n')).toBeNull();
    expect(readProcessMemory(1, join(proc, 'absent'))).toBeNull();
  });

  it.runIf(process.platform === 'linux')('sees its own process', () => {
    const own = readProcessMemory(process.pid);
    expect(own?.privateBytes).toBeGreaterThan(1024 * 1024);
    expect(own?.residentBytes).toBeGreaterThanOrEqual(own?.privateBytes ?? Infinity);
  });
});

describe('a process group', () => {
  it('holds memory until its last process is at most a zombie, whatever the name', () => {
    const add = (pid: number, state: string, group: number): void => {
      mkdirSync(join(proc, String(pid)), { recursive: true });
      writeFileSync(join(proc, String(pid), 'stat'), `${pid} (a) R 7 (b) ${state} 1 ${group} ${group} 0`);
    };
    add(10, 'S', 10);
    add(11, 'Z', 11);
    expect(groupHoldsMemory(10, proc)).toBe(true);
    expect(groupHoldsMemory(11, proc)).toBe(false);
    add(12, 'R', 11);
    expect(groupHoldsMemory(11, proc)).toBe(true);
    expect(groupHoldsMemory(10, join(proc, 'absent'))).toBeNull();
  });
});
