/** What models share: one device (`device`), or several, each with its own memory and lanes (`devices`). */
import type { Bytes } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import { bytes, choice, whole } from './kinds.ts';
import type { Machine } from './machine.ts';
import type { Gpu } from './nvidia.ts';

export interface DeviceConfig {
  /** Its name in berth.yaml; of a device that is not listed there: `cpu`, `gpu0`, … */
  readonly id: string;
  readonly memoryBytes: Bytes;
  readonly lanes: number;
  /** Left out: the CPU. */
  readonly gpu?: Gpu;
}

/** What an entry of `devices` may say besides its `id`. The same fields as of a setting: see options.ts. */
export const DEVICE_OPTIONS = {
  kind: {
    kind: choice('cpu', 'nvidia'),
    default: null,
    otherwise: 'nvidia where `gpu` is given, else cpu',
    about: 'What it is: a part of the CPU, or an NVIDIA GPU.',
  },
  gpu: {
    kind: whole(0, 255),
    default: null,
    otherwise: '0',
    about: 'The number of the GPU.',
  },
  memory: {
    kind: bytes(1),
    default: null,
    otherwise: '90 % of the GPU’s; 70 % of the machine’s, in equal parts for all devices of the CPU',
    about: 'Memory that all models on it together may hold.',
  },
  lanes: {
    kind: whole(1, 4096),
    default: null,
    otherwise: '1 of a GPU; the cores in equal parts for all devices of the CPU',
    about: 'Units of compute to share between its models.',
  },
} as const;

export interface DeviceEntry {
  readonly id: string;
  readonly values: {
    readonly kind?: 'cpu' | 'nvidia';
    readonly gpu?: number;
    readonly memory?: Bytes;
    readonly lanes?: number;
  };
}

/** `device`, its flags and variables; null: not set. */
export interface ShortForm {
  readonly kind: 'auto' | 'cpu' | 'nvidia';
  readonly gpu: number | null;
  readonly memory: Bytes | null;
  readonly lanes: number | null;
}

const CPU_SHARE = 0.7;
const GPU_SHARE = 0.9;

/**
 * The node's devices, at least one. `wantsGpu`: a model is listed whose engine computes on a GPU. Throws `config_invalid` where a GPU
 * is asked for that is not there.
 */
export function devicesOf(
  short: ShortForm,
  listed: readonly DeviceEntry[],
  wantsGpu: boolean,
  machine: Machine,
): DeviceConfig[] {
  if (listed.length > 0) return listedDevices(short, listed, machine);
  const { kind, gpu: index, memory, lanes } = short;
  const deviceOn = (gpu: Gpu): DeviceConfig => ({
    id: `gpu${gpu.index}`,
    memoryBytes: memory ?? Math.floor(gpu.memoryBytes * GPU_SHARE),
    lanes: lanes ?? 1,
    gpu,
  });
  const found = kind === 'cpu' || (kind === 'auto' && !wantsGpu) ? [] : (machine.gpus?.() ?? []);
  if (kind === 'auto' && index === null && found.length > 0) return found.map(deviceOn);
  if (kind === 'nvidia' || (kind === 'auto' && wantsGpu && (index ?? 0) > 0))
    return [deviceOn(gpuNumber(index ?? 0, found, 'device.gpu'))];
  const [gpu] = found.filter((one) => one.index === index);
  if (gpu !== undefined) return [deviceOn(gpu)];
  const memoryBytes = memory ?? Math.floor(machine.usableMemoryBytes * CPU_SHARE);
  return [{ id: 'cpu', memoryBytes, lanes: lanes ?? machine.cores }];
}

function listedDevices(short: ShortForm, listed: readonly DeviceEntry[], machine: Machine): DeviceConfig[] {
  const set = (['gpu', 'memory', 'lanes'] as const).find((name) => short[name] !== null);
  const double = set ?? (short.kind === 'auto' ? undefined : 'kind');
  if (double !== undefined) {
    throw new BerthError(
      'config_invalid',
      `device.${double}: \`devices\` is listed, and each device has its own: leave out \`device\`, its flags and its variables`,
      { param: `device.${double}` },
    );
  }
  const isGpu = ({ values }: DeviceEntry): boolean =>
    (values.kind ?? (values.gpu === undefined ? 'cpu' : 'nvidia')) === 'nvidia';
  const onCpu = listed.filter((entry) => !isGpu(entry)).length;
  const gpus = listed.some(isGpu) ? (machine.gpus?.() ?? []) : [];
  return listed.map((entry): DeviceConfig => {
    const { memory, lanes, gpu: index = 0 } = entry.values;
    if (!isGpu(entry)) {
      const memoryBytes = memory ?? Math.floor((machine.usableMemoryBytes * CPU_SHARE) / onCpu);
      return { id: entry.id, memoryBytes, lanes: lanes ?? Math.max(1, Math.floor(machine.cores / onCpu)) };
    }
    const gpu = gpuNumber(index, gpus, `devices.${entry.id}.gpu`);
    return { id: entry.id, memoryBytes: memory ?? Math.floor(gpu.memoryBytes * GPU_SHARE), lanes: lanes ?? 1, gpu };
  });
}

function gpuNumber(index: number, found: readonly Gpu[], param: string): Gpu {
  const gpu = found.find((one) => one.index === index);
  if (gpu !== undefined) return gpu;
  throw new BerthError(
    'config_invalid',
    `${param}: there is no NVIDIA GPU ${index} (found ${found.length}, by NVML or nvidia-smi): set \`kind: cpu\`, or another number`,
    { param },
  );
}

/** What works but is probably not meant, a line each. */
export function deviceWarnings(devices: readonly DeviceConfig[], machine: Machine): string[] {
  const [first] = devices;
  const one = devices.length === 1 ? first : undefined;
  const warnings: string[] = [];
  for (const { id, memoryBytes, gpu } of devices) {
    const name = one === undefined ? `devices.${id}.memory` : 'device.memory';
    if (gpu !== undefined && memoryBytes > gpu.memoryBytes)
      warnings.push(`${name} is ${memoryBytes} bytes, but the GPU has ${gpu.memoryBytes}: loads will fail`);
  }
  const onCpu = devices.filter(({ gpu }) => gpu === undefined);
  const name = one === undefined ? 'of all devices of the CPU together' : 'device';
  const lanes = onCpu.reduce((sum, device) => sum + device.lanes, 0);
  if (lanes > machine.cores) {
    const what = one === undefined ? `lanes ${name} are` : `${name}.lanes is`;
    warnings.push(`${what} ${lanes}, but the process may use ${machine.cores} cores: models will slow each other down`);
  }
  const memoryBytes = onCpu.reduce((sum, device) => sum + device.memoryBytes, 0);
  if (memoryBytes > machine.usableMemoryBytes) {
    const what = one === undefined ? `memory ${name} is` : `${name}.memory is`;
    warnings.push(
      `${what} ${memoryBytes} bytes, but only ${machine.usableMemoryBytes} can be used: models may be killed`,
    );
  }
  return warnings;
}
