import { describe, expect, it } from 'vitest';
import { MIB } from '../core/ids.ts';
import type { NativeLibrary } from './nvidia.ts';
import { gpuBytesOf, readByNvml, readBySmi, readGpus } from './nvidia.ts';

/** As nvml.h has it: two GPUs, a process on both and one on the second. */
function fakeLibrary(initStatus = 0): NativeLibrary {
  const processes = [
    [[11, 100n]],
    [
      [11, 50n],
      [12, 7n],
    ],
  ] as const;
  const text = (value: string) => (_: unknown, out: Buffer) => {
    out.write(`${value}\0`);
    return 0;
  };
  const functions: Record<string, (...args: never[]) => number> = {
    nvmlInit_v2: () => initStatus,
    nvmlDeviceGetCount_v2: (out: number[]) => {
      out[0] = 2;
      return 0;
    },
    nvmlDeviceGetHandleByIndex_v2: (index: number, out: unknown[]) => {
      out[0] = index;
      return 0;
    },
    nvmlDeviceGetName: text('NVIDIA H100 80GB HBM3'),
    nvmlDeviceGetUUID: text('GPU-1234'),
    nvmlDeviceGetMemoryInfo: (_: unknown, out: BigUint64Array) => {
      out.set([85_899_345_920n, 80_000_000_000n, 5_899_345_920n]);
      return 0;
    },
    nvmlDeviceGetComputeRunningProcesses_v3: (device: number, count: number[], out: Buffer) => {
      const own = processes[device] ?? [];
      count[0] = own.length;
      for (const [index, [pid, bytes]] of own.entries()) {
        out.writeUInt32LE(pid, index * 24);
        out.writeBigUInt64LE(bytes, index * 24 + 8);
      }
      return 0;
    },
  };
  return {
    func(declaration) {
      const name = /(\w+)\(/.exec(declaration)?.[1] ?? '';
      return functions[name] as (...args: unknown[]) => unknown;
    },
  };
}

describe('NVIDIA GPUs', () => {
  it('are found by NVML', () => {
    const reader = readByNvml(fakeLibrary());
    expect(readGpus(reader)).toEqual([
      {
        index: 0,
        uuid: 'GPU-1234',
        name: 'NVIDIA H100 80GB HBM3',
        memoryBytes: 85_899_345_920,
        freeBytes: 80_000_000_000,
      },
      expect.objectContaining({ index: 1 }),
    ]);
    expect(gpuBytesOf([11, 99], reader)).toBe(150);
    expect(gpuBytesOf([12], reader)).toBe(7);
  });

  it('are none where NVML can’t be started', () => {
    expect(() => readByNvml(fakeLibrary(9))).toThrow('nvmlInit_v2 answered 9');
    expect(readGpus(null)).toEqual([]);
    expect(gpuBytesOf([1], null)).toBeNull();
  });

  it('are found by nvidia-smi, in the form that it prints', () => {
    const reader = readBySmi(([query]) =>
      query?.startsWith('--query-gpu=')
        ? '0, GPU-8a56f5ac-0000-0000-0000-000000000000, 81559, 81007, NVIDIA H100 80GB HBM3\n1, GPU-9b, 24564, [N/A], NVIDIA RTX, special\n'
        : '4242, 1024\n4243, [N/A]\n4242, 8\n',
    );
    expect(reader.gpus()).toEqual([
      {
        index: 0,
        uuid: 'GPU-8a56f5ac-0000-0000-0000-000000000000',
        name: 'NVIDIA H100 80GB HBM3',
        memoryBytes: 81_559 * MIB,
        freeBytes: 81_007 * MIB,
      },
      { index: 1, uuid: 'GPU-9b', name: 'NVIDIA RTX, special', memoryBytes: 24_564 * MIB, freeBytes: 0 },
    ]);
    expect(gpuBytesOf([4242, 4243], reader)).toBe(1_032 * MIB);
  });

  it('are none where nvidia-smi says that it has failed', () => {
    const text = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n";
    expect(readGpus(readBySmi(() => text))).toEqual([]);
    expect(
      readGpus(
        readBySmi(() => {
          throw new Error('not found');
        }),
      ),
    ).toEqual([]);
  });
});
