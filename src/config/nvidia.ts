/**
 * NVIDIA GPUs of this machine, and who holds what of their memory: by NVML (`libnvidia-ml`, the library behind nvidia-smi; nvml.h), else by
 * nvidia-smi itself. Neither is there without a driver, and that is no error.
 */
import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';
import type { Bytes } from '../core/ids.ts';
import { MIB } from '../core/ids.ts';

export interface Gpu {
  readonly index: number;
  /** Names it for CUDA_VISIBLE_DEVICES, whatever the order. */
  readonly uuid: string;
  readonly name: string;
  readonly memoryBytes: Bytes;
  readonly freeBytes: Bytes;
}

export interface GpuProcess {
  readonly pid: number;
  /** On all GPUs. */
  readonly bytes: Bytes;
}

export interface GpuReader {
  gpus(): Gpu[];
  processes(): GpuProcess[];
}

/** What is used of koffi: a test gives a library of its own. */
export interface NativeLibrary {
  func(declaration: string): (...args: unknown[]) => unknown;
}

const SUCCESS = 0;
const NAME_BYTES = 96;
/** Processes that one GPU tells of at most. */
const MOST_PROCESSES = 512;
/** `NVML_VALUE_NOT_AVAILABLE`: some drivers (WSL) do not say what a process holds. */
const NOT_AVAILABLE = 0xffff_ffff_ffff_ffffn;

/** Reads by NVML. Throws where it can't be started. */
export function readByNvml(library: NativeLibrary): GpuReader {
  const init = library.func('int nvmlInit_v2()');
  const count = library.func('int nvmlDeviceGetCount_v2(_Out_ uint32_t *count)');
  const handle = library.func('int nvmlDeviceGetHandleByIndex_v2(uint32_t index, _Out_ void **device)');
  const nameOf = library.func('int nvmlDeviceGetName(void *device, _Out_ uint8_t *name, uint32_t length)');
  const uuidOf = library.func('int nvmlDeviceGetUUID(void *device, _Out_ uint8_t *uuid, uint32_t length)');
  const memoryOf = library.func('int nvmlDeviceGetMemoryInfo(void *device, _Out_ uint64_t *memory)');
  const running = library.func(
    'int nvmlDeviceGetComputeRunningProcesses_v3(void *device, _Inout_ uint32_t *count, _Out_ uint8_t *infos)',
  );
  const check = (what: string, status: unknown): void => {
    if (status !== SUCCESS) throw new Error(`NVML: ${what} answered ${String(status)}`);
  };
  check('nvmlInit_v2', init());

  const devices = (): unknown[] => {
    const found = [0];
    check('nvmlDeviceGetCount_v2', count(found));
    return Array.from({ length: found[0] ?? 0 }, (_, index) => {
      const device: unknown[] = [null];
      check('nvmlDeviceGetHandleByIndex_v2', handle(index, device));
      return device[0];
    });
  };
  const textOf = (read: (...args: unknown[]) => unknown, device: unknown): string => {
    const bytes = Buffer.alloc(NAME_BYTES);
    check('a name', read(device, bytes, NAME_BYTES));
    return bytes.toString('utf8', 0, Math.max(0, bytes.indexOf(0)));
  };

  return {
    gpus: () =>
      devices().map((device, index) => {
        // nvmlMemory_t: total, free, used.
        const memory = new BigUint64Array(3);
        check('nvmlDeviceGetMemoryInfo', memoryOf(device, memory));
        return {
          index,
          uuid: textOf(uuidOf, device),
          name: textOf(nameOf, device),
          memoryBytes: Number(memory[0]),
          freeBytes: Number(memory[1]),
        };
      }),
    processes: () =>
      together(
        devices().flatMap((device) => {
          // nvmlProcessInfo_t: pid, padding, usedGpuMemory, two ids of instances; 24 bytes.
          const size = 24;
          const infos = Buffer.alloc(size * MOST_PROCESSES);
          const found = [MOST_PROCESSES];
          check('nvmlDeviceGetComputeRunningProcesses_v3', running(device, found, infos));
          return Array.from({ length: found[0] ?? 0 }, (_, index) => {
            const bytes = infos.readBigUInt64LE(index * size + 8);
            return { pid: infos.readUInt32LE(index * size), bytes: bytes === NOT_AVAILABLE ? 0 : Number(bytes) };
          });
        }),
      ),
  };
}

/** Runs nvidia-smi with these arguments and returns what it prints. */
export type RunSmi = (args: readonly string[]) => string;

const FORMAT = '--format=csv,noheader,nounits';

export function readBySmi(run: RunSmi): GpuReader {
  const rows = (query: string): string[][] =>
    run([query, FORMAT])
      .split('\n')
      .filter((line) => line.trim() !== '')
      .map((line) => line.split(',').map((cell) => cell.trim()));
  // Sizes are MiB.
  const bytes = (cell = ''): Bytes => (/^\d+$/.test(cell) ? Number(cell) * MIB : 0);
  return {
    gpus: () =>
      rows('--query-gpu=index,uuid,memory.total,memory.free,name').flatMap(([index, uuid, total, free, ...name]) =>
        uuid === undefined || !/^\d+$/.test(index ?? '')
          ? []
          : [
              {
                index: Number(index),
                uuid,
                name: name.join(', '),
                memoryBytes: bytes(total),
                freeBytes: bytes(free),
              },
            ],
      ),
    processes: () =>
      together(
        rows('--query-compute-apps=pid,used_gpu_memory').flatMap(([pid, used]) =>
          /^\d+$/.test(pid ?? '') ? [{ pid: Number(pid), bytes: bytes(used) }] : [],
        ),
      ),
  };
}

/** A process may be on several GPUs. */
function together(all: readonly GpuProcess[]): GpuProcess[] {
  const sums = new Map<number, Bytes>();
  for (const { pid, bytes } of all) sums.set(pid, (sums.get(pid) ?? 0) + bytes);
  return [...sums].map(([pid, bytes]) => ({ pid, bytes }));
}

let opened: GpuReader | null | undefined;

/** Asked once a process; null: no driver, no GPU. */
export function openGpus(): GpuReader | null {
  if (opened === undefined) opened = openNvml() ?? openSmi();
  return opened;
}

function openNvml(): GpuReader | null {
  const path = process.platform === 'win32' ? 'nvml.dll' : 'libnvidia-ml.so.1';
  try {
    const koffi = createRequire(import.meta.url)('koffi') as { load(path: string): NativeLibrary };
    return readByNvml(koffi.load(path));
  } catch {
    return null;
  }
}

const SMI_MILLIS = 5_000;

function openSmi(): GpuReader | null {
  const reader = readBySmi((args) =>
    execFileSync('nvidia-smi', args, { encoding: 'utf8', timeout: SMI_MILLIS, stdio: ['ignore', 'pipe', 'ignore'] }),
  );
  try {
    return reader.gpus().length === 0 ? null : reader;
  } catch {
    return null;
  }
}

/** GPUs that this process may use, in the order of their numbers. Empty where there is none, or none can be asked. */
export function readGpus(reader: GpuReader | null = openGpus()): readonly Gpu[] {
  try {
    return reader?.gpus() ?? [];
  } catch {
    return [];
  }
}

/** What these processes hold of GPUs' memory; null: it can't be told. */
export function gpuBytesOf(pids: readonly number[], reader: GpuReader | null = openGpus()): Bytes | null {
  if (reader === null) return null;
  try {
    return reader
      .processes()
      .filter(({ pid }) => pids.includes(pid))
      .reduce((sum, { bytes }) => sum + bytes, 0);
  } catch {
    return null;
  }
}
